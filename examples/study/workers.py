"""Processes that run the study's jobs."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from examples.study import installed, runs
from examples.study.data import Pool
from examples.study.plan import Job
from examples.study.world import World

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Workers:
    """Processes that run jobs, one thread each where there are several."""

    def __init__(self, folder: Path, world: World, count: int) -> None:
        self.folder, self.world = folder, world
        context = multiprocessing.get_context("forkserver")
        # The libraries are imported once for all workers.
        context.set_forkserver_preload([installed.__name__, runs.__name__])
        self._pool = ProcessPoolExecutor(count, context, _start, (count,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, stage: str, jobs: Iterable[Job], seeds: Iterable[int]) -> None:
        """Make the data that the jobs need, then run those that are not done.

        The base model is evaluated on all of `seeds`, as the jobs' prompts have it.
        """
        by_name = {job.name: job for job in jobs}
        missing = [j for j in by_name.values() if runs.result_of(self.folder, j) is None]
        kinds = {job.prompts for job in by_name.values()}
        self._all(
            f"{stage}: data",
            [
                (_prepare, (self.folder, seed, kind, [j for j in missing if j.seed == seed]))
                for seed in seeds
                for kind in kinds
            ],
        )
        self._all(stage, [(runs.run, (self.folder, job)) for job in missing])

    def _all(self, stage: str, calls: Sequence[Call]) -> None:
        started = time.perf_counter()
        waiting = [self._pool.submit(function, *given, self.world) for function, given in calls]
        for number, done in enumerate(as_completed(waiting), start=1):
            done.result()  # raises what the job raised
            seconds = time.perf_counter() - started
            print(f"{stage}: {number} of {len(calls)}, {seconds:.0f} s", flush=True)


def _start(count: int) -> None:
    import torch

    runs.quiet()
    if count > 1:
        torch.set_num_threads(1)


def _prepare(folder: Path, seed: int, prompts: str, jobs: list[Job], world: World) -> None:
    pools = {(pool := Pool.of(folder, job, world)).folder: pool for job in jobs}
    for place, pool in pools.items():
        pool.make([job for job in jobs if Pool.of(folder, job, world).folder == place])
    runs.base_result(folder, prompts, seed, world)
    if jobs and prompts == "evaluation":
        pool = Pool(folder, seed, world)
        pool.make([])
        runs.base_harm(pool)

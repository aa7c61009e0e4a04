"""Started by torchrun: bytes of the tensors that DeepSpeed's processes hold, as JSON lines."""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.plan.small import CASES, case_config, small_model
from tglo.plan.memory import REDUCE_BUCKET, WIDTH
from tglo.plan.profile import Sizes
from tglo.train import processes
from tglo.train.ema import Ema
from tglo.train.engines.choose import make_engine, start_processes


def storages() -> dict[int, Tensor]:
    """Address of a storage -> a tensor that lives in it, of all tensors of this process."""
    # By exact type: a compiler's fake tensors have no storage.
    kinds = (Tensor, nn.Parameter)
    found = [o for o in gc.get_objects() if type(o) in kinds and o.device.type == "cpu"]
    found += [t.grad for t in found if t.is_leaf and t.grad is not None]
    return {t.untyped_storage().data_ptr(): t for t in found if t.untyped_storage().nbytes()}


def settle() -> None:
    """Wait until gloo's threads have let go of what they reduced.

    The caller of a collective goes on before the thread that did it has dropped its tensors, for which that thread
    needs the interpreter's lock. While it waits for the lock it wakes every 5 ms, so it has dropped them once it
    sleeps and has not run since an earlier look, with the lock free in between.
    """
    seen = None
    while (now := _collectives()) != seen:
        assert now, "gloo's threads have another name now"
        seen = now if all(state == "S" for _, state, _ in now) else None
        time.sleep(0.02)


def _collectives() -> list[tuple[str, str, str]]:
    """Of each thread that does collectives: its number, its state, and how often it has gone to sleep."""
    found = []
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text() == "pt_gloo_runloop\n":
            lines = (thread / "status").read_text().splitlines()
            words = {
                name: rest.split() for name, _, rest in (line.partition(":") for line in lines)
            }
            found.append((thread.name, words["State"][0], words["voluntary_ctxt_switches"][0]))
    return sorted(found)


def held(before: set[int], bucket: int) -> int:
    """Bytes of new storages that are not a reduce bucket."""
    gc.collect()
    new = [t.untyped_storage().nbytes() for at, t in storages().items() if at not in before]
    return sum(size for size in new if size != bucket)


@contextmanager
def nothing_sent() -> Iterator[None]:
    """Inside the block the collectives of the update and of DeepSpeed's gathering raise."""
    names = ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor")
    with ExitStack() as patches:
        for name in names:
            error = AssertionError(f"{name} was called")
            patches.enter_context(mock.patch.object(dist, name, side_effect=error))
        yield


def main(output: Path) -> None:
    lines = []
    for case in CASES:
        config = case_config(case)
        device = start_processes(config)
        gc.collect()
        before = set(storages())
        module = small_model(case.train)
        sizes = Sizes.of(module)
        engine = make_engine(config, module, device)
        bucket = REDUCE_BUCKET * WIDTH[case.precision]
        inputs = torch.ones(2, module[0].in_features, dtype=engine.dtype)
        after_backward = 0
        for update in range(2):  # moments are made by the first one
            for _ in range(case.accumulation):
                engine.backward(engine.model(inputs).float().square().mean())
                if update:
                    settle()
                    after_backward = max(after_backward, held(before, bucket))
            engine.step(1e-3)
        settle()
        after_update = held(before, bucket)
        average = Ema(0.5, engine)
        with nothing_sent():
            average.update(100)
        averaged = held(before, bucket) - after_update
        whole, weights = average.whole(), engine.state_dict()
        if processes.rank() == 0:  # of weights that did not change
            assert whole.keys() == weights.keys()
            assert all(torch.equal(whole[name], weights[name]) for name in whole)
        lines.append(
            dataclasses.asdict(case)
            | {"backward": after_backward, "update": after_update, "average": averaged}
            | {"sizes": dataclasses.asdict(sizes)}
        )
        del average, whole, weights
        engine.model.destroy()
        del engine, module
        gc.collect()
    if processes.rank() == 0:
        output.write_text(json.dumps(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

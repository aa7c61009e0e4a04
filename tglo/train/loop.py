"""The training loop. `_step` is the whole method: draw, predict twice, compare, update."""

from __future__ import annotations

import logging
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tglo.cache.verify import Verification
from tglo.files import write_json
from tglo.objectives.micro_batch import BatchIds
from tglo.stopping import Stopped
from tglo.train import export as exporting
from tglo.train import processes, resume
from tglo.train.config import TrainConfig
from tglo.train.config_checks import check
from tglo.train.config_files import to_plain
from tglo.train.engines.choose import start_processes
from tglo.train.engines.optimizers import learning_rate
from tglo.train.guard import Guard, seed_dropout
from tglo.train.hung import HungStep
from tglo.train.launching import meeting_others, warn_if_alone
from tglo.train.lock import StopSignal, held
from tglo.train.reports.metrics import Clock, Health
from tglo.train.reports.reports import Reports, report_noise_floor
from tglo.train.reports.start import report_start
from tglo.train.run import Run, prepare
from tglo.train.same_ranks import refuse_ranks_apart
from tglo.train.saving import Saver

log = logging.getLogger("tglo")


@dataclass(frozen=True)
class TrainResult:
    """The end of a run."""

    folder: Path
    steps: int
    """Updates done, those before a resume included."""
    finished: bool
    """False if a signal stopped the run; the same command resumes from its checkpoint."""
    export: Path | None
    """The exported folder or LoRA, if the run finished and was to write one."""
    metrics: dict[str, float]
    """The last line of metrics.jsonl."""
    stopped_by: int | None = None
    """The signal to this process that stopped the run."""

    def raise_if_stopped(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, and Stopped after another signal or another rank's."""
        if self.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.finished:
            raise Stopped("a signal")


def train(config: TrainConfig) -> TrainResult:
    """Train as `config` says, resuming from the output folder's newest complete checkpoint.

    ValueError for settings or data that cannot work (before a model is loaded where that
    can be known), CheckpointError if a checkpoint cannot be written, FloatingPointError instead of
    an update that is not finite. With several processes every rank raises.
    """
    check(config)
    warn_if_alone(config)
    with meeting_others(config.engine):
        device = start_processes(config)
    refuse_ranks_apart(config)
    folder, total = config.output.folder, config.optimizer.steps
    with (
        held(folder),
        StopSignal() as stop,
        HungStep(config.engine) as hung,
        processes.naming_lost_peers(),
    ):
        run = prepare(config, device)
        step = resume.load(run) if config.output.resume else resume.begin_anew(run)
        processes.on_main(lambda: _write_settings(run))
        report_start(run, step)
        verifying = _start_verifying(run)
        health, clock, reports = Health(device), Clock(), Reports(run, step)
        guard, saver = Guard(run.engine, config.engine.find_bad_gradients), Saver(run)
        stop.defer()
        with ExitStack() as ending:
            ending.callback(reports.close)
            ending.callback(run.batches.close)
            ending.enter_context(run.checkpoints.finished())
            reports.show(exporting.make_up(run, step), step)
            stopping = False
            while step < total and not stopping:
                hung.begin(step + 1)
                (stopping, writing), norm = _step(run, step, guard, health, clock, stop)
                step += 1
                last = stopping or step == total
                reports.advance()
                output = config.output
                report = last or step % output.log_every == 0
                save = last or step % output.save_every == 0
                validate = exporting.is_due(run, step)
                if report or save or validate:
                    guard.settle()
                if report:
                    reports.write(step, health, clock, norm)
                hung.finish()
                run.checkpoints.look(writing)
                with reports.aside():
                    if save:
                        if verifying is not None:
                            processes.together(verifying.wait)
                            verifying = None
                        saver.save(step, last=last)
                    if validate and (step == total or not stopping):
                        reports.show(exporting.validate(run, step), step)
        finished, export = step >= total, None
        if not finished:
            how = "" if config.output.resume else " without --output.no-resume"
            by = "interrupted" if stop.number == signal.SIGINT else "stopped by a signal"
            if processes.rank() == 0:
                log.warning("%s after step %d; the same command%s resumes", by, step, how)
        elif config.output.export:
            export = exporting.export(run, folder / "export")
    return TrainResult(
        folder, step, finished, export, reports.last, None if finished else stop.number
    )


def _write_settings(run: Run) -> None:
    folder = run.config.output.folder
    run.threshold.save(folder / "threshold.json")
    write_json(folder / "config.json", to_plain(run.config))


def _start_verifying(run: Run) -> Verification | None:
    """Start to read this rank's share of the cache's files, unless the configuration forbids it."""
    if not run.config.data.verify:
        return None
    return Verification(run.batches.drawer.cache, processes.rank(), processes.world_size())


def _step(
    run: Run, step: int, guard: Guard, health: Health, clock: Clock, stop: StopSignal
) -> tuple[tuple[bool, bool], Tensor | float]:
    """Make one update. Return whether a signal asks to stop and a checkpoint is still being written, on any rank; and
    the gradient's norm.
    """
    config, engine, reference = run.config, run.engine, run.reference
    if config.engine.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()
    seen: list[BatchIds] = []
    losses = torch.zeros((), dtype=torch.float64, device=engine.device)
    for micro in range(config.optimizer.accumulation):
        with clock.part("data"):
            batch = run.batches.get(step, micro)
            seen.append(batch.ids)
            seed_dropout(config.seed, step, micro)
        with clock.part("reference"), engine.autocast():
            reference_answer = None if reference is None else reference.predict(batch.draw)
        with clock.part("policy"), engine.autocast():
            policy_answer = run.family.predict(engine.model, batch.draw)
        with clock.part("loss"):
            batch = batch.answered(policy_answer, reference_answer)
            loss, stats = run.objective(batch, run.temperature.value)
            losses += loss.detach()
            health.add(loss, stats)
        with clock.part("backward"):
            engine.backward(loss)
    with clock.part("update"):
        flags = guard.check(step, losses, seen, (stop.asked, run.checkpoints.writing))
        norm = engine.step(learning_rate(config.optimizer, step))
        if run.ema is not None:
            run.ema.update(step)
    untouched = step == 0 and run.batches.reference_errors is not None
    if untouched or run.temperature.calibrating(step):
        square = health.mean_square()
        run.temperature.observe(step, square)
        if untouched:
            report_noise_floor(run, square)
    if config.objective.update_reference_every_epoch and run.epoch(step + 1).is_integer():
        resume.renew_reference(run)
    return flags, norm

"""How a run resumes from a checkpoint."""

from __future__ import annotations

import json
import logging
import math
from operator import attrgetter
from pathlib import Path
from typing import Any

from tglo.files import DamagedFile
from tglo.threshold.weights import Weighing
from tglo.train import processes
from tglo.train.config_files import to_plain, with_moved_keys
from tglo.train.earlier import set_aside
from tglo.train.engines.layouts import layout_of, refusal
from tglo.train.global_batch import changed_batch
from tglo.train.run import Run
from tglo.train.same_data import changes
from tglo.train.saved_state import SavedState

log = logging.getLogger("tglo")
ANEW = "begin anew with --output.no-resume, which sets this run aside, or use another output.folder"
DECIDING = (
    "model.train",
    "model.lora_rank",
    "model.base_weights",
    "optimizer.name",
)
"""Settings that decide which tensors a checkpoint has, and what they were trained for."""
UNTOLD = ("engine.hung_after", "engine.hung_seconds")
"""Settings that change nothing of what is computed."""
WEIGHING = ("name", "confidence", "weight_normalisation", "balance")
"""Settings that decide what is recorded of the weights."""


def begin_anew(run: Run) -> int:
    """Set aside what an earlier run left in the output folder; returns 0 updates done."""
    aside = processes.from_main(lambda: set_aside(run.config.output.folder))
    if aside is not None:
        _warn(
            "beginning anew: the earlier run was moved to %s; `tglo export %s --output FOLDER` exports "
            "it, and --output.folder %s resumes with it",
            aside,
            aside,
            aside,
        )
    return 0


def load(run: Run, *, to_export: bool = False) -> int:
    """Restore the newest checkpoint that is whole and fits; returns the number of updates done (0: none).

    Nothing is copied before everything in it was compared with the run. ValueError, on every rank, if
    there are checkpoints but none can be used, or if settings or data changed so that one must not
    be (data do not matter `to_export`).
    """
    for folder, plain in run.checkpoints.whole():
        base = {} if to_export else run.base.digests()  # collective: not inside the try
        try:
            state = SavedState.parse(folder, plain)
            _refuse_other_settings(run, folder, state, to_export)
            if not to_export:
                _refuse_other_data(run, folder, state, {**run.digests, **base})
            _check(run, folder, state)
        except DamagedFile as error:
            run.checkpoints.refuse(folder, str(error))
        else:
            return _restore(run, folder, state, to_export)
    for problem in run.checkpoints.refused.values():
        raise ValueError(
            f"none of the checkpoints in {run.checkpoints.root} can be used ({problem}); put a whole "
            f"one there, or {ANEW}"
        )
    return 0


def renew_reference(run: Run) -> None:
    """Set pi_ref <- pi_theta; collective. What an objective knows of r begins anew with it."""
    assert run.reference is not None
    run.reference.update(run.engine.state_dict())
    run.objective.restore({})


def _restore(run: Run, folder: Path, state: SavedState, to_export: bool) -> int:
    before = with_moved_keys(state.config)
    if not to_export:
        _warn_of_changes(run, before, state)
    run.engine.load(folder, weights_only=to_export)
    run.temperature.restore(state.temperature)
    run.objective.restore(state.objective)
    ema, reference = run.ema, run.reference
    if ema is not None and _had_ema(state):
        processes.together(lambda: ema.load(folder))
    elif ema is not None:
        ema.start()
        log.info("%s has no moving average: it starts from the weights of now", folder)
    if _renewed(run) and _renewed_before(state):
        assert reference is not None
        processes.together(lambda: reference.load(folder))
    run.noise_floor = state.noise_floor
    _keep_weights(run, before, state)
    if not to_export:
        _find_place(run, state)
        run.checkpoints.go_on_from(folder)
    log.info("resuming from %s", folder)
    return state.step


def _keep_weights(run: Run, before: dict[str, Any], state: SavedState) -> None:
    """Weigh samples as until now, although rows may have come or gone; with other settings, anew."""
    now = to_plain(run.config)["objective"]
    if state.weighing is not None and all(before["objective"].get(k) == now[k] for k in WEIGHING):
        run.batches.samples = run.batches.samples.weighed(Weighing.parse(state.weighing))


def _find_place(run: Run, state: SavedState) -> None:
    """Go on in the order of samples where the checkpoint stopped, or at the start of the next epoch if
    that order has changed. With several buckets a rare one may be ahead of the epoch, so that a few of
    its draws come again.
    """
    if state.epoch is None:  # of an earlier version
        if len(run.batches.sampler.counts) > 1:
            _warn("samples of several sizes come in another order than in earlier versions")
        return
    if state.order == run.order:
        run.batches.shift = state.shift
        return
    begin = math.ceil(state.epoch)
    run.batches.shift = begin * run.steps_per_epoch - state.step
    _warn(
        "rows, batch size, seed or sampler changed: resuming with the first sample of epoch %d; "
        "%.0f%% of the one before is left out",
        begin,
        100 * (begin - state.epoch),
    )


def _check(run: Run, folder: Path, state: SavedState) -> None:
    """Raise DamagedFile on every rank if a checkpoint does not fit the run on any."""

    def problem() -> str | None:
        try:
            run.engine.check(folder)
            if run.ema is not None and _had_ema(state):
                run.ema.check(folder)
            if _renewed(run) and _renewed_before(state):
                assert run.reference is not None
                run.reference.check(folder)
        except (DamagedFile, OSError) as error:
            return str(error)
        return None

    told = processes.together(problem)
    problems = [text for text in processes.gather(told) if text is not None]
    if problems:
        raise DamagedFile(problems[0])


def _had_ema(state: SavedState) -> bool:
    return bool(state.config["optimizer"].get("ema_decay"))


def _renewed(run: Run) -> bool:
    return run.config.objective.update_reference_every_epoch


def _renewed_before(state: SavedState) -> bool:
    return bool(state.config["objective"].get("update_reference_every_epoch"))


def _refuse_other_settings(run: Run, folder: Path, state: SavedState, to_export: bool) -> None:
    then = layout_of(state.engine, state.world_size, state.config)
    now = layout_of(run.engine.name, processes.world_size(), to_plain(run.config))
    optimizer = "" if to_export else state.config["optimizer"]["name"]
    why = refusal(folder, optimizer, then, now)
    if why:
        raise ValueError(f"{why}, or {ANEW}")
    for key in DECIDING:
        section, name = key.split(".")
        before = "default" if name == "base_weights" else None  # of checkpoints without that key
        now, then = attrgetter(key)(run.config), state.config[section].get(name, before)
        matters = name != "lora_rank" or run.config.model.train == "lora"
        if matters and then is not None and then != now:
            raise ValueError(
                f"{folder} was trained with {key} = {then}, this run has {key} = {now}, whose weights "
                f"or optimizer state are others. Set {key} = {then}, or {ANEW}"
            )


def _refuse_other_data(run: Run, folder: Path, state: SavedState, here: dict[str, Any]) -> None:
    if state.data is None:
        _warn("%s does not say which data it was trained on: not compared with these", folder)
        return
    changed = changes(state.data, here)
    if not changed:
        return
    if run.config.output.accept_changes:
        _warn("resuming from %s although these changed: %s", folder, changed)
        return
    raise ValueError(
        f"what this run is trained on has changed since {folder}: {changed}. Go back to those data, "
        f"accept the change with --output.accept-changes, or {ANEW}"
    )


def _warn_of_changes(run: Run, before: dict[str, Any], state: SavedState) -> None:
    now = json.loads(json.dumps(to_plain(run.config)))
    for section in ("model", "data", "objective", "optimizer", "engine"):
        for name in sorted({*before[section], *now[section]}):
            old, new = before[section].get(name), now[section].get(name)
            if old != new and f"{section}.{name}" not in UNTOLD:
                _warn("resuming with %s.%s = %s, which was %s", section, name, new, old)
    if before["seed"] != now["seed"]:
        _warn("resuming with seed = %s, which was %s", now["seed"], before["seed"])
    here = processes.world_size()
    if state.world_size != here:
        several = "1 process" if here == 1 else f"{here} processes"
        _warn("resuming on %s, where there were %d", several, state.world_size)
    batch = changed_batch(
        before["optimizer"],
        state.world_size,
        run.config.optimizer,
        here,
        run.batches.samples.units.shape[1],
    )
    if batch:
        _warn("%s", batch)


def _warn(text: str, *values: object) -> None:
    if processes.rank() == 0:
        log.warning(text, *values)

"""A step reads nothing back from the device, and a bad one still changes no weight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.conftest import without_export
from tglo import philox
from tglo.objectives import OBJECTIVES, MicroBatch
from tglo.train import TrainConfig, loop, train
from tglo.train.run import Run

Make = Callable[..., TrainConfig]
READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "masked_select")


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


class Reads(TorchDispatchMode):
    """Names of the operators that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.__name__.split(".")[0]
        if name in READS and not self.paused:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def step_under(monkeypatch: pytest.MonkeyPatch, watched: Callable[..., Any]) -> None:
    """Every step but the first, which reads its batch in this thread, runs through watched."""
    step = loop._step

    def wrapped(run: Run, number: int, *rest: Any) -> Any:
        if number == 0:
            return step(run, number, *rest)
        return watched(step, run, number, *rest)

    monkeypatch.setattr(loop, "_step", wrapped)


@pytest.mark.parametrize(
    ("reference", "precision", "optimizer"),
    [("copy", "fp32", "adamw"), ("adapter-off", "bf16", "adamw"), ("copy", "fp32", "adafactor")],
)
def test_no_step_reads_the_device(
    reference: str,
    precision: str,
    optimizer: str,
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = Reads()
    check_key = philox.check_key

    def unwatched(*args: Any) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            return check_key(*args)  # the reading thread, which the mode does not see
        reads.paused = True  # it reads sample ids on the CPU, and only there
        try:
            return check_key(*args)
        finally:
            reads.paused = False

    monkeypatch.setattr(philox, "check_key", unwatched)

    def watched(step: Callable[..., Any], *rest: Any) -> Any:
        with reads:
            return step(*rest)

    step_under(monkeypatch, watched)
    config = make_config(
        objective={"reference": reference, "timestep_weight": "min_snr"},
        engine={"precision": precision},
        optimizer={"name": optimizer, "steps": 5, "accumulation": 2, "ema_decay": 0.9},
        model={"lora_dropout": 0.1},
        output={"log_every": 5},
    )
    assert train(config).finished
    assert bool(reads.found) == (optimizer == "adafactor")  # whose update takes norms to the host


def test_auto_temperature_reads_only_while_it_calibrates(
    make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    observe = loop.Health.mean_square

    def watched(step: Callable[..., Any], run: Run, number: int, *rest: Any) -> Any:
        monkeypatch.setattr(
            loop.Health, "mean_square", lambda self: read.append(number) or observe(self)
        )
        return step(run, number, *rest)

    step_under(monkeypatch, watched)
    train(make_config(objective={"temperature": "auto"}, optimizer={"steps": 13}))
    assert read == list(range(1, 10))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_synchronises_a_gpu(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(step: Callable[..., Any], run: Run, number: int, *rest: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error" if number > 2 else "default")
        try:
            return step(run, number, *rest)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    step_under(monkeypatch, watched)
    config = make_config(
        engine={"device": "cuda", "precision": "bf16"},
        optimizer={"steps": 8},
        output={"log_every": 8},
    )
    assert train(config).finished


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_step_is_named_and_changes_nothing(
    optimizer: str, what: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 7 between two lines of metrics: the host looks late, the weights stay all the same."""
    bad_step = 3
    state: dict[str, Any] = {}
    prepare = loop.prepare

    def keep(*args: Any) -> Run:
        state["run"] = prepare(*args)
        state["ids"] = []
        return state["run"]

    class Spoiled(OBJECTIVES["tgo"]):
        def __call__(self, batch: MicroBatch, temperature: float) -> Any:
            step = len(state["ids"])
            weights = state["run"].engine.trained
            if step == bad_step:
                state["before"] = {name: p.detach().clone() for name, p in weights.items()}
                if what == "gradient":
                    batch.policy_pred.register_hook(lambda gradient: gradient * float("inf"))
            state["ids"].append(step)
            loss, stats = super().__call__(batch, temperature)
            return (loss * float("nan") if step == bad_step and what == "loss" else loss), stats

    monkeypatch.setattr(loop, "prepare", keep)
    monkeypatch.setitem(OBJECTIVES, "tgo", Spoiled)
    config = make_config(
        optimizer={"steps": 8, "name": optimizer}, output={"log_every": 8, "save_every": 8}
    )
    loss = "nan" if what == "loss" else r"[\d.]+"
    message = rf"step {bad_step + 1}: .*no weight was changed.*loss {loss}, samples \[\d+"
    with pytest.raises(FloatingPointError, match=message):
        train(config)
    after = state["run"].engine.trained
    assert all(torch.equal(after[name], value) for name, value in state["before"].items())
    # The host is at most one step ahead of the verdict.
    assert len(state["ids"]) == bad_step + (2 if optimizer == "adamw" else 1)

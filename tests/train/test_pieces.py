"""Learning rate, temperature, metrics, trackers and the output folder's lock."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.preloaded import Popen
from tglo.losses.tgo import TGOStats
from tglo.stopping import Stopped
from tglo.train.config import OptimizerConfig, OutputConfig
from tglo.train.engines.optimizers import learning_rate
from tglo.train.lock import StopSignal, held
from tglo.train.reports.metrics import Health, MetricsFile
from tglo.train.reports.trackers import TRACKERS, Trackers
from tglo.train.temperature import Temperature


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = OptimizerConfig(steps=10, learning_rate=1.0, warmup_steps=2, schedule="linear")
    rates = [learning_rate(config, step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == pytest.approx([1 - k / 8 for k in range(8)])
    cosine = OptimizerConfig(steps=10, learning_rate=2.0, schedule="cosine")
    assert learning_rate(cosine, 0) == 2.0 and learning_rate(cosine, 5) == pytest.approx(1.0)
    constant = OptimizerConfig(steps=10, learning_rate=2.0, schedule="constant")
    assert learning_rate(constant, 9) == 2.0


def test_fixed_temperature_stays() -> None:
    temperature = Temperature(0.1, default=0.001, steps=100)
    temperature.observe(0, 1e6)
    assert temperature.value == 0.1


def test_auto_temperature_brings_the_spread_of_r_to_one_and_freezes() -> None:
    temperature = Temperature("auto", default=0.001, steps=100)
    drift = 0.05  # root mean square of e_theta - e_ref
    for step in range(25):
        temperature.observe(step, (drift / temperature.value) ** 2)
    assert temperature.value == pytest.approx(drift, rel=1e-6)
    temperature.observe(25, 1e9)
    assert temperature.value == pytest.approx(drift, rel=1e-6)
    again = Temperature("auto", default=0.001, steps=100)
    again.restore(temperature.state())
    assert again.value == temperature.value


def test_a_fixed_temperature_is_the_configurations_and_auto_stays_frozen() -> None:
    before = Temperature("auto", 1e-3, steps=40)
    before.observe(0, 1.0)
    fixed = Temperature(2e-3, 1e-3, steps=40)
    fixed.restore(before.state())
    assert fixed.value == 2e-3
    longer = Temperature("auto", 1e-3, steps=4000)
    longer.restore(before.state())
    assert longer.value == before.value and longer.until == before.until == 10


def test_saturation_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    temperature = Temperature("default", default=0.001, steps=100)
    with caplog.at_level(logging.WARNING, "tglo"):
        temperature.warn_if_saturated(5, 0.4)
        assert not caplog.records
        temperature.warn_if_saturated(6, 0.9)
        temperature.warn_if_saturated(7, 0.9)
    assert len(caplog.records) == 1 and "objective.temperature" in caplog.text


def stats(r: list[float], label: list[bool]) -> TGOStats:
    count = len(r)
    return TGOStats(
        torch.tensor(r, dtype=torch.float64),
        torch.full((count,), 0.5),
        torch.full((count,), 0.25),
        torch.tensor(label),
        torch.full((count,), 2.0),
    )


def test_health_means() -> None:
    health = Health(torch.device("cpu"))
    health.add(torch.tensor(1.0), stats([5.0, 1.0], [True, True]))
    health.add(torch.tensor(3.0), stats([-2.0, 6.0], [False, False]))
    assert health.mean_square() == pytest.approx((25 + 1 + 4 + 36) / 4)
    values = health.read()
    assert values["loss"] == 2.0
    assert values["r_positive"] == 3.0 and values["r_negative"] == 2.0
    assert values["implicit_accuracy"] == 0.75 and values["saturated"] == 0.5
    assert values["policy_error"] == 0.5 and values["reference_error"] == 0.25
    assert values["weight"] == 2.0 and values["positive_share"] == 0.5


def test_resumed_metrics_have_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (10, 20, 30):
        first.write(step, {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # torn by a kill
    second = MetricsFile(path, 20)
    second.write(30, {"loss": 2.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["step"], x["loss"]) for x in lines] == [(10, 1.0), (20, 1.0), (30, 2.0)]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\xff\xfe\xfa",
        b'{"step": 15, "lo',
        b"[" * 100_000,
        b"[1]",
        b'{"step": 1' + b"0" * 400 + b"}",
    ],
)
def test_damaged_lines_of_metrics_are_dropped_and_told(
    tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10, "loss": 1.0}\n' + damaged + b'\n{"step": 20, "loss": 2.0}')
    MetricsFile(path, 20).write(30, {"loss": 3.0})  # the last line had lost its end
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]
    assert caplog.messages == [f"{path}: 1 of 3 lines are damaged and dropped"]


def test_a_tracker_that_raises_or_hangs_does_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object):  # type: ignore[no-untyped-def]
        def write(*_: object) -> None:
            raise RuntimeError("service is down")

        return write, lambda: None

    def hangs(*_: object):  # type: ignore[no-untyped-def]
        return (lambda *_: time.sleep(30)), lambda: None

    monkeypatch.setitem(TRACKERS, "wandb", raises)
    monkeypatch.setitem(TRACKERS, "trackio", hangs)
    trackers = Trackers(OutputConfig(folder=tmp_path, trackers=("wandb", "trackio")), {})
    start = time.monotonic()
    for step in range(2000):
        trackers.write(step, {"loss": 1.0})
    trackers.close(patience=0.2)
    assert time.monotonic() - start < 5


def test_tensorboard_writes_an_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trackers = Trackers(OutputConfig(folder=tmp_path, trackers=("tensorboard",)), {})
    trackers.write(1, {"loss": 1.0})
    trackers.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


HOLD = """
import sys, time
from pathlib import Path
from tglo.train.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_on_one_folder_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    process = Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="in use by another run"), held(tmp_path):
            pass
        process.kill()
        process.wait()
        with held(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()


def test_sigterm_sets_a_flag_and_the_old_handler_returns(request: pytest.FixtureRequest) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # A shell ignores Ctrl-C for tests that it starts in the background.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    with StopSignal() as stop:
        with pytest.raises(Stopped):  # nothing to save yet
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        stop.defer()
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before

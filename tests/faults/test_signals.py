"""SIGTERM and Ctrl-C in every command (fault 22): one line, a status that tells, nothing torn, and the
same command resumes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.preloaded import Popen
from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    write_toml,
)
from tglo import cli
from tglo.stopping import Stopped
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]
GOES_ON = "tglo: stopped by SIGTERM; the same command resumes\n"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, prompts, and a scorer that takes long: it says when it is asked."""
    folder = tmp_path_factory.mktemp("work")
    tiny.build_sd15(folder / "model")
    (folder / "prompts.txt").write_text("".join(f"a temple {n}\n" for n in range(400)))
    (folder / "slow.py").write_text(
        "import pathlib, time\n"
        "def scorer(images, prompts):\n"
        "    pathlib.Path('asked').touch()\n"
        "    time.sleep(60)\n"
    )
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return Popen(
        [sys.executable, "-m", "tglo.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )


def stop_when(
    process: subprocess.Popen[str], ready: Callable[[], bool], number: int = signal.SIGTERM
) -> str:
    """Send the signal once `ready` says so; returns the output."""
    try:
        deadline = time.monotonic() + 90
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.01)
        os.kill(process.pid, number)
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


def kill_self(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.fixture
def restored() -> Iterator[None]:
    """A command that was stopped leaves SIGTERM ignored: its process is about to end."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_generate_is_stopped_and_goes_on(work: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", str(work / "model"), "--prompts", str(work / "prompts.txt"),
               "--output", str(tmp_path), "--steps", "2", "--device", "cpu"]  # fmt: skip
    process = start(tmp_path, *command)
    output = stop_when(process, lambda: len(list((tmp_path / "images").glob("*.png"))) > 4)
    assert process.returncode == 143 and output.endswith(GOES_ON)
    assert not leftovers(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "images").glob("*.png")}
    assert 4 < len(made) < 400
    again = start(tmp_path, *command)
    output = stop_when(again, lambda: len(list((tmp_path / "images").glob("*.png"))) > len(made))
    assert again.returncode == 143
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_score_is_stopped_in_a_scorer(number: int, work: Path, manifest: Path) -> None:
    (work / "asked").unlink(missing_ok=True)
    output = work / "scored.csv"
    process = start(work, "score", str(manifest), "--scorer", "slow:scorer",
                    "--output", str(manifest.with_name("out.csv")))  # fmt: skip
    said = stop_when(process, (work / "asked").exists, number)
    if number == signal.SIGTERM:
        assert process.returncode == 143 and said.endswith(GOES_ON)
    else:
        assert process.returncode == 130
        assert said.endswith("tglo: interrupted; the same command resumes\n")
    assert not output.exists() and not leftovers(work)


def test_evaluate_is_stopped(work: Path, tmp_path: Path) -> None:
    process = start(
        work, "evaluate", "--base", "./model", "--prompts", "mine=prompts.txt", "--scorers", "ink",
        "--output", str(tmp_path), "--count", "1", "--steps", "2", "--device", "cpu",
    )  # fmt: skip
    output = stop_when(process, lambda: any(tmp_path.glob("images/base/images/*.png")))
    assert process.returncode == 143 and output.endswith(GOES_ON)
    assert not leftovers(tmp_path)


def test_training_is_stopped_in_start_up(make_config: Make, tmp_path: Path) -> None:
    """While libraries and models are loaded there is nothing to save: it ends at once."""
    config = make_config(optimizer={"steps": 10**6})
    toml = str(write_toml(config, tmp_path / "run.toml"))
    process = start(tmp_path, "train", toml)
    output = stop_when(process, (config.output.folder / "threshold.json").exists)
    assert process.returncode in (0, 143)  # 0: the first step was faster
    assert "the same command resumes" in output and not leftovers(tmp_path)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_training_is_stopped_in_validation(
    number: int, status: int, make_config: Make, tmp_path: Path
) -> None:
    validation = {"validation_prompts": ["a flower"], "validation_every": 1}
    config = make_config(optimizer={"steps": 10**6}, output={**validation, "validation_steps": 150})
    toml = str(write_toml(config, tmp_path / "run.toml"))
    process = start(tmp_path, "train", toml)
    metrics = config.output.folder / "metrics.jsonl"
    output = stop_when(process, lambda: metrics.exists() and metrics.stat().st_size > 0, number)
    assert process.returncode == status and "the same command resumes" in output, output
    if number == signal.SIGINT:
        assert re.search(r"\ninterrupted after step \d+; the same command resumes\n$", output)
    assert any((config.output.folder / "checkpoints").glob("step-*"))
    assert not leftovers(tmp_path)


def test_a_signal_in_the_export_lets_it_finish(
    make_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tglo.train import export as exporting

    export = exporting.export

    def signalled(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return export(*arguments)

    monkeypatch.setattr(exporting, "export", signalled)
    result = train(make_config())
    assert result.finished and result.export is not None
    assert (result.export / "pytorch_lora_weights.safetensors").is_file()


def test_cache_is_stopped_between_shards_and_goes_on(
    manifest: Path,
    sd15: Path,
    tmp_path: Path,
    restored: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["cache", "--model", str(sd15), "--manifest", str(manifest), "--output",
               str(tmp_path / "cache"), "--resolution", "16", "--device", "cpu"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("tglo.cache.images.encode_latents", kill_self)
        assert cli.main(command) == 143
    assert capsys.readouterr().err.endswith(GOES_ON)
    assert not leftovers(tmp_path) and not (tmp_path / "cache" / "cache.json").exists()
    assert cli.main(command) == 0
    assert (tmp_path / "cache" / "cache.json").is_file()


@pytest.mark.parametrize(
    ("command", "place", "again"),
    [
        ("demo --output {0}/demo --quick", "tglo.demo.run.build", "the same command resumes"),
        ("threshold {1} --output {0}/t.json", "tglo.threshold.frozen.estimate", "start the same"),
        ("plan --model sd15", "tglo.plan.planner.plan", "start the same command again"),
        ("export {0} --output {0}/export", "tglo.train.finished_run.export_run", "start the same"),
        ("bench --quick --device cpu", "tglo.bench.suite.bench", "start the same command again"),
        ("doctor", "tglo.doctor.print_report", "start the same command again"),
    ],
)
def test_every_other_command_is_stopped_too(
    command: str,
    place: str,
    again: str,
    manifest: Path,
    tmp_path: Path,
    restored: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(place, kill_self)
    assert cli.main(command.format(tmp_path, manifest).split()) == 143
    assert f"tglo: stopped by SIGTERM; {again}" in capsys.readouterr().err
    assert not leftovers(tmp_path)


def test_sigusr1_saves_as_sigterm_does(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's --signal sends it before the time is up."""
    from tglo.train import loop

    step_itself, before = loop._step, signal.getsignal(signal.SIGUSR1)

    def step_of_run(run: Any, step: int, *arguments: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step_itself(run, step, *arguments)

    monkeypatch.setattr(loop, "_step", step_of_run)
    config = make_config(optimizer={"steps": 10**6})
    result = train(config)
    assert (result.steps, result.finished, result.stopped_by) == (2, False, signal.SIGUSR1)
    assert (config.output.folder / "checkpoints" / "step-00000002").is_dir()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_sweep_ends_with_its_run(
    make_config: Make,
    tmp_path: Path,
    restored: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run's own handling has saved a checkpoint; no other run is begun."""
    toml = str(write_toml(make_config(optimizer={"steps": 10**6}), tmp_path / "run.toml"))

    def step_of_run(run: Any, step: int, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step_itself(run, step, *arguments)

    from tglo.train import loop

    step_itself = loop._step
    monkeypatch.setattr(loop, "_step", step_of_run)
    command = ["sweep", toml, "--output", str(tmp_path / "s"), "--vary", "objective.beta=1,2"]
    assert cli.main(command) == 143
    assert "stopped by a signal; the same command resumes" in capsys.readouterr().err
    assert len(list((tmp_path / "s").glob("beta-*/checkpoints/step-*"))) == 1


def test_a_second_sigterm_does_not_interrupt_the_clean_up(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = []

    def work(_: list[str]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            cleaned.append(True)

    monkeypatch.setattr(cli, "_run", work)
    assert cli.main(["plan"]) == 143
    assert cleaned


def test_a_library_that_swallows_the_stop_fails_with_the_stop(
    restored: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As diffusers does while it loads weights: every exception there is a file that it cannot read."""

    def work(_: list[str]) -> None:
        try:
            kill_self()
        except BaseException as error:
            raise OSError("Unable to load weights") from error

    monkeypatch.setattr(cli, "_run", work)
    assert cli.main(["evaluate"]) == 143
    assert capsys.readouterr().err == GOES_ON
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_the_callers_handler_is_back_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "_run", lambda _: None)
    assert cli.main(["plan"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before

    def interrupt(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main(["plan"]) == 130
    assert capsys.readouterr().err == "tglo: interrupted; start the same command again\n"


def test_a_sweeps_launcher_ends_its_processes_first(tmp_path: Path) -> None:
    """A killed launcher would leave its processes behind."""
    from tglo.sweep.run import _wait_for

    (tmp_path / "launcher.py").write_text(
        "import signal, sys, time, pathlib\n"
        "def stop(*_):\n"
        "    pathlib.Path('stopped').touch()\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "pathlib.Path('started').touch()\n"
        "time.sleep(60)\n"
    )

    class Launcher(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                while not (tmp_path / "started").exists():
                    time.sleep(0.01)
                raise Stopped
            return super().wait(timeout)

    with pytest.raises(Stopped):
        _wait_for(Launcher([sys.executable, "launcher.py"], cwd=tmp_path))
    assert (tmp_path / "stopped").exists()

"""Fault 3: a disk that is full while training writes to it, a real one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    square_cache,
    write_toml,
)
from tglo.cli import main
from tglo.train import TrainConfig
from tglo.train.checkpoint import newest

Make = Callable[..., TrainConfig]
# What is written when the disk gets full -> what the message says of it.
WRITERS = {
    "tglo.train.loop._write_settings": r"run/threshold\.json needs 0\.1 MB",
    "tglo.train.reports.metrics.MetricsFile.write": r"run/metrics\.jsonl needs 0\.1 MB",
    "tglo.train.engines.plain.PlainEngine.save": r"checkpoints/step-00000004 needs \d\.\d MB",
    "tglo.train.engines.whole.state_files": r"checkpoints/step-00000004 needs \d\.\d MB",
    "tglo.train.ema.Ema.save": r"checkpoints/step-00000004 needs \d\.\d MB",
    "tglo.train.reference_policy.Reference.save": r"checkpoints/step-00000004 needs \d\.\d MB",
    "tglo.train.checkpoint_manifest.write": r"checkpoints/step-00000004 needs \d\.\d MB",
    "tglo.train.export._write": r"samples/step-00000002 needs 0\.1 MB",
    "tglo.models.families.base.Family.save": r"run/export needs \d\.\d MB",
}


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)


def leftovers(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".old"))]


def config_on(disk: Path, make_config: Make, **sections: Any) -> TrainConfig:
    """A run with everything that is written, on that disk, and at once, so that it is known what is there."""
    output = {
        "async_save": "off",
        "folder": str(disk / "run"),
        "save_every": 2,
        "validation_prompts": ["a flower"],
        "validation_every": 2,
        "validation_steps": 1,
    }
    return make_config(
        model={"train": "full"},
        output=output,
        objective={"update_reference_every_epoch": True},
        optimizer={"ema_decay": 0.5},
        **sections,
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_one_line_and_the_older_checkpoint(
    writer: str,
    make_config: Make,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resize(small_disk, 16_000)
    toml = str(write_toml(config_on(small_disk, make_config), tmp_path / "run.toml"))
    owner, name = writer.rsplit(".", 1)
    module = pytest.importorskip(owner if owner.islower() else owner.rsplit(".", 1)[0])
    target = module if owner.islower() else getattr(module, owner.rsplit(".", 1)[1])
    work = getattr(target, name)

    def write(*arguments: Any, **named: Any) -> Any:
        once = any((small_disk / "run" / "checkpoints").glob("step-????????/manifest.json"))
        if once or name == "_write_settings":
            fill(small_disk)
        if once and owner.endswith("MetricsFile"):
            arguments = (*arguments[:2], {**arguments[2], "longer than a page": "." * 5000})
        return work(*arguments, **named)

    monkeypatch.setattr(target, name, write)
    assert main(["train", toml]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(f"^tglo: .*the disk is full: .*{WRITERS[writer]} and could not", last)
    assert "Free space on that disk and start the same command again" in last
    assert not leftovers(small_disk)
    found = newest(small_disk / "run" / "checkpoints")
    assert (found is None) == (name == "_write_settings")

    monkeypatch.undo()
    (small_disk / "filler").unlink()
    assert main(["train", toml]) == 0
    lines = (small_disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4


@pytest.mark.timeout(200)
@pytest.mark.parametrize("stage", [0, 2])
def test_two_ranks_both_stop(
    stage: int, make_config: Make, small_disk: Path, tmp_path: Path
) -> None:
    """The second checkpoint does not fit; DeepSpeed writes most of it."""
    pytest.importorskip("deepspeed")
    from tests.train import test_distributed

    resize(small_disk, 1400)
    config = make_config(
        model={"train": "full"},
        output={"folder": str(small_disk / "run"), "save_every": 2},
        engine={"kind": "deepspeed", "zero_stage": stage},
    )
    toml = str(write_toml(config, tmp_path / "run.toml"))
    process = test_distributed.start("-m", "tglo.cli", "train", toml)
    output = test_distributed.finish(process, timeout=120)
    assert process.returncode == 1, output[-3000:]
    # Both write to one stream, so their lines may meet.
    told = output.split("tglo: checkpoint step-00000004 was not written: ")[1:]
    assert len(told) == 2, output[-3000:]
    for text in told:
        assert re.search(r"the disk is full: .*step-00000004 needs \d\.\d MB and could not", text)
    assert not leftovers(small_disk)
    found = newest(small_disk / "run" / "checkpoints")
    assert found is not None and found[1]["step"] == 2

"""The manifest of a checkpoint protects itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.test_checkpoint import found_step, save, write
from tglo.files import DamagedFile, sha256_file
from tglo.train import checkpoint_manifest as manifest
from tglo.train.checkpoint import Checkpoints, newest
from tglo.train.checkpoint_manifest import FILE, Entry, read

STATE: dict[str, Any] = {
    "step": 6,
    "temperature": {"value": 0.1, "square": 1.25e-3, "seen": 6},
    "config": {"seed": 0, "model": {"path": "./model", "train": "lora", "lora_rank": 16}},
}


def change_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the state of a checkpoint and recompute every checksum."""
    state = read(folder).state
    change(state)
    reseal(folder, state)


def reseal(folder: Path, state: dict[str, Any] | None = None) -> None:
    """Recompute sizes and checksums of a changed checkpoint."""
    state = state or read(folder).state
    files: dict[str, Entry] = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in read(folder).files
    }
    manifest.write(folder, files, state, state.get("world_size", 1))


def changed_copies(content: bytes) -> list[bytes]:
    """At every position one bit flipped, another digit, a quote, and the byte left out."""
    copies = []
    for place, byte in enumerate(content):
        for other in (bytes([byte ^ 1]), b"7", b'"', b""):
            copies.append(content[:place] + other + content[place + 1 :])
    return copies


def test_no_changed_byte_changes_the_state(tmp_path: Path) -> None:
    """Fault 36: 665 of 2,980 such changes were accepted with another state."""
    folder = Checkpoints(tmp_path, keep=1).save(6, write, STATE)
    file = folder / FILE
    content = file.read_bytes()
    before = read(folder)
    refused = 0
    for copy in changed_copies(content):
        file.write_bytes(copy)
        try:
            assert read(folder) == before
        except DamagedFile as error:
            refused += 1
            assert str(file) in str(error)
    assert refused > 2 * len(content)


def test_a_changed_byte_falls_back_to_the_older_checkpoint(tmp_path: Path) -> None:
    newer = save(tmp_path, 1, 2)
    content = (newer / FILE).read_bytes()
    for place in range(0, len(content), 7):
        (newer / FILE).write_bytes(
            content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :]
        )
        assert found_step(tmp_path) == 1, place


def test_one_of_an_earlier_version_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(tmp_path, 1)
    content = json.loads((folder / FILE).read_text())
    del content["sha256"]
    (folder / FILE).write_text(json.dumps(content))
    assert newest(tmp_path) == (folder, {"step": 1})
    assert "its manifest has no checksum, an earlier tglo wrote it" in caplog.text

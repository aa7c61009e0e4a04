"""`tglo cache` has one encoder in memory at a time, and none where nothing is new."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import tiny, tiny_flow
from tests.models.families.test_toy import manifest
from tglo import models
from tglo.cache.build import build_cache
from tglo.cache.latents import LatentCache
from tglo.cache.make import build
from tglo.data.manifest import read_manifest
from tglo.models.families.loaded import Loaded

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sdxl": tiny.build_sdxl,
    "amused": tiny.build_amused,
    "meissonic": tiny.build_meissonic,
    "flux": tiny_flow.build_flux,
    "sd3": tiny_flow.build_sd3,
    "qwen-image": tiny_flow.build_qwen_image,
}
RESOLUTION = 32


class Loads:
    """Notes the encoders that are loaded; none may be there yet."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self._made: list[weakref.ref[Any]] = []
        original = Loaded._load_encoder

        def load(family: Loaded, name: str) -> Any:
            assert not [made for made in self._made if made() is not None], "two at a time"
            assert all(weights.is_meta for weights in family.denoiser.parameters())
            encoder = original(family, name)
            self.names.append(name)
            self._made.append(weakref.ref(encoder))
            return encoder

        patch.setattr(Loaded, "_load_encoder", load)


@pytest.mark.parametrize("kind", BUILDERS)
def test_encoders_are_loaded_used_and_freed_one_after_another(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = BUILDERS[kind](tmp_path / "model"), manifest(tmp_path / "data")
    whole = models.load(folder)
    expected = build_cache(
        read_manifest(rows), tmp_path / "whole", whole, resolution=RESOLUTION, progress=False
    )
    texts = [part.encoder for part in whole.text_parts]
    vae = whole.vae_part
    del whole
    loads = Loads(monkeypatch)
    for batch_size, first in ((8, True), (8, False)):
        report = build(
            str(folder), rows, tmp_path / "cache", resolution=RESOLUTION, batch_size=batch_size
        )
        assert report.prompts == expected.prompts and (report.written == 2) is first
        assert loads.names == [*texts, vae]  # the second time nothing is
    found, wanted = (LatentCache(tmp_path / name) for name in ("cache", "whole"))
    assert found.content() == wanted.content() and found.fingerprint == wanted.fingerprint


def test_encoders_of_what_is_not_new_stay_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = tiny.build_sdxl(tmp_path / "model"), manifest(tmp_path / "data")
    build(str(folder), rows, tmp_path / "cache", resolution=RESOLUTION)
    loads, before = Loads(monkeypatch), rows.read_text()
    Image.new("RGB", (16, 16), "red").save(rows.parent / "new.png")
    rows.write_text(before + "\ngrey 1,new.png,0.5")
    report = build(str(folder), rows, tmp_path / "cache", resolution=RESOLUTION)
    assert report.encoded == 1 and loads.names == ["vae"]
    rows.write_text(before)
    build(str(folder), rows, tmp_path / "cache", resolution=RESOLUTION)
    assert loads.names == ["vae"]


def test_shards_of_text_take_turns_in_what_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder of the last shard begins the next one, so that one load a shard is saved."""
    folder, rows = tiny_flow.build_flux(tmp_path / "model"), manifest(tmp_path / "data")
    loads = Loads(monkeypatch)
    family = models.load(folder, denoiser=False)
    texts = ["text_encoder", "text_encoder_2"]
    data = read_manifest(rows)
    build_cache(
        data, tmp_path / "cache", family, resolution=RESOLUTION, shard_size=1, progress=False
    )
    assert loads.names == [*texts, "text_encoder", "text_encoder_2", "vae"]  # three prompts


def test_two_processes_share_the_text_and_agree(tmp_path: Path) -> None:
    folder, rows = tiny_flow.build_sd3(tmp_path / "model"), manifest(tmp_path / "data")
    for name, world in (("one", 1), ("two", 2)):
        for rank in range(world):
            family = models.load(folder, denoiser=False)
            report = build_cache(
                read_manifest(rows), tmp_path / name, family, resolution=RESOLUTION,
                shard_size=2, rank=rank, world_size=world, markers=("good: ",), progress=False,
            )  # fmt: skip
        assert report.complete
    one, two = (LatentCache(tmp_path / name) for name in ("one", "two"))
    assert one.content() == two.content()


def test_a_model_for_caching_neither_samples_nor_trains(tmp_path: Path) -> None:
    family = models.load(tiny.build_sd15(tmp_path / "model"), denoiser=False, dtype=torch.bfloat16)
    assert family.dtype == torch.bfloat16 == family.text_encoders[0].dtype
    with pytest.raises(RuntimeError, match="denoiser was not loaded"):
        family.generate(["a"], [0])

"""The size of a cache is known before anything is encoded, and a disk too small for it is refused."""

from __future__ import annotations

import logging
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny, tiny_flow
from tglo import models
from tglo.cache.build import prompts_of
from tglo.cache.format import choose_buckets
from tglo.cache.make import build
from tglo.cache.size import CacheSize, Share, cache_size, size
from tglo.data.errors import CacheError
from tglo.data.manifest import read_manifest

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny.build_sd15,
    "sdxl": tiny.build_sdxl,
    "amused": tiny.build_amused,
    "meissonic": tiny.build_meissonic,
    "flux": tiny_flow.build_flux,
    "sd3": tiny_flow.build_sd3,
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "klein": tiny_flow.build_flux2_klein,
    "sana": tiny_flow.build_sana,
}
COUNT = 24


def rows_in(folder: Path, count: int = COUNT) -> Path:
    """Images, each with a prompt of its own length."""
    folder.mkdir()
    lines = ["prompt,image"]
    for number in range(count):
        Image.new("RGB", (64, 64), (9 * number,) * 3).save(folder / f"{number}.png")
        lines.append(f"{'very ' * number}Grey {number},{number}.png")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


def predicted(model: Path, rows: Path, cache: Path, dtype: str) -> CacheSize:
    """What `build` logs."""
    family = models.load(model, denoiser=False, dtype=getattr(torch, dtype))
    manifest = read_manifest(rows, require_scores=False)
    prompts = prompts_of(manifest, ())
    ids = {row.sample_id for row in manifest}
    sizes = choose_buckets(family, 64, False)
    found = cache_size(family, cache, [*prompts.values()], prompts, ids, sizes)
    assert not family.encoders.present()
    return found


def written(cache: Path, kind: str) -> int:
    return sum(path.stat().st_size for path in cache.glob(f"{kind}-*.safetensors"))


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_predicted_size_is_what_is_written(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, rows, cache = (
        BUILDERS[kind](tmp_path / "model"),
        rows_in(tmp_path / "data"),
        tmp_path / "c",
    )
    dtype, name = ("bf16", "bfloat16") if kind in ("flux", "z-image") else ("fp32", "float32")
    found = predicted(model, rows, cache, name)
    caplog.set_level(logging.INFO, "tglo")
    build(str(model), rows, cache, resolution=64, buckets=False, dtype=dtype)
    assert found.text.items == found.text.new == COUNT + 1  # and the empty prompt
    assert found.text.bytes == pytest.approx(written(cache, "text"), rel=0.01)
    assert found.latents.new_bytes == pytest.approx(written(cache, "latents"), rel=0.01)
    assert str(found) in caplog.messages
    assert ("--dtype bf16 halves that" in str(found)) == (dtype == "fp32")
    again = predicted(model, rows, cache, name)
    assert again.new_bytes == 0 and again.text.bytes == found.text.bytes


def test_a_disk_that_is_too_small_is_refused_before_an_encoder_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows, cache = (
        tiny.build_sdxl(tmp_path / "model"),
        rows_in(tmp_path / "data"),
        tmp_path / "c",
    )
    needed = predicted(model, rows, cache, "float32")
    usage = namedtuple("usage", "free")
    free = needed.new_bytes - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free))
    with monkeypatch.context() as patch:
        patch.setattr(
            "tglo.models.families.loaded.Loaded._load_encoder",
            lambda *_: pytest.fail("an encoder was loaded"),
        )
        with pytest.raises(
            CacheError,
            match=rf"c has {size(free)} free, and the cache needs {size(needed.new_bytes)} more .*"
            r"of text, .* of latents\); use --dtype bf16, which saves .* another disk \(--output\)",
        ):
            build(str(model), rows, cache, resolution=64, buckets=False)
        assert not cache.exists()
    free += 1
    build(str(model), rows, cache, resolution=64, buckets=False)
    # Only what is new counts: half of the images were there.
    extended = tmp_path / "extended"
    build(str(model), rows_in(tmp_path / "few", 12), extended, resolution=64, buckets=False)
    free = needed.new_bytes * 0.6
    assert build(str(model), rows, extended, resolution=64, buckets=False).encoded == 12


def test_of_many_prompts_a_part_is_counted_and_the_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny_flow.build_z_image(tmp_path / "model"), rows_in(tmp_path / "data")
    exact = predicted(model, rows, tmp_path / "c", "float32")
    monkeypatch.setattr("tglo.cache.size._COUNTED", 8)
    sampled = predicted(model, rows, tmp_path / "c", "float32")
    assert sampled.about and "prompts x about " in str(sampled) and not exact.about
    assert sampled.text.bytes == pytest.approx(exact.text.bytes, rel=0.1)


def test_the_line_of_a_large_cache() -> None:
    found = CacheSize(
        Share(10_001, 5_000, 4.194e6), Share(20_000, 0, 524_288), 20, False, torch.bfloat16
    )
    assert str(found) == (
        "text: 10,001 prompts x 4.19 MB = 41.9 GB (bfloat16); latents: 20,000 images x 524 kB at most "
        "= 10.5 GB; 21 GB of it new"
    )
    assert [size(n) for n in (999, 1000, 999_600, 1.69e12)] == [
        "999 bytes", "1 kB", "1 MB", "1.69 TB"
    ]  # fmt: skip

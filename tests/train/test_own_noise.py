"""data.noise = "own": each generated image is trained on with the very noise it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import tiny, tiny_flow
from tests.cache.old_format import as_format_1
from tglo import models, noise, philox
from tglo.cache.drawer import Drawer, DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference, find_own_noise
from tglo.cache.own_noise import OwnNoise
from tglo.cli import main
from tglo.data.errors import CacheError, ManifestError
from tglo.data.manifest import read_manifest, write_manifest
from tglo.generation.generate import generate_images
from tglo.models import samplers
from tglo.rewards import score_manifest
from tglo.settings import ManifestOptions, SamplingOptions
from tglo.train import train
from tglo.train.config_files import parse_config

BUILDERS: dict[str, Callable[..., Path]] = {
    "flux": tiny_flow.build_flux,
    "sd3": tiny_flow.build_sd3,
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "klein": tiny_flow.build_flux2_klein,
    "sana": tiny_flow.build_sana,
}
PROMPTS = ["a small red circle", "Zwei Katzen auf dem Dach"]
SIDE = 32
OPTIONS = SamplingOptions(2, 1.0, height=SIDE, width=SIDE)
RULE = DrawRule(0, 0.1, draws=2, stratified=True, noise="own")
ALL_NOISE = "shift(1e12)"  # every draw at the schedule's last timestep, where sigma is 1


def brightness(images: list[Image.Image], prompts: list[str]) -> Any:
    return np.array([np.asarray(image).mean() for image in images])


def generated(model: Path, folder: Path) -> Path:
    """Six images of the model, scored: the manifest."""
    made = generate_images(str(model), PROMPTS, folder, OPTIONS, count=3, device="cpu")
    rows = score_manifest(read_manifest(made, require_scores=False), brightness, progress=False)
    write_manifest(folder / "scored.csv", rows)
    return folder / "scored.csv"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX.1 model, its images, scored, and their cache."""
    folder = tmp_path_factory.mktemp("own")
    model = tiny_flow.build_flux(folder / "model")
    scored = generated(model, folder / "data")
    build(str(model), scored, folder / "cache", resolution=SIDE, device="cpu")
    return folder


def config_of(world: Path, run: Path, **parts: dict[str, Any]) -> Any:
    settings: dict[str, dict[str, Any]] = {
        "model": {"path": str(world / "model"), "train": "lora"},
        "data": {
            "manifest": str(world / "data" / "scored.csv"),
            "cache": str(world / "cache"),
            "noise": "own",
        },
        "objective": {"temperature": 0.1},
        "optimizer": {"steps": 2, "micro_batch": 3, "learning_rate": 1e-2},
        "engine": {"device": "cpu", "kind": "plain"},
        "output": {"folder": str(run), "progress": False, "log_every": 1},
    }
    for name, values in parts.items():
        settings[name] |= values
    return parse_config(settings)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def changed_manifest(world: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The world's manifest in a folder of its own, the third row's extra columns changed."""
    shutil.copytree(world / "data", folder)
    rows = read_manifest(folder / "scored.csv")
    extra = dict(rows.rows[2].extra)
    change(extra)
    three = [*rows.rows[:2], replace(rows.rows[2], extra=extra), *rows.rows[3:]]
    write_manifest(folder / "scored.csv", rows.with_rows(three))
    return folder / "scored.csv"


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_draw_at_sigma_1_is_what_sampling_started_from(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From prompts to images, manifest, scores, cache and draw, in each family's own latents."""
    model = BUILDERS[kind](tmp_path / "model")
    started: list[Tensor] = []

    def denoise(predict: samplers.Predict, *arguments: Any) -> Tensor:
        seen: list[Tensor] = []

        def watched(noisy: Tensor, timestep: Tensor) -> Tensor:
            seen.append(noisy)
            return predict(noisy, timestep)

        latents = samplers.denoise(watched, *arguments)
        started.append(seen[0])
        return latents

    kind_of = models.family_of(model)
    monkeypatch.setattr(kind_of, "sampler", staticmethod(denoise))
    scored = generated(model, tmp_path / "data")
    build(str(model), scored, tmp_path / "cache", resolution=SIDE, device="cpu")
    rows, cache = read_manifest(scored), LatentCache(tmp_path / "cache")
    ids = rows.sample_ids().tolist()
    own = find_own_noise(str(model), scored, reading=ManifestOptions())
    own.check_sizes(cache, ids)
    rule = replace(RULE, timesteps=ALL_NOISE, stratified=False)
    family = models.load(model, encoders=False)
    drawer = Drawer(rule, cache, family, torch.float32, own)
    # A pair's rows share a timestep by their key; the noise is each one's own.
    draw = drawer.draw(drawer.read(ids, 1, keys=[ids[0]] * 6))
    assert draw.index.tolist() == [len(family.schedule) - 1] * 6
    assert torch.equal(draw.noisy, torch.cat(started))
    stored = cache.batch(ids)
    key = noise.Key(0, torch.tensor(ids), 1, philox.POSTERIOR)
    posterior = noise.normal(key, stored["mean"].shape[1:], device="cpu")
    latents = stored["mean"] + stored["std"] * posterior
    assert torch.equal(draw.target, draw.noisy - latents)
    # At other timesteps it is the straight line between the two.
    family.set_timesteps("uniform")
    drawer = Drawer(RULE, cache, family, torch.float32, own)
    middle = drawer.draw(drawer.read(ids, 1))
    share = (family.schedule.s[middle.index].float()).reshape(-1, 1, 1, 1)
    line = (1 - share) * latents + share * draw.noisy
    torch.testing.assert_close(middle.noisy, line, rtol=1e-5, atol=1e-6)
    assert torch.equal(middle.target, draw.target)


def test_live_and_cached_references_agree(world: Path, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    command = ["cache", "--model", str(world / "model"), "--reference", "--noise", "own"]
    command += ["--manifest", str(world / "data" / "scored.csv"), "--output", str(world / "cache")]
    command += ["--resolution", str(SIDE), "--draws", "2", "--device", "cpu"]
    assert main([*command, "--reference-output", str(errors)]) == 0
    data = {"draws": 2, "stratified": True}
    train(config_of(world, tmp_path / "live", data=data))
    train(config_of(world, tmp_path / "fresh", data={**data, "noise": "fresh"}))
    cached = {"reference": "cached"}
    kept = {"reference_cache": str(errors)}
    train(config_of(world, tmp_path / "cached", data=kept, objective=cached))
    live, stored = lines(tmp_path / "live"), lines(tmp_path / "cached")
    assert live[0]["r_positive"] == live[0]["r_negative"] == 0
    assert max(abs(stored[0][name]) for name in ("r_positive", "r_negative")) <= 1e-5
    assert live[1]["loss"] == pytest.approx(stored[1]["loss"], rel=1e-5)
    assert live[0]["policy_error"] != lines(tmp_path / "fresh")[0]["policy_error"]
    with pytest.raises(CacheError, match="noise.*own.*fresh"):
        fresh = config_of(
            world, tmp_path / "other", data=kept | {"noise": "fresh"}, objective=cached
        )
        train(fresh)


def test_a_cache_of_fresh_noise_and_one_of_other_seeds_are_refused(
    world: Path, tmp_path: Path
) -> None:
    model, cached = str(world / "model"), {"reference": "cached"}
    errors = tmp_path / "errors"
    fresh = replace(RULE, noise="fresh")
    assert "noise" not in fresh.fingerprint()  # caches made before there was a choice
    build_reference(model, world / "cache", errors, fresh, device="cpu", progress=False)
    data = {"reference_cache": str(errors)}
    with pytest.raises(CacheError, match="noise"):
        train(config_of(world, tmp_path / "run", data=data, objective=cached))
    scored = world / "data" / "scored.csv"
    shutil.rmtree(errors)

    def made(manifest: Path) -> Any:
        own = find_own_noise(model, manifest, reading=ManifestOptions())
        return build_reference(
            model,
            world / "cache",
            errors,
            RULE,
            own_noise=own,
            device="cpu",
            progress=False,
            shard_size=1,
        )

    assert made(scored).written == 6
    other = changed_manifest(world, tmp_path / "data", lambda extra: extra.update(seed="7"))
    data |= {"manifest": str(other)}
    with pytest.raises(CacheError, match="other latents, embeddings or seeds for 1 of 6"):
        train(config_of(world, tmp_path / "run", data=data, objective=cached))
    assert made(other).written == 1
    assert train(config_of(world, tmp_path / "run", data=data, objective=cached)).finished


def test_a_resumed_run_is_the_same_run(world: Path, tmp_path: Path) -> None:
    def run(name: str, steps: int, **data: Any) -> bytes:
        config = config_of(
            world,
            tmp_path / name,
            data=data,
            optimizer={"steps": steps, "schedule": "constant"},
            output={"save_every": 2},
        )
        result = train(config)
        assert result.export is not None
        return (result.export / "pytorch_lora_weights.safetensors").read_bytes()

    run("twice", 2)
    assert run("twice", 4) == run("once", 4)
    other = changed_manifest(world, tmp_path / "data", lambda extra: extra.update(seed="7"))
    with pytest.raises(ValueError, match="has changed since .*: the seeds of the images' noise"):
        run("twice", 6, manifest=str(other))


def test_a_timesteps_weight_multiplies_its_errors(world: Path, tmp_path: Path) -> None:
    """SFT's loss is the mean of omega e over the positives."""
    found = {}
    for weight in ("none", "cosmap", "sigma_sqrt"):
        objective = {"name": "sft", "temperature": "default", "timestep_weight": weight}
        # Near sigma 1 every omega is known: 1, 2 / pi and 1.
        config = config_of(
            world,
            tmp_path / weight,
            objective=objective,
            data={"timesteps": ALL_NOISE},
            optimizer={"steps": 1},
        )
        train(config)
        found[weight] = lines(tmp_path / weight)[0]["loss"]
    assert found["cosmap"] == pytest.approx(2 / np.pi * found["none"], rel=1e-6)
    assert found["sigma_sqrt"] == pytest.approx(found["none"], rel=1e-6) and found["none"] > 0


@pytest.mark.parametrize("name", ["dpo", "sft"])
def test_pairs_and_objectives_without_a_reference(world: Path, tmp_path: Path, name: str) -> None:
    objective = {"name": name, "temperature": "default"}
    config = config_of(world, tmp_path / "run", objective=objective, optimizer={"micro_batch": 2})
    assert train(config).finished


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", refused)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no seed": (
        {"seed": ""},
        r"1 rows .*\(lines \[4\]\) have no 'seed' and 'family'.*tglo generate",
    ),
    "no family": ({"family": ""}, r"1 rows .*\(lines \[4\]\) have no 'seed' and 'family'"),
    "text": ({"seed": "7e5x"}, r"line 4: the seed is '7e5x'.*integer in \[0, 2\^32\)"),
    "negative": ({"seed": "-1"}, "line 4: the seed is '-1'"),
    "large": ({"seed": str(2**32)}, "line 4: the seed is '4294967296'"),
    "family": ({"family": "stable-diffusion-3"}, r"images of stable-diffusion-3 \(line 4\)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_rows_whose_noise_is_unknown_are_refused_before_a_model_is_loaded(
    fault: str, world: Path, tmp_path: Path, no_model: None
) -> None:
    cells, message = REFUSED[fault]
    manifest = changed_manifest(world, tmp_path / "data", lambda extra: extra.update(cells))
    with pytest.raises(ManifestError, match=message) as refused:
        train(config_of(world, tmp_path / "run", data={"manifest": str(manifest)}))
    assert 'use fresh noise (data.noise = "fresh", --noise fresh)' in str(refused.value)
    with pytest.raises(ManifestError, match=message):
        find_own_noise(str(world / "model"), manifest, reading=ManifestOptions())


def test_a_manifest_without_the_columns_is_refused(
    world: Path, tmp_path: Path, no_model: None
) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    manifest = tmp_path / "data" / "scored.csv"
    rows = read_manifest(manifest)
    write_manifest(manifest, rows.with_rows(replace(row, extra={}) for row in rows))
    with pytest.raises(ManifestError, match="6 rows"):
        train(config_of(world, tmp_path / "run", data={"manifest": str(manifest)}))


def test_images_of_another_size_than_the_caches_are_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    manifest = tmp_path / "data" / "scored.csv"
    row = read_manifest(manifest).rows[1]
    image = tmp_path / "data" / row.image
    Image.open(image).resize((SIDE + 4, SIDE)).save(image)
    cache = tmp_path / "cache"
    build(str(world / "model"), manifest, cache, resolution=SIDE, device="cpu")
    message = f"1 images .* were resized or cropped.* line 3, {row.image}, was 32 x 36 pixels and is 32 x 32"
    with pytest.raises(CacheError, match=message):
        data = {"manifest": str(manifest), "cache": str(cache)}
        train(config_of(world, tmp_path / "run", data=data))
    own = find_own_noise(str(world / "model"), manifest, reading=ManifestOptions())
    with pytest.raises(CacheError, match=message):
        build_reference(str(world / "model"), cache, tmp_path / "errors", RULE, own_noise=own)


def test_a_cache_of_format_1_is_refused(world: Path, tmp_path: Path, no_model: None) -> None:
    """It has nothing that told samples of other seeds apart."""
    cache = shutil.copytree(world / "cache", tmp_path / "cache", dirs_exist_ok=True)
    as_format_1(cache, read_manifest(world / "data" / "scored.csv").identity)
    with pytest.raises(CacheError, match="format version 1"):
        train(config_of(world, tmp_path / "run", data={"cache": str(cache)}))


@pytest.mark.parametrize("builder", [tiny.build_sdxl, tiny.build_amused])
def test_only_flow_matching_takes_it_and_weights_by_sigma(
    builder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = builder(tmp_path / "model")
    options = replace(OPTIONS, height=None, width=None)
    made = generate_images(str(model), PROMPTS, tmp_path / "data", options, count=3, device="cpu")
    rows = score_manifest(read_manifest(made, require_scores=False), brightness, progress=False)
    write_manifest(made.with_name("scored.csv"), rows)
    side = Image.open(made.parent / rows.rows[0].image).height
    scored = made.with_name("scored.csv")
    build(str(model), scored, tmp_path / "cache", resolution=side, device="cpu")
    monkeypatch.setattr(models, "load", None)
    for weight in ("sigma_sqrt", "cosmap"):
        parts = {"model": {"train": "full"}, "objective": {"timestep_weight": weight}}
        with pytest.raises(ValueError, match=f"timestep_weight is {weight}, which does not fit"):
            train(config_of(tmp_path, tmp_path / "run", data={"noise": "fresh"}, **parts))
    message = "noise is own, which does not fit .*: only flow matching"
    with pytest.raises(ValueError, match=message):
        train(config_of(tmp_path, tmp_path / "run", model={"train": "full"}))
    with pytest.raises(ValueError, match=message):
        find_own_noise(str(model), scored, reading=ManifestOptions())


def test_a_rule_and_its_noise_belong_together(world: Path) -> None:
    cache = LatentCache(world / "cache")
    family = models.load(world / "model", encoders=False)
    with pytest.raises(ValueError, match="noise is 'own', and none is given"):
        Drawer(RULE, cache, family, torch.float32)
    with pytest.raises(ValueError, match="noise is 'fresh', and some is given"):
        Drawer(replace(RULE, noise="fresh"), cache, family, torch.float32, OwnNoise([], ""))

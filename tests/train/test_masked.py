"""Training masked models: every reference mode is one run, runs resume, exports reload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.train.test_cached_reference import cached
from tests.train.test_loop import final_weights, metrics
from tests.train.test_objectives import MARKERS
from tglo import models
from tglo.cache.drawer import DrawRule
from tglo.cache.latents import LatentCache
from tglo.cache.make import build, build_reference
from tglo.settings import ReferenceOptions, SamplingOptions
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]
RULE = DrawRule(seed=0, caption_dropout=0.1, draws=2, stratified=True)
BUILDERS = {"amused": tiny.build_amused, "meissonic": tiny.build_meissonic}
OPTIMIZER = {"steps": 6, "micro_batch": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="module", params=list(BUILDERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def cache(model: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("caches") / model.name
    build(str(model), manifest, output, resolution=16, device="cpu", markers=MARKERS)
    return output


@pytest.fixture(scope="module")
def errors(model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("errors") / model.name
    build_reference(str(model), cache, output, RULE, device="cpu", progress=False)
    return output


@pytest.fixture
def make(make_config: Make, model: Path, cache: Path, sd15: Path) -> Make:
    """As make_config, for the masked model."""

    def config(folder: str = "run", **sections: dict[str, object]) -> TrainConfig:
        sections = {"optimizer": OPTIMIZER, "objective": {}} | sections
        sections["model"] = {"path": str(model)} | sections.get("model", {})
        sections["data"] = {"cache": str(cache)} | sections.get("data", {})
        sections["objective"] = {"temperature": "default"} | sections["objective"]
        return make_config(sd15, folder=folder, **sections)

    return config


def test_the_cache_holds_tokens_and_both_embeddings(cache: Path) -> None:
    opened = LatentCache(cache)
    batch = opened.batch(opened.sample_ids()[:1])
    height, width = opened.buckets(opened.sample_ids()[:1])[0]
    assert batch["tokens"].shape == (1, height // 2, width // 2)
    assert batch["tokens"].dtype == torch.int32 and "mean" not in batch
    assert set(opened.text([""])) == {"encoder_hidden_states", "pooled_prompt_embeds"}


@pytest.mark.parametrize("what", ["full", "lora"])
def test_all_reference_modes_give_the_same_run(what: str, make: Make, errors: Path) -> None:
    draws = {"draws": RULE.draws, "stratified": True}
    modes = ["copy", "cached"] if what == "full" else ["copy", "adapter-off", "cached"]
    losses, weights = [], []
    for mode in modes:
        options = cached(errors) if mode == "cached" else {"data": draws}
        config = make(mode, **{**options, "objective": {"reference": mode}}, model={"train": what})
        lines = metrics(train(config).folder)
        first, last = lines[0], lines[-1]
        if mode != "cached":  # policy and reference are the same weights, in the same batch
            assert first["r_positive"] == first["r_negative"] == 0.0
            assert first["policy_error"] == first["reference_error"]
        else:
            assert first["noise_floor"] < 1e-4
        assert last["r_positive"] != 0.0
        losses.append([line["loss"] for line in lines])
        weights.append(final_weights(config.output.folder))
    for other, tensors in zip(losses[1:], weights[1:], strict=True):
        assert other == pytest.approx(losses[0], rel=1e-4)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, weights[0][name], rtol=0, atol=2e-4)


def test_a_copy_under_autocast_starts_at_zero(make: Make) -> None:
    config = make(
        engine={"precision": "bf16"},
        model={"train": "full"},
        objective={"reference": "copy"},
        optimizer=OPTIMIZER | {"steps": 2},
    )
    first, last = metrics(train(config).folder)
    assert first["r_positive"] == first["r_negative"] == 0.0
    assert first["policy_error"] == first["reference_error"]
    assert last["policy_error"] != last["reference_error"]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(make: Make) -> None:
    constant = OPTIMIZER | {"schedule": "constant"}  # which does not depend on the run's end
    whole = train(make("whole", optimizer=constant))
    train(make("parts", optimizer=constant | {"steps": 3}))
    parts = train(make("parts", optimizer=constant))
    assert parts.steps == 6
    expected = final_weights(whole.folder)
    for name, tensor in final_weights(parts.folder).items():
        assert torch.equal(tensor, expected[name])


def test_the_export_reloads_and_generates(make: Make, model: Path) -> None:
    full = train(make("full", model={"train": "full"}, objective={"name": "sft"}))
    assert full.export is not None
    family = models.load(full.export)
    base = models.load(model)
    inputs = family.example(2, 16, 16)
    assert not torch.equal(
        family.predict(family.denoiser, inputs), base.predict(base.denoiser, inputs)
    )
    images = family.generate(["a temple"], [0], SamplingOptions(steps=2, height=16, width=16))
    assert images[0].size == (16, 16)
    lora = train(make("lora"))
    assert lora.export is not None
    base.load_lora(lora.export)


@pytest.mark.parametrize("name", ["sft", "csft", "kto", "bco", "qrpo", "dpo"])
def test_objectives(name: str, make: Make) -> None:
    sections = {"optimizer": {"steps": 2, "micro_batch": 2}, "objective": {"name": name}}
    lines = metrics(train(make(name, **sections)).folder)
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines)
    if name not in ("sft", "csft"):
        assert lines[0]["r_positive"] == 0.0


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("objective", {"name": "dspo"}, "objective.name is dspo.*use dpo"),
        ("objective", {"name": "sdpo"}, "objective.name is sdpo.*use dpo"),
        (
            "objective",
            {"tgo": {"safeguard": 0.5}, "group": 2},
            "tgo.safeguard is 0.5, which does not fit.*leave it out",
        ),
        ("objective", {"timestep_weight": "min_snr"}, "timestep_weight is min_snr.*use none"),
        ("objective", {"timestep_weight": "cosmap"}, "timestep_weight is cosmap.*use none"),
        ("engine", {"compile": "whole"}, "engine.compile is whole.*use blocks"),
    ],
)
def test_what_does_not_fit_is_refused(
    section: str, values: dict[str, object], message: str, make: Make
) -> None:
    values = {"device": "cpu", "kind": "plain"} | values if section == "engine" else values
    sections = {"optimizer": OPTIMIZER | {"micro_batch": 2}, section: values}
    with pytest.raises(ValueError, match=message):
        train(make("refused", **sections))


def test_a_reference_of_a_whole_compiled_model_is_refused(
    model: Path, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="compile is whole, which does not fit.*use blocks"):
        build_reference(
            str(model), cache, tmp_path, RULE, ReferenceOptions(compile="whole"), device="cpu"
        )

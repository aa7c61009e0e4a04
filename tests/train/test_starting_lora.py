"""Training that starts from a LoRA: in either layout, with each reference, resumed, and exported again."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.models.helpers import example, perturb
from tests.models.test_export import LORA_FILE, render
from tests.train.conftest import write_toml
from tglo import cli, models
from tglo.cache.make import build
from tglo.data.errors import CacheError
from tglo.models import lora
from tglo.models.execution import compiling
from tglo.models.readback import ExportError
from tglo.train import TrainConfig, train

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory, sd15: Path, sdxl: Path) -> dict[str, Path]:
    """LoRAs of rank 3 and alpha 6: of sd15 in both layouts, and of sdxl."""
    root, found = tmp_path_factory.mktemp("loras"), {}
    for model in (sd15, sdxl):
        family = models.load(model)
        family.add_lora(3, 6.0)
        perturb(family.denoiser, scale=0.2)
        for layout in ("diffusers", "kohya"):
            name = f"{model.name}-{layout}"
            found[name] = family.save_lora(root / name, layout=layout)
    return found


def first_r(config: TrainConfig) -> float:
    first = json.loads((config.output.folder / "metrics.jsonl").read_text().splitlines()[0])
    return max(abs(first["r_positive"]), abs(first["r_negative"]))


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("reference", ["adapter-off", "copy"])
def test_the_first_policy_is_the_reference_and_the_export_holds_both(
    make_config: Make, loras: dict[str, Path], sd15: Path, layout: str, reference: str
) -> None:
    start = loras[f"sd15-{layout}"]
    config = make_config(model={"lora": str(start)}, objective={"reference": reference})
    result = train(config)
    assert first_r(config) == 0.0
    last = json.loads((config.output.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert abs(last["r_positive"]) > 0
    stored = json.loads((config.output.folder / "config.json").read_text())["model"]
    assert (stored["lora_rank"], stored["lora_alpha"]) == (3, 6.0)
    before, after = models.load(sd15), models.load(sd15)
    before.load_lora(start)
    after.load_lora(result.export)
    draw = example(before)
    answers = [
        family.predict(family.denoiser, draw) for family in (before, after, models.load(sd15))
    ]
    moved, distance = ((answers[i] - answers[0]).abs().max().item() for i in (1, 2))
    assert 0 < moved < 0.5 * distance  # a few updates away from the LoRA, not from the base


def test_the_references_agree_and_the_base_is_another(
    make_config: Make, loras: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    ends = {}
    for name, parts in {
        "off": {"model": {}, "objective": {"reference": "adapter-off"}},
        "copy": {"model": {}, "objective": {"reference": "copy"}},
        "base": {"model": {"lora_reference": "base"}, "objective": {"reference": "adapter-off"}},
        "base copy": {"model": {"lora_reference": "base"}, "objective": {"reference": "copy"}},
    }.items():
        parts["model"]["lora"] = str(loras["sd15-diffusers"])
        with caplog.at_level(logging.INFO, logger="tglo"):
            result = train(make_config(folder=name, **parts))
        ends[name] = (result.export / LORA_FILE).read_bytes()
    assert ends["off"] == ends["copy"] and ends["base"] == ends["base copy"] != ends["off"]
    told = [r.getMessage() for r in caplog.records if "starting from the LoRA" in r.getMessage()]
    assert "The reference has it too" in told[0] and "lora_reference = base" in told[0]
    assert "The reference is the bare model" in told[2]


def test_resumed_bit_for_bit_and_another_lora_is_refused(
    make_config: Make, loras: dict[str, Path]
) -> None:
    ends = []
    for name, stops in (("whole", (4,)), ("parts", (2, 4))):
        for steps in stops:
            config = make_config(
                folder=name,
                model={"lora": str(loras["sd15-diffusers"]), "lora_dropout": 0.1},
                optimizer={"steps": steps, "schedule": "constant"},
                output={"save_every": 2},
            )
            result = train(config)
        ends.append((result.export / LORA_FILE).read_bytes())
    assert ends[0] == ends[1]
    for change in ({"lora_reference": "base"}, {"lora": str(loras["sd15-kohya"])}):
        model = {"lora": str(loras["sd15-diffusers"]), "lora_dropout": 0.1} | change
        parts = {"optimizer": {"steps": 6, "schedule": "constant"}}
        with pytest.raises(ValueError, match="the LoRA that training starts from"):
            train(make_config(folder="parts", model=model, **parts))


def test_cached_reference(
    make_config: Make, loras: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(loras["sd15-kohya"])
    parts = {
        "data": {"draws": 2, "reference_cache": str(tmp_path / "errors")},
        "objective": {"reference": "cached"},
    }
    config = make_config(model={"lora": start}, **parts)
    toml = write_toml(config, tmp_path / "run.toml")
    assert cli.main(["cache", str(toml), "--resolution", "16"]) == 0
    train(config)
    assert first_r(config) < 1e-5
    assert json.loads((tmp_path / "errors/reference.json").read_text())["fingerprint"]["lora"]
    for model in ({}, {"lora": start, "lora_reference": "base"}):
        with pytest.raises(CacheError, match="lora is '.*' there and 'none' here"):
            train(make_config(folder="other", model=model, **parts))


def test_what_was_asked_for_must_agree(make_config: Make, loras: dict[str, Path]) -> None:
    start = str(loras["sd15-diffusers"])
    with pytest.raises(ValueError, match="lora_rank is 4, but the LoRA in .* has 3"):
        train(make_config(model={"lora": start, "lora_rank": 4}))
    with pytest.raises(ValueError, match="lora_alpha is 3, but the LoRA in .* has 6"):
        train(make_config(model={"lora": start, "lora_rank": 3, "lora_alpha": 3.0}))
    with pytest.raises(ValueError, match="set model.train = lora"):
        train(make_config(model={"lora": start, "train": "full"}))
    with pytest.raises(ValueError, match="there is no model.lora"):
        train(make_config(model={"lora_reference": "base"}))


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_of_another_base_is_refused_with_names_and_shapes(
    make_config: Make, loras: dict[str, Path], sd15: Path, layout: str
) -> None:
    told = r"is a LoRA of another model: \d+ of its layers do not fit this UNet2DConditionModel: "
    with pytest.raises(ValueError, match=told + r".*attn2.to_k is 16 x 16 here and 16 x 32 there"):
        train(make_config(model={"lora": str(loras[f"sdxl-{layout}"])}))
    with pytest.raises(ValueError, match=told):
        models.load(sd15).load_lora(loras[f"sdxl-{layout}"])


def test_weights_that_match_nothing_are_refused(
    make_config: Make, loras: dict[str, Path], tmp_path: Path
) -> None:
    weights = load_file(loras["sd15-diffusers"] / LORA_FILE)
    for prefix, told in (
        ("prior", "match nothing in a pipeline of"),
        ("unet.deep", "there is no deep"),
    ):
        renamed = {n.replace("unet", prefix, 1): w for n, w in weights.items()}
        save_file(renamed, tmp_path / f"{prefix}.safetensors")
        with pytest.raises(ValueError, match=told):
            train(make_config(model={"lora": str(tmp_path / f"{prefix}.safetensors")}))


@pytest.fixture(scope="session")
def with_texts(
    tmp_path_factory: pytest.TempPathFactory, sdxl: Path, loras: dict[str, Path]
) -> dict[str, Path]:
    """A LoRA of sdxl with weights for both text encoders, in both layouts."""
    folder = tmp_path_factory.mktemp("texts")
    weights = load_file(loras["sdxl-kohya"] / LORA_FILE)
    generator = torch.Generator().manual_seed(0)
    for encoder in ("te1", "te2"):
        for layer in (0, 1):
            for name in ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1"):
                flat = f"lora_{encoder}_text_model_encoder_layers_{layer}_{name}"
                wide = 32 if name == "mlp_fc1" else 16
                weights[f"{flat}.lora_down.weight"] = torch.randn(2, 16, generator=generator)
                weights[f"{flat}.lora_up.weight"] = torch.randn(wide, 2, generator=generator)
                weights[f"{flat}.alpha"] = torch.tensor(1.0)
    save_file(weights, folder / "kohya.safetensors")
    family = models.load(sdxl)
    found = family.read_lora(folder / "kohya.safetensors")
    family.start_from_lora(found)
    family.use_text_lora(found)
    family.save_lora(folder / "diffusers")
    return {"kohya": folder / "kohya.safetensors", "diffusers": folder / "diffusers"}


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_text_encoders_have_theirs_as_in_diffusers(
    with_texts: dict[str, Path], sdxl: Path, layout: str
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(sdxl)
    pipeline.load_lora_weights(with_texts[layout])
    family, bare = models.load(sdxl), models.load(sdxl)
    family.load_lora(with_texts[layout])
    embeds, _, pooled, _ = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)
    text, other = family.text(["a cat"]), bare.text(["a cat"])
    assert torch.equal(text["prompt_embeds"], embeds)
    assert torch.equal(text["pooled_prompt_embeds"], pooled)
    assert not torch.allclose(text["prompt_embeds"], other["prompt_embeds"])
    assert family.fingerprint() != bare.fingerprint()


def test_text_encoders_weights_in_the_cache_the_training_and_its_export(
    make_config: Make,
    with_texts: dict[str, Path],
    sdxl: Path,
    manifest: Path,
    caches: dict[Path, Path],
    tmp_path: Path,
) -> None:
    start, cache = with_texts["kohya"], tmp_path / "cache"
    with pytest.raises(CacheError, match="text_lora is 'nothing' there"):
        train(make_config(sdxl, model={"lora": str(start)}))
    build(str(sdxl), manifest, cache, resolution=16, device="cpu", lora=start)
    with pytest.raises(CacheError, match="text_lora is '.*' there and 'none' here"):
        train(make_config(sdxl, data={"cache": str(cache)}))
    config = make_config(sdxl, model={"lora": str(start)}, data={"cache": str(cache)})
    export = train(config).export
    assert first_r(config) == 0.0
    kohya = tmp_path / "kohya"
    run = str(config.output.folder)
    assert cli.main(["export", run, "--output", str(kohya), "--layout", "kohya"]) == 0
    images = []
    for folder in (start, export, kohya):
        pipeline = DiffusionPipeline.from_pretrained(sdxl)
        pipeline.load_lora_weights(folder)
        assert all(part.peft_config for part in (pipeline.text_encoder, pipeline.text_encoder_2))
        embeds = pipeline.encode_prompt("a cat", do_classifier_free_guidance=False)[0]
        images.append((embeds, render(pipeline)))
    torch.testing.assert_close(images[1][0], images[0][0])
    torch.testing.assert_close(images[2][0], images[0][0])
    torch.testing.assert_close(images[2][1], images[1][1])
    assert not torch.equal(images[1][1], images[0][1])


def test_the_reference_adapter_is_not_trained_and_not_exported(
    loras: dict[str, Path], sd15: Path
) -> None:
    family = models.load(sd15)
    family.start_from_lora(family.read_lora(loras["sd15-diffusers"]), dropout=0.1)
    names = set(lora.state_dict(family.denoiser))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # two adapters are meant; peft warns of them
        lora.keep_reference(family.denoiser)
    assert set(lora.state_dict(family.denoiser)) == names
    trained = [n for n, p in family.denoiser.named_parameters() if p.requires_grad]
    assert len(trained) == len(names) and not any(".reference." in name for name in trained)
    draw = example(family)
    family.denoiser.eval()
    before = family.predict(family.denoiser, draw)
    perturb(family.denoiser, scale=0.1)
    with lora.reference_on(family.denoiser):
        assert torch.equal(family.predict(family.denoiser, draw), before)
    assert not torch.equal(family.predict(family.denoiser, draw), before)
    assert isinstance(family.denoiser, UNet2DConditionModel)


def test_the_base_of_an_evaluation_with_the_lora(
    loras: dict[str, Path], sd15: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    start = loras["sd15-diffusers"]
    command = f"""evaluate --base {sd15} --lora {start} --models same={start} --prompts mine={tmp_path}/prompts.txt
        --scorers sharpness --count 1 --steps 2 --height 16 --width 16 --output {tmp_path}/evaluation --device cpu"""
    assert cli.main(command.split()) == 0
    rows = (tmp_path / "evaluation/samples.csv").read_text().splitlines()[1:]
    scores = {tuple(row.split(",")[2:5]): row.split(",")[-1] for row in rows}
    assert all(scores[p, i, "base"] == scores[p, i, "same"] for p, i, _ in scores)
    content = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert content["settings"]["lora"] == str(start)


@pytest.mark.parametrize("lost", ["names", "strengths"])
def test_a_lora_that_an_export_would_not_hold_is_told_before_the_first_step(
    make_config: Make, loras: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    save = StableDiffusionPipeline.save_lora_weights

    def save_otherwise(folder: Path, **options: object) -> None:
        if lost == "strengths":
            options.pop("unet_lora_adapter_metadata")
        save(folder, **options)
        weights = load_file(folder / LORA_FILE)
        if lost == "names":
            renamed = {name.replace("unet.", "model.", 1): w for name, w in weights.items()}
            save_file(renamed, folder / LORA_FILE)

    monkeypatch.setattr(StableDiffusionPipeline, "save_lora_weights", save_otherwise)
    config = make_config(model={"lora": str(loras["sd15-diffusers"])})
    told = {"names": "is not read back: .*match nothing", "strengths": "with another strength"}
    with pytest.raises(ExportError, match=told[lost]):
        train(config)
    assert not (config.output.folder / "metrics.jsonl").exists()
    train(make_config(model={"lora": str(loras["sd15-diffusers"])}, output={"export": False}))


def test_trying_the_export_warns_of_nothing(
    loras: dict[str, Path], sd15: Path, tmp_path: Path
) -> None:
    family = models.load(sd15)
    family.start_from_lora(family.read_lora(loras["sd15-kohya"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        family.check_lora_export(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def test_compiled_blocks_know_policy_reference_and_base_apart(
    loras: dict[str, Path], sd15: Path, quick: None
) -> None:
    family = models.load(sd15)
    family.start_from_lora(family.read_lora(loras["sd15-kohya"]))
    lora.keep_reference(family.denoiser)
    perturb(family.denoiser, scale=0.1)  # the policy
    draw = example(family)
    ways = (nullcontext, lora.reference_on, lora.adapters_off)

    def answers() -> list[torch.Tensor]:
        found = []
        for way in ways * 2:
            with way(family.denoiser):
                found.append(family.predict(family.denoiser, draw))
        return found

    expected = answers()
    assert not any(torch.equal(expected[0], other) for other in expected[1:3])
    compiling.compile_denoiser(family.denoiser, "blocks")
    for ours, theirs in zip(answers(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

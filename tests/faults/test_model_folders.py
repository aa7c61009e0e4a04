"""Model folders that lack something, are damaged or reach out of themselves: told before anything is computed.

Numbers are those of the list of faults: 24 pickles, 34 absent parts, 38 vocabularies, 39 links and names.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tiny
from tglo import cli, models
from tglo.cache.make import build
from tglo.files import DamagedFile
from tglo.models import folder
from tglo.models.registry import skeleton_of

UNET = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_sd15(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def edit(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def names(target: Path) -> set[str]:
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}


# 24 -----------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_24_pickles_and_code_are_neither_loaded_nor_exported(model: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    strange = ("model.bin", "model.pt", "weights.pkl", "model.pickle", "x.joblib", "code.py", "x")
    for part in ("vae", "text_encoder", "tokenizer", "scheduler", "unet"):
        for name in strange:
            (model / part / name).write_bytes(trap)
    (model / "extra").mkdir()
    (model / "extra/model.safetensors").write_bytes(trap)
    before = names(model)
    exported = models.load(model).save(tmp_path / "export")
    assert not (tmp_path / "sprung").exists()
    allowed = {name for name in before if Path(name).name not in strange and "extra" not in name}
    assert names(exported) == allowed


def test_24_a_pickled_lora_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/pytorch_lora_weights.bin").write_bytes(
        pickle.dumps(Trap(tmp_path / "sprung"))
    )
    family = models.load(model)
    for lora in (tmp_path / "lora", tmp_path / "lora/pytorch_lora_weights.bin"):
        with pytest.raises(ValueError, match=r"is no LoRA: it holds no safetensors file"):
            family.load_lora(lora)
    assert not (tmp_path / "sprung").exists()


# 34 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder_of_pickles", [False, True])
def test_34_an_absent_optional_part_is_told_at_the_start_and_left_out(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, folder_of_pickles: bool
) -> None:
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    extractor = ["transformers", "CLIPImageProcessor"]
    edit(model / folder.INDEX, safety_checker=checker, feature_extractor=extractor)
    if folder_of_pickles:
        (model / "safety_checker").mkdir()
        (model / "safety_checker/config.json").write_text("{}")
        (model / "safety_checker/pytorch_model.bin").write_bytes(b"pickle")
    (model / "feature_extractor").mkdir()
    (model / "feature_extractor/preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor"}'
    )
    family = models.load(model)
    family.check_export(tmp_path / "export", whole=True)
    [record] = caplog.records
    assert "lists safety_checker, but has no such folder" in record.getMessage()
    exported = family.save(tmp_path / "export")
    index = json.loads((exported / folder.INDEX).read_text())
    assert index["safety_checker"] == [None, None] and index["feature_extractor"] == extractor
    assert not (exported / "safety_checker").exists()
    pipeline = DiffusionPipeline.from_pretrained(exported)
    assert pipeline.safety_checker is None and pipeline.feature_extractor is not None


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_34_a_needed_part_that_is_absent_is_named_at_once(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    with pytest.raises(ValueError, match=rf"model lacks {part}: .*Download or export the model"):
        models.resolve(model)


def test_34_a_needed_part_that_the_index_lacks_is_named(model: Path) -> None:
    edit(model / folder.INDEX, vae=[None, None])
    with pytest.raises(ValueError, match="model lacks vae"):
        models.resolve(model)


def test_34_weights_that_are_cut_or_absent_are_named_also_where_they_are_not_loaded(
    model: Path,
) -> None:
    weights = model / "vae" / f"{UNET}.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedFile, match=rf"vae/{UNET}\.safetensors is damaged"):
        models.load(model, encoders=False)
    save_file({}, weights)
    with pytest.raises(DamagedFile, match=rf"vae/{UNET}\.safetensors is damaged .*no tensors"):
        models.load(model, encoders=False)
    weights.rename(weights.with_name(f"{UNET}.fp16.safetensors"))
    shutil.copy(
        weights.with_name(f"{UNET}.fp16.safetensors"), weights.with_name(f"{UNET}.bf16.safetensors")
    )
    with pytest.raises(
        ValueError, match=r"vae has weights of bf16, fp16 and no others; choose one"
    ):
        models.load(model, encoders=False)


def test_34_too_little_space_for_the_export_is_told_at_the_start(
    model: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = models.load(model)
    family.check_export(small_disk / "run/export", whole=True)
    assert not caplog.records
    (small_disk / "full").write_bytes(bytes(2_900_000))
    family.check_export(small_disk / "run/export", whole=True)
    assert "run/export needs" in caplog.text and "free space before the run ends" in caplog.text


# 38 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [(), ("vocab.json",), ("merges.txt",)])
def test_38_a_tokenizer_without_its_vocabulary_is_refused(
    model: Path, left: tuple[str, ...]
) -> None:
    (model / "tokenizer/tokenizer.json").unlink()
    for name in left:
        (model / "tokenizer" / name).write_text("{}")
    with pytest.raises(ValueError, match="tokenizer has no vocabulary, so that all prompts"):
        models.resolve(model)


def test_38_vocab_and_merges_will_do(model: Path) -> None:
    expected = models.load(model).text(["a cat"])["prompt_embeds"]
    content = json.loads((model / "tokenizer/tokenizer.json").read_text())["model"]
    (model / "tokenizer/tokenizer.json").unlink()
    (model / "tokenizer/vocab.json").write_text(json.dumps(content["vocab"]))
    (model / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    assert torch.equal(models.load(model).text(["a cat"])["prompt_embeds"], expected)


def test_38_a_vocabulary_whose_merges_were_cut_off_is_refused(model: Path) -> None:
    file = model / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"word{number}": len(vocabulary) + number for number in range(1000)}
    file.write_text(json.dumps(content))
    edit(model / "text_encoder/config.json", vocab_size=len(vocabulary))
    with pytest.raises(ValueError, match="has 1514 tokens and only 0 merges that make them"):
        models.load(model, encoders=False)


def test_38_prompts_that_are_cut_or_alike_are_told_when_they_are_cached(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["prompt,image"]
    for number, prompt in enumerate(["a cat", "A CAT", "a dog", "x" * 100]):
        Image.new("RGB", (16, 16), (50 * number,) * 3).save(tmp_path / f"{number}.png")
        lines.append(f"{prompt},{number}.png")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    build(str(model), tmp_path / "m.csv", tmp_path / "cache", resolution=16, device="cpu")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [
        "1 of 4 prompts are longer than 77 tokens and were cut there; "
        'long_prompts = "chunks" with enough prompt_chunks keeps them whole',
        "1 of 4 prompts have the same tokens as another one, so the model cannot tell them from it; "
        "the first is 'a cat'",
    ]


@pytest.mark.parametrize("size", [400, 1000])
def test_38_tokenizer_and_text_encoder_must_know_the_same_tokens(model: Path, size: int) -> None:
    edit(model / "text_encoder/config.json", vocab_size=size)
    with pytest.raises(ValueError, match=rf"has 514 tokens up to number 513, .* has {size}\. Take"):
        models.load(model, encoders=False)


def test_38_a_vocabulary_of_a_few_words_is_refused(model: Path) -> None:
    file = model / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {k: v for k, v in vocabulary.items() if v < 5 or "|" in k}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not fit|is damaged"):
        models.load(model)


# 39 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../evil", "..", "/etc", "vae/../../evil", "a/b", "a\\b", ".hidden", "", "a\0b"]
)
def test_39_a_part_whose_name_is_no_plain_name_is_refused(
    model: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(model / "vae", tmp_path / "evil")
    edit(model / folder.INDEX, **{name: ["diffusers", "AutoencoderKL"]})
    with pytest.raises(ValueError, match="names a part .*Take that line out"):
        models.load(model)


def test_39_a_part_that_the_family_does_not_know_stays_behind(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "vae", model / "second")
    edit(model / folder.INDEX, second=["diffusers", "AutoencoderKL"])
    exported = models.load(model).save(tmp_path / "export")
    assert not (exported / "second").exists()
    assert "second" not in json.loads((exported / folder.INDEX).read_text())


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("vae/notes.txt", "secret.txt"),
        ("vae/inner", "."),
        ("unet/config.json", "secret.txt"),
        ("model_index.json", "index.json"),
        ("scheduler", "elsewhere"),
        ("text_encoder/model.safetensors", "weights.safetensors"),
    ],
)
def test_39_links_out_of_the_folder_are_refused(
    model: Path, tmp_path: Path, place: str, target: str
) -> None:
    (tmp_path / "secret.txt").write_text("{}")
    shutil.copy(model / folder.INDEX, tmp_path / "index.json")
    shutil.copytree(model / "scheduler", tmp_path / "elsewhere")
    shutil.copy(model / "text_encoder/model.safetensors", tmp_path / "weights.safetensors")
    entry = model / place
    if entry.is_dir():
        shutil.rmtree(entry)
    entry.unlink(missing_ok=True)
    entry.symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match="outside the model folder .*; put a copy in its place"):
        models.load(model)


def test_39_links_to_nowhere_and_pipes_are_refused(model: Path) -> None:
    (model / "vae/a.json").symlink_to("b.json")
    with pytest.raises(ValueError, match=r"a\.json is no file \(it leads nowhere\)"):
        models.load(model)
    (model / "vae/a.json").unlink()
    os.mkfifo(model / "vae/a.json")
    with pytest.raises(ValueError, match=r"a\.json is no file; remove it"):
        models.load(model)


def test_39_a_snapshot_of_the_hubs_cache_is_loaded_and_exported_as_files(
    whole: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot, blobs = repository / "snapshots/0123", repository / "blobs"
    blobs.mkdir(parents=True)
    for number, name in enumerate(sorted(names(whole))):
        shutil.copy(whole / name, blobs / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    exported = models.load(snapshot).save(tmp_path / "export")
    assert names(exported) == names(whole)
    assert not any(path.is_symlink() for path in exported.rglob("*"))
    (tmp_path / "secret.txt").write_text("{}")
    (snapshot / "vae/notes.txt").symlink_to("../../../../secret.txt")
    with pytest.raises(ValueError, match="outside the model folder"):
        models.load(snapshot)


def shard(part: Path, second: str = f"{UNET}-00002-of-00002.safetensors") -> None:
    """Split a part's weights into two files with an index; the second is called `second` there."""
    weights = load_file(part / f"{UNET}.safetensors")
    (part / f"{UNET}.safetensors").unlink()
    files = (f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors")
    places = {name: number % 2 for number, name in enumerate(weights)}
    for number, file in enumerate(files):
        mine = {name: weights[name] for name in weights if places[name] == number}
        save_file(mine, part / file, metadata={"format": "pt"})
    listed = {name: (files[0], second)[number] for name, number in places.items()}
    total = sum(tensor.nbytes for tensor in weights.values())
    content = {"metadata": {"total_size": total}, "weight_map": listed}
    (part / f"{UNET}.safetensors.index.json").write_text(json.dumps(content))


def test_39_sharded_weights_are_taken_from_their_own_folder_alone(
    whole: Path, model: Path, tmp_path: Path
) -> None:
    shard(model / "unet")
    shard(model / "vae")
    exported = models.load(model).save(tmp_path / "export")
    expected = load_file(whole / f"unet/{UNET}.safetensors")
    found = load_file(exported / f"unet/{UNET}.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert len(list((exported / "vae").glob("*.safetensors"))) == 2
    (model / f"vae/{UNET}-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"vae lacks .*-00002-of-00002\.safetensors"):
        models.load(model, encoders=False)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", ".evil.safetensors"])
def test_39_an_index_of_weights_cannot_name_files_elsewhere(model: Path, name: str) -> None:
    shard(model / "unet", second=name)
    with pytest.raises(ValueError, match=r"index\.json names weights outside its folder"):
        models.load(model)


def test_39_no_part_loads_weights_of_another_place(model: Path) -> None:
    adapter = model / "text_encoder/adapter_config.json"
    adapter.write_text('{"base_model_name_or_path": "../../elsewhere"}')
    with pytest.raises(ValueError, match=r"adapter_config\.json names weights that are not"):
        models.load(model)
    adapter.unlink()
    edit(model / "text_encoder/config.json", transformers_weights="../../elsewhere.safetensors")
    with pytest.raises(ValueError, match=r"config\.json names weights that are not"):
        models.load(model)


def test_39_a_meissonic_folder_is_checked_alike(tmp_path: Path) -> None:
    path = tiny.build_meissonic(tmp_path / "model")
    (tmp_path / "secret.txt").write_text("secret")
    (path / "vqvae/notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="outside the model folder"):
        models.load(path)
    (path / "vqvae/notes.txt").unlink()
    index = {"_class_name": "Pipeline", "../evil": ["diffusers", "AutoencoderKL"]}
    (path / folder.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names a part '\.\./evil'"):
        models.load(path)


# Files of another form ----------------------------------------------------------------------------

FORMS = ["[]", "3", "null", '"text"', "{", "", "\x00\xff", "[" * 3000, '{"a": [1, {"b": []}]}']


def generate(model: Path, tmp_path: Path, *more: str) -> int:
    (tmp_path / "p.txt").write_text("a cat\n")
    command = ["generate", "--model", str(model), "--prompts", str(tmp_path / "p.txt")]
    output = ["--output", str(tmp_path / "out"), "--steps", "1", "--device", "cpu"]
    return cli.main([*command, *output, *more])


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_file_of_another_form_is_an_error_in_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for form in FORMS:
        if name == "scheduler/scheduler_config.json" and form.startswith('{"'):
            continue  # every entry has a default
        (model / name).write_bytes(form.encode("latin-1"))
        assert generate(model, tmp_path) == 1, form
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("tglo: ") and str(model) in told, (form, told)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("model_index.json", {"unet": ["diffusers"]}),
        ("model_index.json", {"unet": []}),
        ("model_index.json", {"unet": [1, 2]}),
        ("model_index.json", {"unet": [["diffusers"], "UNet2DConditionModel"]}),
        ("model_index.json", {"unet": {"diffusers": "UNet2DConditionModel"}}),
        ("model_index.json", {"unet": ["diffusers", "NoSuchModel"]}),
        ("model_index.json", {"_class_name": 3}),
        ("unet/config.json", {"block_out_channels": "many"}),
        ("unet/config.json", {"down_block_types": ["NoSuchBlock"] * 2}),
        ("unet/config.json", {"sample_size": None}),
        ("vae/config.json", {"block_out_channels": 3}),
        ("vae/config.json", {"latent_channels": None}),
        ("vae/config.json", {"latent_channels": "four"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}),
        ("scheduler/scheduler_config.json", {"prediction_type": []}),
        ("scheduler/scheduler_config.json", {"beta_schedule": {}}),
        ("text_encoder/config.json", {"hidden_size": "wide"}),
        ("text_encoder/config.json", {"vocab_size": "many"}),
        ("text_encoder/config.json", {"text_config": 3, "vocab_size": None}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "long"}),
        ("tokenizer/tokenizer.json", {"model": 3}),
    ],
)
def test_an_entry_of_another_form_is_an_error_in_a_line(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    entries: dict[str, Any],
) -> None:
    edit(model / name, **entries)
    assert generate(model, tmp_path) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("tglo: ") and str(model) in told, told
    assert not told.startswith(("tglo: KeyError", "tglo: TypeError")), told


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("unet/config.json", {"block_out_channels": "many"}),
        ("unet/config.json", {"down_block_types": 3}),
        ("unet/config.json", {"sample_size": []}),
        ("vae/config.json", {"block_out_channels": 3}),
    ],
)
def test_a_plan_of_a_damaged_folder_names_the_file(
    model: Path, capsys: pytest.CaptureFixture[str], name: str, entries: dict[str, Any]
) -> None:
    edit(model / name, **entries)
    with pytest.raises(DamagedFile, match=rf"{name} is damaged or no"):
        skeleton_of(f"path:{model}").build(torch.float32)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08" + bytes(7) + b"[1, 2, 3", bytes(200)])
def test_a_lora_of_another_form_is_an_error_in_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/pytorch_lora_weights.safetensors").write_bytes(content)
    assert generate(model, tmp_path, "--lora", str(tmp_path / "lora")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/lora/pytorch_lora_weights.safetensors is damaged or no LoRA" in told


@pytest.mark.parametrize("metadata", ["[]", "{", '{"unet.r": "x"}', '{"unet.r": {"a": []}}'])
def test_a_lora_with_settings_of_another_form_is_an_error_in_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: str
) -> None:
    family = models.load(model)
    family.add_lora(2, 2.0)
    file = family.save_lora(tmp_path / "lora") / "pytorch_lora_weights.safetensors"
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": metadata})
    assert generate(model, tmp_path, "--lora", str(tmp_path / "lora")) == 1
    assert f"{tmp_path}/lora" in capsys.readouterr().err.splitlines()[-1]


def test_a_lora_of_another_model_is_an_error_in_a_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = models.load(tiny.build_sd15(tmp_path / "other", channels=(16, 32)))
    other.add_lora(2, 2.0)
    other.save_lora(tmp_path / "lora")
    assert generate(model, tmp_path, "--lora", str(tmp_path / "lora")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "lora is a LoRA of another model" in told and "32 x 32 there" in told

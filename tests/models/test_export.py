from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.models.helpers import example, perturb
from tglo import models
from tglo.files import DiskFull
from tglo.models import export, export_parts, lora
from tglo.models.readback import ExportError

LORA_FILE = "pytorch_lora_weights.safetensors"


def train_lora(family: models.Family, alpha: float = 4.0) -> None:
    family.add_lora(2, alpha)
    perturb(family.denoiser, scale=0.3)


def render(pipeline: DiffusionPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(
        pipeline(
            "a seven", num_inference_steps=2, height=16, width=16, generator=generator,
            output_type="np",
        ).images
    )  # fmt: skip


def test_full_export_loads_in_diffusers(
    kind: str, family: models.Family, folders: dict[str, Path], tmp_path: Path
) -> None:
    perturb(family.denoiser)
    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    folder = family.save(tmp_path / "deep" / "out")
    assert folder == tmp_path / "deep" / "out"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    again = models.load(folder)
    assert torch.equal(again.predict(again.denoiser, example_input), expected)
    assert again.fingerprint() == models.load(folders[kind]).fingerprint()
    images = [render(DiffusionPipeline.from_pretrained(f)) for f in (folders[kind], folder)]
    assert not torch.equal(*images)


@pytest.mark.parametrize("alpha", [2.0, 5.0])
def test_lora_export_loads_in_diffusers(
    kind: str, family: models.Family, folders: dict[str, Path], tmp_path: Path, alpha: float
) -> None:
    train_lora(family, alpha)
    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    folder = family.save_lora(tmp_path / "lora")
    pipeline = DiffusionPipeline.from_pretrained(folders[kind])
    before = render(pipeline)
    pipeline.load_lora_weights(folder)
    after = render(pipeline)
    assert not torch.equal(before, after)
    assert torch.equal(family.predict(pipeline.unet, example_input), expected)


@pytest.mark.parametrize("targets", [["to_q", "ff.net.0.proj"], ["to_q", "conv1"], ["proj_in"]])
def test_a_lora_of_other_layers_too_loads_in_diffusers(
    load: Callable[..., models.Family],
    folders: dict[str, Path],
    tmp_path: Path,
    targets: list[str],
) -> None:
    family = load("sd15")
    family.add_lora(2, 4.0, targets=targets)
    perturb(family.denoiser, scale=0.3)
    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    pipeline = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipeline.load_lora_weights(family.save_lora(tmp_path / "lora"))
    assert torch.equal(family.predict(pipeline.unet, example_input), expected)


def test_full_export_of_a_lora_is_merged(kind: str, family: models.Family, tmp_path: Path) -> None:
    train_lora(family)
    example_input = example(family)
    expected = family.predict(family.denoiser, example_input)
    again = models.load(family.save(tmp_path / "merged"))
    assert not lora.has(again.denoiser)
    output = again.predict(again.denoiser, example_input)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(family.predict(family.denoiser, example_input), expected)


@pytest.mark.parametrize("with_lora", [False, True])
def test_gathered_weights_are_saved_instead_of_the_modules(
    load: Callable[..., models.Family], tmp_path: Path, with_lora: bool
) -> None:
    trained, empty = load("sdxl"), load("sdxl")
    for family in (trained, empty):
        if with_lora:
            family.add_lora(2, 6.0)
    perturb(trained.denoiser, scale=0.2)
    example_input = example(trained)
    expected = trained.predict(trained.denoiser, example_input)
    gathered = {n: p for n, p in trained.denoiser.named_parameters() if p.requires_grad}
    again = models.load(empty.save(tmp_path / "full", state_dict=gathered))
    output = again.predict(again.denoiser, example_input)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    if with_lora:
        folder = empty.save_lora(tmp_path / "lora", state_dict=gathered)
        pipeline = DiffusionPipeline.from_pretrained(trained.path)
        pipeline.load_lora_weights(folder)
        assert torch.equal(trained.predict(pipeline.unet, example_input), expected)


def test_an_export_warns_of_nothing(
    load: Callable[..., models.Family], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = load("sdxl")
    train_lora(family)
    level = logging.getLogger("diffusers").level
    family.save_lora(tmp_path / "lora")
    assert not caplog.records
    assert logging.getLogger("diffusers").level == level


def test_half_precision_exports(load: Callable[..., models.Family], tmp_path: Path) -> None:
    family = load("sd15", dtype=torch.bfloat16)
    train_lora(family)
    family.save_lora(tmp_path / "lora")
    weights = load_file(tmp_path / "lora" / LORA_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    merged = models.load(family.save(tmp_path / "merged"))
    example_input = example(merged)
    expected = merged.predict(family.denoiser.float(), example_input)
    output = merged.predict(merged.denoiser, example_input)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    whole = load("sd15", dtype=torch.bfloat16)
    whole.save(tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_lora_that_loads_no_keys_does_not_count(
    load: Callable[..., models.Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sd15")
    train_lora(family)
    save = family.pipeline_class.save_lora_weights

    def save_misnamed(folder: Path, **options: object) -> None:
        save(folder, **options)
        weights = load_file(folder / LORA_FILE)
        renamed = {name.replace("unet.", "model.", 1): w for name, w in weights.items()}
        save_file(renamed, folder / LORA_FILE)

    monkeypatch.setattr(family.pipeline_class, "save_lora_weights", save_misnamed)
    with pytest.raises(ExportError, match="is not read back.*match nothing"):
        family.save_lora(tmp_path / "lora")
    assert not list(tmp_path.iterdir())


def test_lora_whose_output_differs_does_not_count(
    load: Callable[..., models.Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sd15")
    train_lora(family, alpha=40.0)
    save = family.pipeline_class.save_lora_weights

    def save_without_alpha(folder: Path, **options: object) -> None:
        options.pop("unet_lora_adapter_metadata")
        save(folder, **options)

    monkeypatch.setattr(family.pipeline_class, "save_lora_weights", save_without_alpha)
    with pytest.raises(ExportError, match="differs from the trained model by"):
        family.save_lora(tmp_path / "lora")
    assert not list(tmp_path.iterdir())


def test_model_that_loads_differently_does_not_count(
    load: Callable[..., models.Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sdxl")
    save = type(family.denoiser).save_pretrained

    def save_damaged(self: torch.nn.Module, folder: Path) -> None:
        save(self, folder)
        file = folder / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        weights["conv_out.weight"] *= 1.01
        save_file(weights, file, metadata={"format": "pt"})

    monkeypatch.setattr(type(family.denoiser), "save_pretrained", save_damaged)
    with pytest.raises(ExportError, match="differs"):
        family.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_model_with_nan_is_not_exported(load: Callable[..., models.Family], tmp_path: Path) -> None:
    family = load("sd15")
    with torch.no_grad():
        family.denoiser.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="nan"):
        family.save(tmp_path / "out")


def test_existing_folders_are_kept_unless_overwriting(
    load: Callable[..., models.Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sd15")
    train_lora(family)
    folder = family.save_lora(tmp_path / "lora")
    first = (folder / LORA_FILE).read_bytes()
    perturb(family.denoiser, scale=0.01)
    with pytest.raises(FileExistsError, match="exists"):
        family.save_lora(folder)
    with monkeypatch.context() as patch:
        patch.setattr(export, "compare", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            family.save_lora(folder, overwrite=True)
    assert (folder / LORA_FILE).read_bytes() == first
    family.save_lora(folder, overwrite=True)
    assert (folder / LORA_FILE).read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
    family.save(folder, overwrite=True)
    assert not (folder / LORA_FILE).exists() and (folder / "model_index.json").exists()


def test_export_leaves_modes_and_pickles_alone(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    first = load("sd15").save(tmp_path / "first")
    (first / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (first / "vae" / "config.json").write_text(
        json.dumps(json.loads((first / "vae" / "config.json").read_text()))
    )
    family = models.load(first)
    family.add_lora(2, 2.0, dropout=0.5)
    family.denoiser.train()
    perturb(family.denoiser)
    folder = family.save(tmp_path / "second")
    assert family.denoiser.training
    assert not (folder / "vae" / "diffusion_pytorch_model.bin").exists()


def test_two_exports_are_equal_bytes(load: Callable[..., models.Family], tmp_path: Path) -> None:
    """LoRA exports write two entries of metadata, which safetensors puts in any order."""
    contents = []
    for number in range(4):
        family = load("sd15")
        family.add_lora(2, 4.0)
        perturb(family.denoiser)
        folders = (
            family.save(tmp_path / f"{number}"),
            family.save_lora(tmp_path / f"lora{number}"),
        )
        files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        contents.append([path.read_bytes() for path in files])
    assert all(content == contents[0] for content in contents)


def test_a_full_disk_is_told_with_what_the_export_needs(
    load: Callable[..., models.Family], small_disk: Path
) -> None:
    family = load("sd15")
    (small_disk / "other").write_bytes(bytes(2_900_000))
    with pytest.raises(DiskFull, match=r"/out needs \d\.\d MB and could not be written"):
        family.save(small_disk / "out")
    assert [path.name for path in small_disk.iterdir()] == ["other"]
    (small_disk / "other").unlink()
    models.load(family.save(small_disk / "out"))


def test_a_whole_model_has_no_lora_to_export(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no LoRA to export"):
        load("sd15").save_lora(tmp_path / "lora")


@pytest.fixture
def half(kind: str, load: Callable[..., models.Family], tmp_path: Path) -> Path:
    """A folder of that kind whose text encoders are stored in half precision, as many are."""
    folder = shutil.copytree(load(kind).path, tmp_path / "half")
    for part in folder.glob("text_encoder*"):
        type_of = CLIPTextModelWithProjection if part.name == "text_encoder_2" else CLIPTextModel
        type_of.from_pretrained(part).half().save_pretrained(part)
    return folder


def test_default_arguments_load_one_dtype_and_the_pipeline_runs(half: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        render(DiffusionPipeline.from_pretrained(half))
    family = models.load(half)
    pipeline = DiffusionPipeline.from_pretrained(family.save(tmp_path / "out"))
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.float32}
    assert render(pipeline).isfinite().all()
    again = models.load(tmp_path / "out")
    assert again.fingerprint() == family.fingerprint()  # caches stay valid
    name = "text_encoder/model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (half / name).read_bytes()


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_dtype_for_all_weights_on_the_disk(
    family: models.Family, tmp_path: Path, with_lora: bool
) -> None:
    if with_lora:
        train_lora(family)
    else:
        perturb(family.denoiser)
    folder = family.save(tmp_path / "out", dtype=torch.float16)
    assert family.dtype == torch.float32
    for file in folder.rglob("*.safetensors"):
        dtypes = {w.dtype for w in load_file(file).values() if w.is_floating_point()}
        assert dtypes == {torch.float16}, file
    render(DiffusionPipeline.from_pretrained(folder))
    loaded, trained = models.load(folder), family.predict(family.denoiser, example(family))
    difference = loaded.predict(loaded.denoiser, example(family)) - trained
    assert 0 < difference.abs().max() < 2e-2 * trained.abs().max()


def test_parts_in_several_dtypes_do_not_count(
    load: Callable[..., models.Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load("sdxl")

    def write_half(source: Path, target: Path) -> None:
        config = json.loads(source.read_text())
        dtype = {"dtype": "float16"} if "model_type" in config else {}
        target.write_text(json.dumps(config | dtype))

    monkeypatch.setattr(export_parts, "_write_config", write_half)
    with pytest.raises(
        ExportError, match=r"in several dtypes \(vae float32, text_encoder float16, "
    ):
        family.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_writing_into_an_export_leaves_the_base_alone(
    load: Callable[..., models.Family], tmp_path: Path
) -> None:
    base = shutil.copytree(load("sd15").path, tmp_path / "base")
    folder = models.load(base).save(tmp_path / "out")
    for name in ("text_encoder/model", "vae/diffusion_pytorch_model"):
        first, second = (f / f"{name}.safetensors" for f in (base, folder))
        before = first.read_bytes()
        assert second.read_bytes() == before
        with second.open("r+b") as file:
            file.write(b"changed")
        assert first.read_bytes() == before
        assert second.stat().st_mode & 0o777 == folder.stat().st_mode & 0o666


def written() -> int:
    """Bytes that this process has written to files."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux tells what is written")
def test_an_export_is_written_once(load: Callable[..., models.Family], tmp_path: Path) -> None:
    family, before = load("sdxl"), written()
    folder = family.save(tmp_path / "out")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert written() - before < 1.1 * size

"""`tglo evaluate` twice at once, on a full disk, with damaged models and damaged records."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.preloaded import Popen
from tglo import cli, models
from tglo.evaluate.run import evaluate
from tglo.evaluate.settings import Evaluation
from tglo.files import DamagedFile, DiskFull, locked
from tglo.settings import SamplingOptions


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    tiny.build_sd15(folder / "base")
    (folder / "p.txt").write_text("a temple\na flower\na cat\n")
    return folder


@pytest.fixture
def settings(work: Path) -> Evaluation:
    return Evaluation(
        base=str(work / "base"),
        models={},
        prompts={"p": work / "p.txt"},
        scorers={"ink": "ink"},
        count=2,
        options=SamplingOptions(2, 1.0),
        batch_size=4,
        resamples=100,
        device="cpu",
    )


def test_of_two_commands_on_a_folder_one_is_refused_and_the_other_finishes(
    work: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "tglo.cli", "evaluate", "--base", str(work / "base"),
        "--prompts", f"p={work}/p.txt", "--scorers", "ink", "--count", "8", "--steps", "2",
        "--batch-size", "1", "--resamples", "100", "--device", "cpu", "--output",
        str(tmp_path / "out"),
    ]  # fmt: skip
    started = [Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in started]
    ended = sorted(zip((process.returncode for process in started), errors, strict=True))
    assert ended[0][0] == 0 and all("Traceback" not in error for error in errors)
    if ended[1][0]:  # else one was done before the other had started
        assert "out is in use by another evaluation; wait for it, stop it" in ended[1][1]
    assert (tmp_path / "out/evaluation.json").is_file()


def test_a_folder_in_use_is_refused(settings: Evaluation, tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".evaluate.lock", "busy"),
        pytest.raises(ValueError, match="in use by another evaluation; wait for it, stop it, or"),
    ):
        evaluate(settings, tmp_path)
    evaluate(settings, tmp_path)


def test_a_full_disk_is_told_and_the_same_call_goes_on(
    settings: Evaluation, tmp_path: Path, small_disk: Path
) -> None:
    expected = evaluate(settings, tmp_path / "out")
    other, free = small_disk / "other", small_disk / "out"
    for room in (0, 30_000, 60_000):
        with suppress(OSError), other.open("wb", 0) as file:
            while file.write(bytes(4096)):
                pass
        other.open("ab").truncate(other.stat().st_size - room)
        with pytest.raises(DiskFull, match=f"the disk is full: {free}.* could not be written"):
            evaluate(settings, free)
    other.unlink()
    assert evaluate(settings, free) == expected


def test_a_model_whose_images_are_not_finite_ends_it(
    work: Path, settings: Evaluation, tmp_path: Path
) -> None:
    broken = tiny.build_sd15(tmp_path / "broken")
    file = broken / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match="'a temple' with seed .*conv_in.bias of"):
        evaluate(replace(settings, models={"tgo": str(broken)}), tmp_path / "out")
    assert not (tmp_path / "out/evaluation.json").exists()


def test_what_a_model_lacks_is_known_before_the_first_is_sampled(
    work: Path, settings: Evaluation, tmp_path: Path
) -> None:
    cut = tiny.build_sd15(tmp_path / "cut")
    weights = cut / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    family = models.load(work / "base")
    family.add_lora(2, 2.0)
    lora = family.save_lora(tmp_path / "lora") / "pytorch_lora_weights.safetensors"
    lora.write_bytes(lora.read_bytes()[:2000])
    for path in (cut, lora.parent):
        with pytest.raises(DamagedFile, match=rf"{path}.*safetensors is damaged"):
            evaluate(replace(settings, models={"tgo": str(path)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": 1}', '{"format": "F"}', '{"format": "F", "values": [1]}',
     '{"format": "F", "values": {"a": "b"}}', '{"format": "F", "values": {"a": null}}'],
)  # fmt: skip
def test_a_record_of_another_form_is_an_error_in_a_line(
    work: Path, settings: Evaluation, tmp_path: Path, content: str
) -> None:
    evaluate(settings, tmp_path)
    record = tmp_path / "diversity/base.json"
    kept = record.read_bytes()
    record.write_text(content.replace("F", json.loads(kept)["format"]))
    with pytest.raises(ValueError, match=rf"{record}.*remove it"):
        evaluate(settings, tmp_path)
    record.write_bytes(kept)
    (tmp_path / "images/base/generation.json").write_text(content)
    with pytest.raises(ValueError, match="images/base"):
        evaluate(settings, tmp_path)


def test_a_meissonic_folder_without_an_index_is_a_model(
    settings: Evaluation, tmp_path: Path
) -> None:
    folders = {name: str(tiny.build_meissonic(tmp_path / name)) for name in ("base", "tgo")}
    options = SamplingOptions(1, 1.0, height=16, width=16)
    alone = replace(
        settings, base=folders["base"], models={"tgo": folders["tgo"]}, count=1, options=options
    )
    content = evaluate(alone, tmp_path / "out")
    assert content is not None and set(content["prompt_sets"]["p"]["models"]) == {"base", "tgo"}


def test_the_command_says_it_in_a_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--base", str(work / "p.txt"), "--prompts", f"p={work}/p.txt"]
    assert cli.main([*arguments, "--scorers", "ink", "--output", str(tmp_path / "out")]) == 1
    assert "p.txt is no safetensors file" in capsys.readouterr().err.splitlines()[-1]

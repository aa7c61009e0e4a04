"""`tglo generate` on a full disk, twice at once, with damaged weights, and what it says of prompts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.preloaded import Popen
from tglo import cli
from tglo.data.manifest import read_manifest
from tglo.generation.generate import generate_images
from tglo.settings import SamplingOptions

OPTIONS: dict[str, Any] = {"options": SamplingOptions(2, 2.0), "device": "cpu"}
PROMPTS = ["a temple", "a flower", "a cat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.build_sd15(tmp_path_factory.mktemp("generation") / "model"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def command(model: str, folder: Path, count: int = 1) -> list[str]:
    """`tglo generate` of PROMPTS from a file beside the output folder, as arguments."""
    prompts = folder.with_suffix(".txt")
    prompts.write_text("\n".join(PROMPTS))
    return [
        "generate", "--model", model, "--prompts", str(prompts), "--output", str(folder),
        "--count", str(count), "--steps", "2", "--guidance", "2", "--batch-size", "1", "--device", "cpu",
    ]  # fmt: skip


def test_of_two_commands_on_a_folder_one_is_refused_and_the_other_finishes(
    model: str, tmp_path: Path
) -> None:
    arguments = command(model, tmp_path / "out", count=20)
    processes = [
        Popen([sys.executable, "-m", "tglo.cli", *arguments], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    ended = sorted(zip((process.returncode for process in processes), errors, strict=True))
    if ended[1][0] == 1:  # else one was done before the other had started
        assert "out is in use by another process that makes its images; wait for it" in ended[1][1]
    assert ended[0][0] == 0 and all("Traceback" not in error for error in errors)
    assert len(files(tmp_path / "out")) == 60
    assert len(read_manifest(tmp_path / "out/manifest.csv", require_scores=False)) == 60


def test_a_command_on_a_folder_in_use_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process holds the folder's lock, and another may have another share of the images."""
    (tmp_path / "out").mkdir()
    script = (
        "import sys, filelock\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\n"
        "print(1, flush=True)\nsys.stdin.read()"
    )
    lock = str(tmp_path / "out/.generate.lock")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with Popen([sys.executable, "-c", script, lock], **pipes) as other:
        other.stdout.readline()
        assert cli.main(command(model, tmp_path / "out")) == 1
        assert "out is in use by another process" in capsys.readouterr().err
        generate_images(model, PROMPTS, tmp_path / "out", rank=1, world_size=2, **OPTIONS)
        other.communicate()
    generate_images(model, PROMPTS, tmp_path / "out", **OPTIONS)


def test_two_processes_publish_the_same_batch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom PIL import Image\n"
        "from tglo.generation.image_files import publish_images\n"
        "for _ in range(40):\n"
        "    for n in range(3):\n"
        "        images = {f'{n}{i}.png': Image.new('RGB', (4, 4), (n, i, 0)) for i in range(3)}\n"
        "        publish_images(Path(sys.argv[1]), images)\n"
    )
    started = [Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{n}{i}.png" for n in range(3) for i in range(3)
    ]


def test_torn_images_are_made_again(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {**OPTIONS, "batch_size": 1}
    generate_images(model, PROMPTS, tmp_path, **arguments)
    whole = files(tmp_path)
    empty, torn, zeros = sorted((tmp_path / "images").iterdir())
    empty.write_bytes(b"")
    torn.write_bytes(torn.read_bytes()[:-5])
    zeros.write_bytes(bytes(zeros.stat().st_size))
    generate_images(model, PROMPTS, tmp_path, **arguments)
    assert files(tmp_path) == whole
    assert f"3 images of {tmp_path / 'images'} are torn and made again: {empty.name}" in caplog.text


def test_a_full_disk_is_a_line_and_the_command_goes_on_when_space_is_freed(
    model: str, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(model, small_disk / "out")
    whole = command(model, tmp_path / "whole")
    assert cli.main(whole) == 0
    (small_disk / "other").write_bytes(bytes(2_900_000))
    with suppress(OSError), (small_disk / "rest").open("wb", 0) as file:
        while file.write(bytes(4096)):
            pass
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("tglo: the disk is full: ") and str(small_disk / "out") in told
    (small_disk / "rest").unlink()
    (small_disk / "other").unlink()
    (small_disk / "other").write_bytes(bytes(2_900_000))
    with (small_disk / "rest").open("wb", 0) as file:
        for _ in range(100):  # room for the settings, and for one image at most
            if shutil.disk_usage(small_disk).free > 8192:
                file.write(bytes(4096))
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(
        r"the disk is full: .*\.(png|csv) needs \d\.\d MB and could not be written", told
    ), told
    (small_disk / "other").unlink()
    assert cli.main(arguments) == 0
    assert files(small_disk / "out") == files(tmp_path / "whole")
    assert not [path for path in (small_disk / "out/images").iterdir() if path.suffix != ".png"]


def test_images_that_are_not_finite_end_the_command_and_leave_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tiny.build_sd15(tmp_path / "broken")
    file = broken / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    assert cli.main(command(str(broken), tmp_path / "out")) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "'a temple' with seed" in told and "conv_in.bias of" in told and "damaged" in told
    assert not files(tmp_path / "out") and not (tmp_path / "out/manifest.csv").exists()


def test_cut_and_equal_prompts_are_told_once(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ["a cat", "x" * 90, "A  cat", "y" * 90, "a dog"]
    generate_images(model, prompts, tmp_path, batch_size=1, count=2, **OPTIONS)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 5 prompts are longer than 77 tokens and were cut there; "
        'long_prompts = "chunks" with enough prompt_chunks keeps them whole',
        "1 of 5 prompts have the same tokens as another one, so the model cannot tell them from it; "
        "the first is 'A  cat'",
    ]


@pytest.mark.parametrize("content", ["[]", "{", "3", ""])
def test_settings_of_another_form_are_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/generation.json").write_text(content)
    assert cli.main(command(model, tmp_path / "out")) == 1
    assert "generation.json" in capsys.readouterr().err.splitlines()[-1]

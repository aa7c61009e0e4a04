"""What holds for every reward model, alone and through `tglo score`."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rewards import published, published_qwen2vl
from tglo import cli
from tglo.data.manifest import read_manifest
from tglo.rewards import MODELS, load_scorer
from tglo.rewards.scoring import score_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per model."""
    folder = tmp_path_factory.mktemp("weights")
    published.hpsv2_folder(folder / "hpsv2")
    published.clip_folder(folder / "pickscore", act="gelu")
    published.clip_folder(folder / "clip")
    published.aesthetic_folder(folder / "aesthetic")
    published.imagereward_folder(folder / "imagereward")
    published_qwen2vl.hpsv3_folder(folder / "hpsv3")
    return folder


def odd_images() -> dict[str, bytes]:
    """Files of unusual size and mode; corrupt.png is none."""
    random = np.random.default_rng(0)
    deep = Image.fromarray(random.integers(0, 65536, (20, 30), dtype=np.uint16))
    colour = Image.fromarray(random.integers(0, 256, (30, 20, 3), dtype=np.uint8))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(random.integers(0, 256, (30, 20), dtype=np.uint8)))
    found = {"corrupt.png": b"\x89PNG\r\n\x1a\n and then nothing"}
    for name, image in {
        "dot.png": colour.resize((1, 1)),
        "column.png": colour.resize((1, 200)),
        "row.png": colour.resize((3000, 1)),
        "clear.png": clear,
        "palette.png": colour.quantize(16),
        "palette.gif": colour.quantize(4),
        "deep.png": deep,
        "cmyk.jpg": colour.convert("CMYK"),
        "bits.png": colour.convert("1"),
    }.items():
        out = io.BytesIO()
        image.save(out, {"png": "PNG", "gif": "GIF", "jpg": "JPEG"}[name[-3:]])
        found[name] = out.getvalue()
    return found


def write_manifest(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "image"])
        for i, (name, data) in enumerate(files.items()):
            (folder / name).write_bytes(data)
            writer.writerow([published.prompts(20)[i] or "none", name])
    return folder / "manifest.csv"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_batch_of_one_and_of_32(weights, name):
    scorer = load_scorer(f"{name}={weights}/{name}", device="cpu")
    images, prompts = published.images(32), published.prompts(32)
    together = np.asarray(scorer(images, prompts))
    alone = [
        np.asarray(scorer([image], [prompt]))[0]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert together.shape == (32,) and together.dtype == np.float64
    assert together == pytest.approx(np.array(alone), rel=1e-6, abs=1e-5)
    assert np.asarray(scorer([], [])).shape == (0,)
    with pytest.raises(ValueError, match="1 images but 2 prompts"):
        scorer(images[:1], prompts[:2])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_odd_images_are_scored_and_a_corrupt_one_is_reported(weights, tmp_path, name):
    manifest = write_manifest(tmp_path, odd_images())
    with pytest.raises(ValueError, match=r"1 of 10 images .*line 2: corrupt\.png: cannot be dec"):
        score_file(manifest, f"{name}={weights}/{name}", batch_size=4, device="cpu")
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([lines[0], *lines[2:]]))
    scores = read_manifest(
        score_file(manifest, f"{name}={weights}/{name}", batch_size=4, device="cpu")
    ).scores()
    assert len(scores) == 9 and np.isfinite(scores).all()


def test_all_in_one_pass_from_the_command_line(weights, tmp_path, monkeypatch, capsys):
    files = odd_images()
    del files["corrupt.png"]
    manifest = write_manifest(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tglo.rewards.score.decode_image", counted := Counted())
    (tmp_path / "my_rewards.py").write_text(
        "def width(images, prompts):\n    return [image.width for image in images]\n"
    )
    flags = [f"--scorer={name}={weights}/{name}" for name in MODELS]
    mixture = "--mixture=hpsv2=2,my_rewards:width=0.5"
    status = cli.main(
        ["score", *flags, "--scorer", "my_rewards:width", "--scorer", "ink", str(manifest), mixture,
         "--device", "cpu", "--batch-size", "4"]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    assert counted.count == len(files)  # decoded once for seven scorers
    with (tmp_path / "manifest-scored.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [*MODELS, "my_rewards:width", "ink"]
    assert list(rows[0]) == ["prompt", "image", "score", *names]
    for row in rows:
        expected = 2 * float(row["hpsv2"]) + 0.5 * float(row["my_rewards:width"])
        assert float(row["score"]) == pytest.approx(expected, rel=1e-12)
    images = [counted.decode(files[row["image"]]) for row in rows]
    for name in MODELS:
        scorer = load_scorer(f"{name}={weights}/{name}", device="cpu")
        direct = np.asarray(scorer(images, [row["prompt"] for row in rows]))
        assert np.array([float(row[name]) for row in rows]) == pytest.approx(
            direct, rel=1e-6, abs=1e-5
        )

    # A further reward for a scored manifest: the other columns stay.
    arguments = ["score", "manifest-scored.csv", "--scorer", "sharpness", "--output", "more.csv"]
    assert cli.main(arguments) == 0
    with (tmp_path / "more.csv").open(newline="") as file:
        more = list(csv.DictReader(file))
    assert [row["hpsv2"] for row in more] == [row["hpsv2"] for row in rows]
    assert all(row["score"] == row["sharpness"] for row in more)


class Counted:
    def __init__(self) -> None:
        from tglo.data.images import decode_image

        self.count, self.decode = 0, decode_image

    def __call__(self, data: bytes) -> Image.Image:
        self.count += 1
        return self.decode(data)


def test_an_interrupted_scoring_goes_on_with_the_same_weights_only(weights, tmp_path, monkeypatch):
    files = {f"{i}.png": data for i, data in enumerate(odd_images().values()) if i}
    manifest = write_manifest(tmp_path, files)
    scorers = [f"clip={weights}/clip", "ink"]
    expected = score_file(manifest, scorers, tmp_path / "whole.csv", 2, device="cpu").read_text()
    original = score_file.__globals__["load_scorer"]
    calls = []

    def failing(text, **options):
        scorer = original(text, **options)

        def ink(images, prompts):
            calls.append(len(images))
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            return scorer(images, prompts)

        return ink if text == "ink" else scorer

    monkeypatch.setattr("tglo.rewards.scoring.load_scorer", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        score_file(manifest, scorers, tmp_path / "part.csv", 2, device="cpu")
    monkeypatch.setattr("tglo.rewards.scoring.load_scorer", lambda text, **o: failing(text, **o))
    output = score_file(manifest, scorers, tmp_path / "part.csv", 2, device="cpu")
    assert sum(calls) == len(files) + 2  # the batch that failed is scored again, no other
    assert output.read_text() == expected

    calls.clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        score_file(manifest, scorers, tmp_path / "part.csv", 2, device="cpu")
    with pytest.raises(ValueError, match=r"holds scores of \['ClipScore float32 .*bfloat16"):
        score_file(manifest, scorers, tmp_path / "part.csv", 2, device="cpu", dtype="bf16")


def test_what_cannot_be_scored_is_refused_before_a_model_is_read(tmp_path):
    manifest = write_manifest(tmp_path, odd_images())
    with pytest.raises(ValueError, match="scorer hpsv2 is given twice"):
        score_file(manifest, ["hpsv2=./a", "hpsv2=./b"])
    with pytest.raises(ValueError, match="at least one scorer"):
        score_file(manifest, [])
    with pytest.raises(ValueError, match="'clip' is not scored; scored are"):
        score_file(manifest, ["hpsv2"], mixture="clip=1")


def test_a_mixture_in_standard_deviations(tmp_path):
    files = odd_images()
    del files["corrupt.png"]
    manifest = write_manifest(tmp_path, files)
    mixture = "ink=1,sharpness=-2"
    path = score_file(manifest, ["ink", "sharpness"], mixture=mixture, mixture_scale="std")
    rows = read_manifest(path).rows
    ink, sharpness = (
        np.array([float(row.extra[name]) for row in rows]) for name in ("ink", "sharpness")
    )
    expected = (ink - ink.mean()) / ink.std() - 2 * (sharpness - sharpness.mean()) / sharpness.std()
    assert [row.score for row in rows] == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_models_libraries_are_imported_when_it_is_asked_for():
    code = "import sys, tglo.rewards; print({'transformers', 'diffusers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""`tglo evaluate` of models of videos: numbers, files, the page, resuming after a stop, refusals."""

from __future__ import annotations

import csv
import functools
import html
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny, tiny_video
from tests.evaluate.test_evaluate import equal
from tests.models.helpers import perturb
from tglo import cli, models, rewards
from tglo.data.video import Video, write_video
from tglo.data.video_views import read_frames
from tglo.evaluate import diversity, videos
from tglo.evaluate import run as run_module
from tglo.evaluate import samples as samples_module
from tglo.evaluate.run import evaluate
from tglo.evaluate.settings import Evaluation
from tglo.files import read_json
from tglo.settings import FrameOptions, SamplingOptions

pytest.importorskip("av", reason="videos need PyAV")

FRAMES = 9
OPTIONS = SamplingOptions(2, 1.0, height=32, width=48, frames=FRAMES)
MOTION = f"{__name__}:motion"


def motion(of: Sequence[Video], prompts: Sequence[str]) -> list[float]:
    """A scorer of whole videos: how much they change from frame to frame."""
    assert all(len(video.frames) == FRAMES and abs(video.rate - 16) < 1e-6 for video in of)
    pixels = [np.stack([np.asarray(f, dtype=float) for f in video.frames]) for video in of]
    return [float(np.abs(np.diff(p, axis=0)).mean()) for p in pixels]


motion.takes = "videos"  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a trained model and a LoRA of Wan, LTX, and a model of images."""
    folder = tmp_path_factory.mktemp("videos")
    base = tiny_video.build_wan(folder / "base")
    tiny_video.build_wan(folder / "other", seed=1)
    tiny_video.build_ltx(folder / "ltx")
    tiny.build_sd15(folder / "images")
    family = models.load(base, encoders=False)
    family.add_lora(rank=2, alpha=2)
    torch.manual_seed(0)
    perturb(family.denoiser, scale=0.5)
    family.save_lora(folder / "lora")
    (folder / "prompts.txt").write_text("a <b>bar</b>\na flower\na $5 cat\n")
    return folder


@pytest.fixture(scope="module")
def settings(work: Path) -> Evaluation:
    return Evaluation(
        base=str(work / "base"),
        models={"tgo": str(work / "other"), "lora": str(work / "lora")},
        prompts={"plain": work / "prompts.txt"},
        scorers={"ink": "ink", "motion": MOTION},
        trained_on={"tgo": ["ink"]},
        count=2,
        options=OPTIONS,
        batch_size=4,
        score_batch=10,
        videos=FrameOptions(3),
        resamples=100,
        device="cpu",
    )


@pytest.fixture(scope="module")
def whole(work: Path, settings: Evaluation) -> Path:
    """An evaluation that was never interrupted."""
    evaluate(settings, work / "whole")
    return work / "whole"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def frames_of(path: Path, count: int) -> Video:
    return read_frames(io.BytesIO(path.read_bytes()), count)


def test_numbers_are_those_of_the_videos(whole: Path) -> None:
    content = read_json(whole / "evaluation.json")
    assert content["settings"]["frames"] == FRAMES and content["settings"]["size"] == [32, 48]
    assert content["settings"]["score_frames"] == 3 and content["settings"]["of_frames"] == "mean"
    found = content["prompt_sets"]["plain"]
    assert (found["prompts"], found["videos"]) == (3, 6) and "images" not in found
    rows = rows_of(whole)
    assert len(rows) == 3 * 2 * 3
    for row in rows:
        path = whole / row["image"]
        assert path.suffix == ".mp4" and path.with_suffix(".png").is_file()
        scored = frames_of(path, 3)
        ink = [1 - np.asarray(f.convert("L"), dtype=float).mean() / 255 for f in scored.frames]
        assert float(row["ink"]) == pytest.approx(np.mean(ink))
        assert [float(row["motion"])] == motion([frames_of(path, FRAMES)], [""])
    scores = {m: [float(r["motion"]) for r in rows if r["model"] == m] for m in ("base", "tgo")}
    wins = np.mean(np.array(scores["tgo"]) > np.array(scores["base"]))
    assert found["win_rates"]["motion"]["tgo"]["base"]["value"] == pytest.approx(wins)
    assert found["models"]["tgo"]["diversity"]["value"] > 0
    assert found["models"]["lora"]["scores"]["ink"] != found["models"]["base"]["scores"]["ink"]


def test_diversity_is_over_all_frames() -> None:
    black, white = (Image.new("RGB", (16, 16), level) for level in ("black", "white"))
    one, other = ([black] * 4, [black] * 3 + [white])
    distance = diversity.mean_distance([diversity.video_features(f) for f in (one, other)])
    assert distance == pytest.approx(100 * 0.5)  # a quarter of the pixels differ by 100
    assert diversity.video_features([white]) == pytest.approx(diversity.features(white))


def test_the_page_plays_every_model_beside_the_others_and_loads_nothing(whole: Path) -> None:
    page = (whole / "report.html").read_text()
    assert page.count("<video controls muted loop playsinline") == 3 * 3
    assert page.count('src="data:video/mp4;base64,') == 3 * 3
    assert page.count('<div class="scroll strips"') == 3 and page.count('alt="frames of ') == 9
    links = re.findall(r'<a href="([^"]+)">', page)
    assert len(links) == 9 and all((whole / link).is_file() for link in links)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    policy = html.unescape(page)
    assert "default-src 'none'" in policy and "media-src data: 'self' file:" in policy
    assert "a &lt;b&gt;bar&lt;/b&gt;" in page and "<b>" not in page
    assert "9 frames a video; scorers of images score 3 of them" in page
    assert "plain (3 prompts, 6 videos a model)" in page and "share of videos" in page
    sheet = Image.open(whole / "samples-plain.png")
    assert sheet.width > 8 * videos.TILE and sheet.height > 9 * videos.TILE * 32 / 48


def test_more_than_a_page_holds_is_linked(
    whole: Path, settings: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole / "report.html").read_text()
    monkeypatch.setattr(videos, "EMBEDDED", 1000)
    evaluate(settings, whole)
    page = (whole / "report.html").read_text()
    assert "data:video" not in page
    sources = re.findall(r'<video [^>]*src="([^"]+)">', page)
    assert len(sources) == 9 and all((whole / source).is_file() for source in sources)
    assert "which this page needs beside it" in page
    monkeypatch.undo()
    evaluate(settings, whole)
    assert (whole / "report.html").read_text() == before


def test_going_on_after_faults_gives_the_same_bits(
    whole: Path, settings: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the sampling of the second model, in the scoring, the diversity, and before the last file."""

    def stop(owner: Any, name: str, number: int) -> None:
        function, left = owner[name], number

        @functools.wraps(function)
        def stopping(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setitem(owner, name, stopping)
            with pytest.raises(KeyboardInterrupt):
                evaluate(settings, tmp_path)
        assert not (tmp_path / "evaluation.json").exists()

    stop(vars(samples_module), "generate_images", 2)
    stop(rewards.SCORERS, "ink", 3)
    stop(globals(), "motion", 4)
    stop(vars(diversity), "mean_distance", 5)
    stop(vars(run_module), "write_json", 1)
    evaluate(settings, tmp_path)
    equal(tmp_path, whole)
    assert (tmp_path / "samples-plain.png").read_bytes() == (
        whole / "samples-plain.png"
    ).read_bytes()


def test_the_command_makes_the_same(whole: Path, settings: Evaluation, tmp_path: Path) -> None:
    command = [
        "evaluate", "--base", settings.base, "--output", str(tmp_path), "--models",
        *(f"{name}={path}" for name, path in settings.models.items()),
        "--prompts", f"plain={settings.prompts['plain']}", "--scorers", "ink", MOTION,
        "--trained-on", "tgo=ink", "--count", "2", "--steps", "2", "--guidance", "1",
        "--frames", "9", "--height", "32", "--width", "48", "--score-frames", "3",
        "--of-frames", "worst", "--batch-size", "4", "--resamples", "100", "--device", "cpu",
    ]  # fmt: skip
    assert cli.main(command) == 0
    for row, mean in zip(rows_of(tmp_path), rows_of(whole), strict=True):
        assert (tmp_path / row["image"]).read_bytes() == (whole / row["image"]).read_bytes()
        assert float(row["ink"]) < float(mean["ink"])  # the worst frame is below their mean
        assert row[MOTION] == mean["motion"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {"x": "images"}}, r"base .* makes videos and model x .* images, which no"),
        ({"base": "images"}, r"base .* makes images and model tgo .* videos"),
        ({"options": replace(OPTIONS, frames=12)}, "frames is 12; .* multiple of 4 .* 13 is the"),
        ({"options": replace(OPTIONS, height=40)}, "height 40 .* must be multiples of 16 pixels"),
        ({"options": replace(OPTIONS, choice_temperature=1.0)}, "choice_temperature is of masked"),
        ({"videos": FrameOptions(0)}, "score_frames is 0; it must be at least 1"),
        (
            {"base": "images", "models": {}, "trained_on": {}},
            "stable-diffusion makes images, not 9 frames; leave frames out",
        ),
        (
            {"base": "images", "models": {}, "trained_on": {}, "options": SamplingOptions(2)},
            "scorer motion takes videos, and the models make images",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_sampling(
    work: Path, settings: Evaluation, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    places: dict[str, Any] = {**changed}
    if "base" in changed:
        places["base"] = str(work / changed["base"])
    if "models" in changed:
        places |= {"models": {n: str(work / p) for n, p in changed["models"].items()}}
        places |= {"trained_on": {}}
    with pytest.raises(ValueError, match=message):
        evaluate(replace(settings, **places), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_of_other_lengths_are_told_apart(work: Path, settings: Evaluation) -> None:
    two = replace(settings, models={"ltx": str(work / "ltx")}, options=SamplingOptions(2))
    frames = samples_module.check_models(two)
    assert frames == {"base": 81, "ltx": 161}
    samples = samples_module.ModelSamples([], 1, {}, frames)
    assert "base 81, ltx 161 frames a video" in videos.facts(two, samples, True)[0]


def test_a_video_that_was_changed_is_scored_again(
    work: Path, settings: Evaluation, tmp_path: Path
) -> None:
    alone = replace(settings, models={}, trained_on={}, scorers={"ink": "ink"}, count=1)
    before = evaluate(alone, tmp_path)
    first = next((tmp_path / "images/base/images").glob("*.mp4"))
    first.write_bytes(write_video(Video([Image.new("RGB", (48, 32))] * FRAMES, 16.0)))
    after = evaluate(alone, tmp_path)
    assert before is not None and after is not None
    means = [c["prompt_sets"]["plain"]["models"]["base"]["scores"]["ink"] for c in (before, after)]
    assert means[0] != means[1]

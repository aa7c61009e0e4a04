"""`tglo evaluate` end to end on tiny models: numbers, files, resuming after a kill, refusals."""

from __future__ import annotations

import csv
import functools
import json
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.models.helpers import perturb
from tests.preloaded import Popen
from tglo import cli, models, rewards
from tglo.evaluate import diversity
from tglo.evaluate import run as run_module
from tglo.evaluate import samples as samples_module
from tglo.evaluate.run import evaluate
from tglo.evaluate.settings import Evaluation
from tglo.files import read_json, write_sealed
from tglo.settings import SamplingOptions

SCORERS = {"ink": "ink", "colourfulness": "colourfulness"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a trained model, a LoRA, and two prompt sets that share a prompt."""
    folder = tmp_path_factory.mktemp("evaluation")
    base = tiny.build_sd15(folder / "base")
    tiny.build_sd15(folder / "other", seed=1)
    family = models.load(base)
    family.add_lora(rank=2, alpha=2)
    torch.manual_seed(0)
    perturb(family.denoiser, scale=0.5)
    family.save_lora(folder / "lora")
    (folder / "plain.txt").write_text("a <b>temple</b>\na flower\na $5 cat\n")
    (folder / "mine.csv").write_text(
        "prompt,category\na flower,plants\na tree,plants\na dog,animals\na cow,animals\na car,things\n"
    )
    return folder


@pytest.fixture(scope="module")
def settings(work: Path) -> Evaluation:
    return Evaluation(
        base=str(work / "base"),
        models={"tgo": str(work / "other"), "lora": str(work / "lora")},
        prompts={"plain": work / "plain.txt", "mine": work / "mine.csv"},
        scorers=SCORERS,
        trained_on={"tgo": ["ink"]},
        count=3,
        options=SamplingOptions(2, 1.0),
        batch_size=4,
        score_batch=5,
        resamples=200,
        device="cpu",
    )


@pytest.fixture(scope="module")
def whole(work: Path, settings: Evaluation) -> Path:
    """An evaluation that was never interrupted."""
    evaluate(settings, work / "whole")
    return work / "whole"


def scores_of(folder: Path, name: str, model: str, scorer: str) -> np.ndarray:
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array(
        [float(r[scorer]) for r in rows if r["prompt_set"] == name and r["model"] == model]
    )


def test_numbers_are_those_of_the_images(whole: Path, settings: Evaluation) -> None:
    content = read_json(whole / "evaluation.json")["prompt_sets"]
    assert {n: (c["prompts"], c["images"]) for n, c in content.items()} == {
        "plain": (3, 9), "mine": (5, 15)
    }  # fmt: skip
    for name in content:
        for scorer in SCORERS:
            base = scores_of(whole, name, "base", scorer)
            for model in ("tgo", "lora"):
                scores = scores_of(whole, name, model, scorer)
                entry = content[name]["models"][model]["scores"][scorer]
                assert entry["mean"]["value"] == pytest.approx(scores.mean())
                assert entry["median"]["value"] == np.median(scores)
                assert entry["trained_on"] == (model == "tgo" and scorer == "ink")
                rates = content[name]["win_rates"][scorer]
                expected = np.mean((scores > base) + 0.5 * (scores == base))
                assert rates[model]["base"]["value"] == pytest.approx(expected)
                assert rates["base"][model]["value"] == pytest.approx(1 - expected)
                gain = content[name]["differences"][scorer][model]["base"]
                assert gain["value"] == pytest.approx((scores - base).mean())
                assert gain["low"] <= gain["value"] <= gain["high"]
                assert 0 <= rates[model]["base"]["low"] <= rates[model]["base"]["high"] <= 1
        assert content[name]["models"]["tgo"]["diversity"]["value"] > 0
    with (whole / "samples.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    ink = 1 - np.asarray(Image.open(whole / row["image"]).convert("L"), dtype=float).mean() / 255
    assert float(row["ink"]) == pytest.approx(ink)
    categories = content["mine"]["categories"]
    assert {name: entry["prompts"] for name, entry in categories.items()} == {
        "plants": 2, "animals": 2
    }  # fmt: skip
    assert content["plain"]["categories"] == {}


def test_a_prompt_of_two_sets_is_sampled_once(whole: Path) -> None:
    assert all(
        len(list((whole / "images" / model / "images").iterdir())) == 7 * 3
        for model in ("base", "tgo", "lora")
    )


def test_tables_pictures_and_page_are_there(whole: Path) -> None:
    text = (whole / "tables.md").read_text()
    assert "## plain (3 prompts, 9 images a model): mean score" in text
    assert "win rate of row against column, ink" in text and "by category, ink" in text
    assert "% [" in text and "†" in text
    assert "\\begin{tabular}{lrr}" in (whole / "tables.tex").read_text()
    with (whole / "estimates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["statistic"] for row in rows} == {
        "mean", "median", "win_rate", "diversity", "mean_difference", "diversity_difference"
    }  # fmt: skip
    for name in ("win_rates", "scores", "samples-plain", "samples-mine"):
        Image.open(whole / f"{name}.png").verify()
    page = (whole / "report.html").read_text()
    # Histograms, and the images of all prompts, each with its file.
    assert page.count("data:image/png;base64,") == 2 * 2 + (3 + 5) * 3
    links = re.findall(r'<a href="([^"]+)">', page)
    assert len(links) == (3 + 5) * 3 and all((whole / link).is_file() for link in links)
    assert "against base</h3>" not in page and "Against base" in page
    assert "a &lt;b&gt;temple&lt;/b&gt;" in page and "<b>" not in page
    assert "<script" not in page.lower() and "http" not in page.replace("http-equiv", "")


def equal(left: Path, right: Path) -> None:
    for name in ("evaluation.json", "samples.csv", "estimates.csv", "tables.md", "report.html"):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


def test_going_on_after_faults_gives_the_same_bits(
    whole: Path, settings: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the sampling of the second model, in both scorers, and before the last file."""

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
                evaluate(settings, tmp_path / "out")
        assert not (tmp_path / "out/evaluation.json").exists()

    stop(vars(samples_module), "generate_images", 2)
    stop(rewards.SCORERS, "ink", 3)
    stop(rewards.SCORERS, "colourfulness", 7)
    stop(vars(diversity), "mean_distance", 9)
    stop(vars(run_module), "write_json", 1)
    evaluate(settings, tmp_path / "out")
    equal(tmp_path / "out", whole)


@pytest.mark.timeout(200)
def test_going_on_after_kills_gives_the_same_bits(
    whole: Path, settings: Evaluation, work: Path, tmp_path: Path
) -> None:
    """kill -9 of the command after the first images and after the first scores."""
    out = tmp_path / "out"
    command = [
        "evaluate", "--base", settings.base, "--output", str(out),
        "--models", *(f"{name}={path}" for name, path in settings.models.items()),
        "--prompts", *(f"{name}={path}" for name, path in settings.prompts.items()),
        "--scorers", *SCORERS, "--trained-on", "tgo=ink", "--count", "3", "--steps", "2",
        "--guidance", "1", "--batch-size", "4", "--score-batch", "5", "--resamples", "200",
        "--device", "cpu",
    ]  # fmt: skip
    for awaited in ("images/base/images/*.png", "scores/*/*.json"):
        process = Popen([sys.executable, "-m", "tglo.cli", *command])
        while process.poll() is None and not list(out.glob(awaited)):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cli.main(command) == 0
    equal(out, whole)


def test_processes_share_the_sampling(whole: Path, settings: Evaluation, tmp_path: Path) -> None:
    assert evaluate(settings, tmp_path / "out", rank=1, world_size=2) is None
    assert not (tmp_path / "out/evaluation.json").exists()
    evaluate(settings, tmp_path / "out", rank=0, world_size=2)
    equal(tmp_path / "out", whole)


def test_what_is_there_is_not_made_again_and_more_is_added(
    whole: Path, settings: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = replace(
        settings,
        models={"tgo": settings.models["tgo"]},
        prompts={"plain": settings.prompts["plain"]},
        scorers={"ink": "ink"},
        count=2,
    )
    evaluate(fewer, tmp_path / "out")
    evaluate(settings, tmp_path / "out")
    added = read_json(tmp_path / "out/evaluation.json")["prompt_sets"]["plain"]["models"]["tgo"]
    expected = read_json(whole / "evaluation.json")["prompt_sets"]["plain"]["models"]["tgo"]
    assert added["scores"]["ink"]["mean"]["value"] == pytest.approx(  # but for rounding
        expected["scores"]["ink"]["mean"]["value"], abs=1e-4
    )
    again = evaluate(settings, tmp_path / "out")
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    for name in SCORERS:
        again_scored = functools.wraps(rewards.SCORERS[name])(lambda *a: pytest.fail("scored"))
        monkeypatch.setitem(rewards.SCORERS, name, again_scored)
    assert evaluate(settings, tmp_path / "out") == again


def test_one_image_of_each_prompt_and_no_trained_model(
    settings: Evaluation, tmp_path: Path
) -> None:
    alone = replace(settings, models={}, trained_on={}, count=1)
    content = evaluate(alone, tmp_path / "out")
    assert content is not None
    assert content["prompt_sets"]["plain"]["models"]["base"]["diversity"] is None
    assert not (tmp_path / "out/win_rates.png").exists()
    assert "win rate against" not in (tmp_path / "out/tables.md").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"options": SamplingOptions(3, 1.0)},
            r"images/base belongs to other settings: steps is '2' there and '3' here",
        ),
        ({"seed": 5}, r"other settings: seed is"),
        (
            {"models": {"tgo": "lora", "lora": "lora"}},
            r"images/tgo belongs .* lora is 'none' there",
        ),
    ],
)
def test_images_of_other_settings_are_refused_by_name(
    whole: Path, work: Path, settings: Evaluation, changed: dict[str, Any], message: str
) -> None:
    if "models" in changed:
        changed = {"models": {name: str(work / path) for name, path in changed["models"].items()}}
    with pytest.raises(ValueError, match=message):
        evaluate(replace(settings, **changed), whole)


def test_files_of_something_else_are_refused_by_name(settings: Evaluation, tmp_path: Path) -> None:
    alone = replace(settings, models={}, trained_on={}, scorers={"ink": "ink"})
    evaluate(alone, tmp_path)
    scores = tmp_path / "scores/base/ink.json"
    kept = scores.read_text()
    content = read_json(scores)
    del content["seal"]
    write_sealed(scores, {**content, "scorers": ["sharpness"]})
    with pytest.raises(ValueError, match=r"ink\.json holds scores of .*sharpness"):
        evaluate(alone, tmp_path)
    scores.write_text(kept)
    (tmp_path / "diversity/base.json").write_text('{"format": "another"}')
    with pytest.raises(ValueError, match=r"base\.json holds no diversity of this kind"):
        evaluate(alone, tmp_path)


@pytest.mark.parametrize("record", ["scores/base/ink.json", "diversity/base.json"])
def test_a_changed_number_is_refused_and_made_again(
    settings: Evaluation, tmp_path: Path, record: str
) -> None:
    alone = replace(settings, models={}, trained_on={}, scorers={"ink": "ink"})
    before = evaluate(alone, tmp_path)
    path = tmp_path / record
    content = read_json(path)
    values = content.get("scores") or content["values"]
    first = min(values)
    values[first] = 0.5 if isinstance(values[first], float) else [[0.5], values[first][1]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{record} is damaged .*checksum\): remove it, and it"):
        evaluate(alone, tmp_path)
    path.unlink()
    assert evaluate(alone, tmp_path) == before


def test_an_evaluation_of_the_version_without_checksums_goes_on(
    settings: Evaluation, tmp_path: Path
) -> None:
    alone = replace(settings, models={}, trained_on={}, scorers={"ink": "ink"})
    before = evaluate(alone, tmp_path)
    sealed = {}
    for record in ("scores/base/ink.json", "diversity/base.json"):
        path = tmp_path / record
        sealed[path] = path.read_bytes()
        content = read_json(path)
        del content["seal"]
        earlier = (
            content["format"].replace("scores.3", "scores.2").replace("diversity.2", "diversity")
        )
        path.write_text(json.dumps({**content, "format": earlier}))
    assert evaluate(alone, tmp_path) == before
    assert {path: path.read_bytes() for path in sealed} == sealed


def test_a_changed_image_is_scored_again(settings: Evaluation, tmp_path: Path) -> None:
    alone = replace(settings, models={}, trained_on={}, scorers={"ink": "ink"})
    before = evaluate(alone, tmp_path)
    first = next((tmp_path / "images/base/images").iterdir())
    Image.new("RGB", (16, 16)).save(first)
    after = evaluate(alone, tmp_path)
    assert before is not None and after is not None
    both = [c["prompt_sets"]["mine"]["models"]["base"] for c in (before, after)]
    others = [c["prompt_sets"]["plain"]["models"]["base"] for c in (before, after)]
    assert both[0] != both[1] or others[0] != others[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": {"base": "./x"}}, "'base' is the name of --base"),
        ({"models": {"a/b": "./x"}}, r"letters, digits and \. \+ - _, not \['a/b'\]"),
        ({"prompts": {}}, "there is no prompt set"),
        ({"scorers": {}}, "there is no scorer"),
        ({"scorers": {"inc": "inc"}}, "did you mean 'ink'"),
        ({"trained_on": {"tgo": ["sharpness"]}}, r"trained_on names 'tgo' and \['sharpness'\]"),
        ({"trained_on": {"sft": ["ink"]}}, r"trained_on names 'sft'"),
        ({"prefixes": {"sft": "good: "}}, r"prefixes name 'sft'; models are \['tgo', 'lora'\]"),
        ({"count": 0}, "count is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_sampling(
    settings: Evaluation, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"trained_on": {}, **changed}
    with pytest.raises(ValueError, match=message):
        evaluate(replace(settings, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_is_sampled_behind_its_prefix_and_scored_without(
    settings: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, str] = {}
    make = samples_module.generate_images

    def watched(model: str, prompts: Any, output: Path, *rest: Any, **options: Any) -> Path:
        heard[output.name] = options["prefix"]
        return make(model, prompts, output, *rest, **options)

    monkeypatch.setattr(samples_module, "generate_images", watched)
    some = {
        "models": {"tgo": settings.models["tgo"]},
        "prompts": {"plain": settings.prompts["plain"]},
    }
    changed = replace(settings, **some, prefixes={"tgo": "good: "}, count=1)  # type: ignore[arg-type]
    content = evaluate(changed, tmp_path / "out")
    assert heard == {"base": "", "tgo": "good: "}
    assert content is not None and content["settings"]["prefixes"] == {"tgo": "good: "}
    assert "good: " not in (tmp_path / "out/samples.csv").read_text()
    assert "tgo is given &#39;good: &#39;" in (tmp_path / "out/report.html").read_text()


def test_a_set_of_one_prompt_is_refused(settings: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a cat\n")
    with pytest.raises(ValueError, match="one has one prompt; an interval needs at least 2"):
        evaluate(replace(settings, prompts={"one": tmp_path / "one.txt"}), tmp_path / "out")

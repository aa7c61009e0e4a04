"""A resume on other data says what changed; the words that say it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.train.conftest import without_export
from tests.train.test_loop import assert_same, final_weights
from tests.train.test_resume import more
from tglo.cache.latents import LatentCache
from tglo.cache.make import build
from tglo.data.sampler import ORDER_VERSION
from tglo.train import TrainConfig, train
from tglo.train.finished_run import export_run
from tglo.train.run import _Data
from tglo.train.same_data import changes, order_of

Make = Callable[..., TrainConfig]


@pytest.fixture
def make_config(make_config: Make) -> Make:
    return without_export(make_config)


def change_manifest(
    config: TrainConfig, folder: Path, change: Callable[[list[list[str]]], list[list[str]]]
) -> TrainConfig:
    """The run with another manifest, beside its images; `change` gets the rows."""
    shutil.copytree(config.data.manifest.parent, folder, dirs_exist_ok=True)
    path = folder / "scored.csv"
    header, *rows = csv.reader(path.open())
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *change(rows)])
    return replace(config, data=replace(config.data, manifest=path))


CHANGES: dict[str, tuple[Callable[[list[list[str]]], list[list[str]]], str]] = {
    "negated": (
        lambda rows: [[p, i, str(-float(s))] for p, i, s in rows],
        r"the scores, the threshold \(0\.\d+ then, -0\.\d+ now\)",
    ),
    "fewer": (lambda rows: rows[:-2], r"the manifest's rows \(12 then, 10 now\)"),
    "order": (lambda rows: rows[::-1], r"the order of the manifest's rows\."),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_rows_are_named_and_refused(name: str, make_config: Make, tmp_path: Path) -> None:
    """Fault 37."""
    change, words = CHANGES[name]
    config = make_config()
    train(config)
    before = final_weights(config.output.folder)
    other = more(change_manifest(config, tmp_path / "other", change), steps=6)
    with pytest.raises(ValueError, match=f"has changed since .*step-00000004: .*{words}.*accept-"):
        train(other)
    assert_same(final_weights(config.output.folder), before)
    assert train(more(other, steps=6, accept_changes=True)).steps == 6
    assert train(more(other, steps=7)).steps == 7  # it was accepted, and is the run's own now


def test_a_cache_of_other_images_and_another_threshold_are_refused(
    make_config: Make, sd15: Path, manifest: Path, tmp_path: Path
) -> None:
    """Fault 37."""
    config = make_config()
    train(config)
    images = Path(shutil.copytree(manifest.parent, tmp_path / "images"))
    shutil.copy(images / "3.png", images / "0.png")
    build(str(sd15), images / "scored.csv", tmp_path / "cache", resolution=16, device="cpu")
    other = replace(config, data=replace(config.data, cache=tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"step-00000004: the cached latents\. Go back"):
        train(more(other, steps=6))
    other = replace(config, data=replace(config.data, percentile=75.0))
    with pytest.raises(ValueError, match=r"step-00000004: the threshold \(0.* now\)\. Go back"):
        train(more(other, steps=6))
    exported = tmp_path / "exported"
    text = json.loads((config.output.folder / "config.json").read_text())
    text["data"]["percentile"] = 75.0
    (config.output.folder / "config.json").write_text(json.dumps(text))
    assert export_run(config.output.folder, exported).is_dir()  # data do not matter there


def test_what_else_is_in_the_cache_does_not_count(
    make_config: Make,
    sd15: Path,
    manifest: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = Path(shutil.copytree(manifest.parent, tmp_path / "images"))
    cache, wider = tmp_path / "cache", images / "wider.csv"

    def build_from(path: Path) -> None:
        build(str(sd15), path, cache, resolution=16, device="cpu")

    build_from(images / "scored.csv")
    config = make_config(data={"manifest": str(images / "scored.csv"), "cache": str(cache)})
    train(config)
    shutil.copy(images / "3.png", images / "new.png")
    wider.write_text((images / "scored.csv").read_text() + "a bird,new.png,0.5\n")
    build_from(wider)
    caplog.clear()
    train(more(config, steps=5, accept_changes=False))
    assert "although these changed" not in caplog.text
    shutil.copy(images / "6.png", images / "0.png")  # another of the same size
    build_from(wider)
    with pytest.raises(ValueError, match=r"step-00000005: the cached latents\. Go back"):
        train(more(config, steps=6))


@pytest.mark.parametrize("name", ["tgo", "csft"])
def test_embeddings_that_are_read_count(
    name: str, make_config: Make, sd15: Path, manifest: Path, tmp_path: Path
) -> None:
    """csft reads those of the marked prompts, others those of the prompts, both the empty one."""
    folder, markers = tmp_path / "cache", ("good: ", "bad: ")
    build(str(sd15), manifest, folder, resolution=16, device="cpu", markers=markers)
    constants = {"good_marker": markers[0], "bad_marker": markers[1]} if name == "csft" else {}
    config = make_config(
        data={"manifest": str(manifest), "cache": str(folder)},
        objective={"name": name, name: constants} if constants else {"name": name},
    )
    data, cache = _Data(config), LatentCache(folder)
    prompts = data.samples.captions or data.manifest.prompts()
    assert all(prompt.startswith(markers) for prompt in prompts) == (name == "csft")
    content = cache.content(prompts=[*prompts, ""])
    assert data.digests | content == data.digests
    assert cache.content()["embeddings"] != content["embeddings"]


@pytest.mark.parametrize(
    ("train_what", "objective", "refused"),
    [("lora", "tgo", True), ("lora", "sft", True), ("full", "tgo", True), ("full", "sft", False)],
)
def test_other_weights_under_a_lora_or_as_the_reference_are_refused(
    train_what: str, objective: str, refused: bool, make_config: Make, sd15: Path, tmp_path: Path
) -> None:
    """Also where the files of the same path were overwritten by others with the same shapes."""
    model = shutil.copytree(sd15, tmp_path / "model")
    sections: dict[str, dict[str, object]] = {
        "model": {"path": str(model), "train": train_what},
        "objective": {"name": objective},
        "output": {"export": False},
    }
    config = make_config(**sections)
    train(config)
    moved = replace(config.model, path=str(shutil.copytree(model, tmp_path / "moved")))
    assert train(more(replace(config, model=moved), steps=5)).steps == 5
    (weights,) = (model / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["conv_in.bias"] += 1
    save_file(tensors, weights, {"format": "pt"})
    if not refused:
        assert train(more(config, steps=6)).steps == 6
        return
    with pytest.raises(
        ValueError, match=r"step-00000005: the base model's weights or sch.*accept-"
    ):
        train(more(config, steps=6))
    assert train(more(config, steps=6, accept_changes=True)).steps == 6


def test_changes_in_words() -> None:
    then = {"count": 2, "rows": "a", "scores": "b", "order": "c", "threshold": "d"}
    then |= {"threshold_value": 0.5, "latents": "e", "embeddings": "f"}
    other = {"rows": "x", "threshold": "x", "embeddings": "x"}
    assert changes(then, then) == ""
    assert changes(then, then | other) == (
        "the manifest's rows (2 as before, but others), the threshold (its scale, or its values for "
        "single prompts), the cached embeddings"
    )


def test_order_is_told_by_rows_buckets_batch_seed_and_sampler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, one, two = [3, 1, 2, 4], [(16, 16)] * 4, [(16, 16), (16, 24)] * 2
    first = order_of(ids, two, (2, 1, 1), 0)
    assert first == order_of(ids, two, (2, 1, 1), 0)
    for other in (
        order_of(ids[::-1], two, (2, 1, 1), 0),
        order_of(ids, one, (2, 1, 1), 0),
        order_of(ids, two, (1, 2, 1), 0),
        order_of(ids, two, (2, 1, 1), 1),
    ):
        assert other != first
    monkeypatch.setattr("tglo.train.same_data.ORDER_VERSION", ORDER_VERSION + 1)
    assert order_of(ids, two, (2, 1, 1), 0) != first
    # With one bucket a step's rows depend on the global batch alone.
    assert order_of(ids, one, (2, 1, 1), 0) == order_of(ids, one, (1, 2, 1), 0)


def test_ranks_that_have_read_other_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine reads its own disk."""
    from tglo.train import processes
    from tglo.train.run import _refuse_ranks_apart

    data: Any = SimpleNamespace(order="a", digests={"rows": "b"})
    _refuse_ranks_apart(data)
    monkeypatch.setattr(processes, "gather", lambda mine: [mine, ("a", {"rows": "c"}), mine])
    with pytest.raises(ValueError, match=r"ranks \[1\] have read another manifest"):
        _refuse_ranks_apart(data)

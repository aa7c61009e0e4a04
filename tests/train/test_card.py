"""The model card of an export, as the hub reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.train.conftest import write_toml
from tglo import cli, models
from tglo.train import TrainConfig, card, train

Make = Callable[..., TrainConfig]
PROMPTS = ["a cat", "<img src=x onerror=alert(1)> | [x](http://evil) `a`\n\n# Title ```"]


@pytest.fixture
def config(make_config: Make) -> TrainConfig:
    return make_config(
        output={
            "validation_prompts": PROMPTS,
            "validation_every": 2,
            "validation_steps": 1,
            "validation_height": 16,
            "validation_width": 24,
        }
    )


def test_a_loras_card(config: TrainConfig, tmp_path: Path) -> None:
    export = train(config).export
    loaded = ModelCard.load(export / "README.md")
    data = loaded.data.to_dict()
    assert data["library_name"] == "diffusers" and data["pipeline_tag"] == "text-to-image"
    assert "lora" in data["tags"] and "tgo" in data["tags"]
    assert "base_model" not in data  # a folder's path means nothing on the hub
    text = loaded.text
    for line in ("| objective | tgo, recipe published |", "| updates | 4 of 2 samples |"):
        assert line in text
    assert "12 scored rows of `scored.csv`" in text and "implicit_accuracy" in text
    assert "percentile 50" in text and "optimizer.learning_rate = 0.001" in text
    assert str(tmp_path) not in text and str(config.model.path) not in text
    with Image.open(export / card.GRID) as grid:  # two prompts, after 2 and 4 updates
        assert grid.size == (2 * 24, 2 * 16)
    assert "after 2 updates and 4 updates, from left to right" in text


def test_prompts_say_themselves_and_nothing_else(config: TrainConfig) -> None:
    text = (train(config).export / "README.md").read_text()
    listed = next(line for line in text.splitlines() if line.startswith("2. "))
    assert r"&lt;img src=x onerror=alert\(1\)&gt; \| \[x\]\(http\://evil\) \`a\` \# Title" in listed
    body, settings = text.split("## Settings")
    assert "<img" not in body and "\n# Title" not in text
    assert settings.lstrip().startswith("````toml\n") and settings.rstrip().endswith("\n````")


def test_formulas_and_the_names_of_files_say_themselves() -> None:
    assert card._escaped("a $x$") == r"a \$x\$"
    assert card._code("a|b`\n.csv") == r"`a\|b .csv`"


def test_cards_of_other_exports(
    config: TrainConfig, make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    run = str(config.output.folder)
    for layout, adapter in (("kohya", True), ("merged", False)):
        output = tmp_path / layout
        command = ["export", run, "--output", str(output), "--layout", layout, "--dtype", "fp16"]
        assert cli.main(command) == 0
        data = ModelCard.load(output / "README.md").data
        assert ("lora" in data.tags) == adapter
        assert (output / "model_index.json").is_file() != adapter
    models.load(tmp_path / "merged")
    full = make_config(folder="full", model={"train": "full"}, optimizer={"steps": 1})
    train(full)
    output = str(tmp_path / "none")
    full_run = str(full.output.folder)
    assert cli.main(["export", full_run, "--output", output, "--layout", "kohya"]) == 1
    assert "layout is kohya, of a LoRA, but the run" in capsys.readouterr().err


def test_the_base_is_named_where_it_is_of_the_hub(
    make_config: Make, sd15: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        model={"path": "owner/base"}, data={"cache": str(make_config().data.cache)}
    )
    monkeypatch.setattr("tglo.models.registry._download", lambda *_: sd15)
    loaded = ModelCard.load(train(config).export / "README.md")
    assert loaded.data.base_model == "owner/base"
    assert loaded.data.to_dict()["base_model_relation"] == "adapter"
    assert 'DiffusionPipeline.from_pretrained("owner/base")' in loaded.text


def test_an_export_without_validation_or_metrics_has_a_card(
    make_config: Make, tmp_path: Path
) -> None:
    config = make_config(model={"config": str(tmp_path / "of-a-file")}, optimizer={"steps": 1})
    train(config)
    moved = shutil.move(config.output.folder, tmp_path / "moved")
    (moved / "metrics.jsonl").write_text("{torn")
    write_toml(config, tmp_path / "run.toml")
    assert cli.main(["export", str(moved), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert 'model.config = "of-a-file"' in text and str(tmp_path) not in text
    assert "Validation images" not in text and "metrics" not in text.split("## Settings")[0]
    assert not (tmp_path / "out" / card.GRID).exists()

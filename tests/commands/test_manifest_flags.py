"""Columns of other names and images elsewhere, in every command that reads a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cache.fake_encoder import FakeEncoder
from tests.data.test_manifest import png
from tglo.cache.build import build_cache
from tglo.cli import main
from tglo.commands.cache import flags_of
from tglo.data.manifest import read_manifest
from tglo.train.config_files import load_config

NAMES = {"prompt": "text", "image": "file_name", "score": "stars"}
FLAGS = [text for role, name in NAMES.items() for text in (f"--{role}-column", name)]
CONFIG = """
[model]
path = "./no-such-model"
[data]
manifest = "{manifest}"
cache = "{folder}/cache"
root = "{root}"
prompt_column = "text"
image_column = "file_name"
score_column = "stars"
[output]
folder = "{folder}/run"
[engine]
device = "cpu"
[optimizer]
micro_batch = 2
"""


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    """A manifest as another tool writes it, and the folder of its images."""
    root = tmp_path / "elsewhere"
    root.mkdir()
    for n in range(2):
        (root / f"{n}.png").write_bytes(png(90 * n, (32, 32)))
    manifest = tmp_path / "metadata.csv"
    manifest.write_text("file_name;text;stars\n0.png;a;1,5\n1.png;b;2,5\n")
    return manifest, root


def test_threshold(data, tmp_path, capsys):
    assert main(["threshold", str(data[0]), *FLAGS, "--output", str(tmp_path / "t.json")]) == 0
    assert "threshold 2 " in capsys.readouterr().out


def test_score(data, tmp_path):
    manifest, root = map(str, data)
    assert main(["score", manifest, "--scorer", "ink", *FLAGS, "--root", root]) == 0
    scored = read_manifest(tmp_path / "metadata-scored.csv", root=root)
    assert scored.prompts() == ["a", "b"] and "stars" not in scored.rows[0].extra


def test_cache(data, tmp_path, capsys):
    """Up to the model, which comes after the manifest."""
    manifest, root = map(str, data)
    command = ["cache", "--model", "./no-such-model", "--output", str(tmp_path / "cache")]
    assert main([*command, "--manifest", manifest, *FLAGS, "--root", root]) == 1
    assert "no-such-model" in capsys.readouterr().err
    assert main([*command, "--manifest", manifest]) == 1
    assert "has no column 'prompt'" in capsys.readouterr().err


def test_train_and_the_cache_of_a_runs_file(data, tmp_path, capsys):
    manifest, root = data
    manifest.write_text(f"file_name;text;stars\n{root}/0.png;a;1,5\n{root}/1.png;b;2,5\n")
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(manifest=manifest, folder=tmp_path, root=root))
    reading = flags_of(load_config(config))["reading"]
    assert (reading.score_column, reading.root) == ("stars", root)
    assert main(["cache", str(config)]) == 1 and "no-such-model" in capsys.readouterr().err

    columns = {f"{role}_column": name for role, name in NAMES.items()}
    rows = read_manifest(manifest, **columns, root=root)
    build_cache(rows, tmp_path / "cache", FakeEncoder(), resolution=32, progress=False)
    assert main(["train", str(config)]) == 1 and "no-such-model" in capsys.readouterr().err
    assert main(["train", str(config), "--data.root", str(tmp_path / "run")]) == 1
    assert "is absolute and outside the data folder" in capsys.readouterr().err


def test_an_image_folder_with_scores_in_its_names_in_every_command(data, tmp_path, capsys):
    root = data[1]
    for n in range(2):
        (root / f"{n}.png").rename(root / f"{n}_{n + 1}.5.png")
        (root / f"{n}_{n + 1}.5.txt").write_text(f"number {n}")
    pattern = ["--score-pattern", "*_{score}"]
    assert main(["threshold", str(root), *pattern, "--output", str(tmp_path / "t.json")]) == 0
    assert "threshold 2 " in capsys.readouterr().out

    config = tmp_path / "run.toml"
    text = CONFIG.format(manifest=root, folder=tmp_path, root=root)
    for name in ("prompt", "image", "score"):
        text = text.replace(f"{name}_column", f"#{name}_column")
    config.write_text(text.replace("[data]", '[data]\nscore_pattern = "*_{score}"'))
    assert flags_of(load_config(config))["reading"].score_pattern == "*_{score}"
    assert main(["cache", str(config)]) == 1 and "no-such-model" in capsys.readouterr().err
    rows = read_manifest(root, score_pattern="*_{score}")
    build_cache(rows, tmp_path / "cache", FakeEncoder(), resolution=32, progress=False)
    assert main(["train", str(config)]) == 1 and "no-such-model" in capsys.readouterr().err
    config.write_text(text)
    assert main(["train", str(config)]) == 1 and "has no score" in capsys.readouterr().err

    assert main(["score", str(root), "--scorer", "ink"]) == 0
    scored = read_manifest(root / "scored.csv")  # knows all that the next command needs
    assert scored.prompts() == ["number 0", "number 1"]
    assert scored.sample_ids().tolist() == rows.sample_ids().tolist()

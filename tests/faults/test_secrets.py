"""Passwords and tokens (fault 28): refused or taken out, and never in an error, a log or a file."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import (  # noqa: F401  (fixtures)
    caches,
    make_config,
    manifest,
    sd15,
    sdxl,
    write_toml,
)
from tglo import cli, models
from tglo.redaction import redacted, redacted_plain
from tglo.train import TrainConfig, load_config, train
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config, to_plain

Make = Callable[..., TrainConfig]
TOKEN = "hf_" + "Abc0123456789" * 3
URL = f"https://someone:{TOKEN}@huggingface.co/owner/model"


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (URL, "https://***@huggingface.co/owner/model"),
        ("git+ssh://u:s3cret@host:22/x y", "git+ssh://***@host:22/x y"),
        ("https://host/x?a=1&access_token=s3cret&b=2", "https://host/x?a=1&access_token=***&b=2"),
        (f"run {TOKEN}, again", "run hf_***, again"),
        ("ghp_0123456789abcdefghijklmnopqrstuvwxyz", "ghp_***"),
        ("a@b.org, ./hf_models/x, sk-8, 12:30@noon, //host/a@b", None),
        ("https://host/a@b", None),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("glpat-abc_1-defghijklmnopq1", "glpat-***"),
        ("sk-proj-" + "a1-_b" * 12, "sk-proj-***"),
        ("/models/hf_stable-diffusion-v1-5, /data/hf_datasets_pickapic_v2/train.csv", None),
        ("runs/sk-something-long-name-1, /data/sk-learn-experiments-run1/cache", None),
    ],
)
def test_what_is_taken_out(text: str, without: str | None) -> None:
    assert redacted(text) == (text if without is None else without)
    plain = redacted_plain({"a": [text, 1, None], "b": {"c": (text,)}})
    assert plain["a"][0] == plain["b"]["c"][0] == redacted(text)


def test_a_url_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(f'[model]\npath = "{URL}"\n')
    common = ["--prompts", "p.txt", "--output", "o"]
    for command in (
        ["train", str(tmp_path / "run.toml")],
        ["train", str(tmp_path / "run.toml"), "--help"],
        ["cache", str(tmp_path / "run.toml")],
        ["plan", str(tmp_path / "run.toml")],
        ["cache", "--model", URL, "--manifest", "m.csv", "--output", "o"],
        ["generate", "--model", URL, *common],
    ):
        assert cli.main(command) == 1
        captured = capsys.readouterr()
        assert TOKEN not in captured.out + captured.err, command
    for refuse in (models.resolve, lambda url: check(parse_config({"model": {"path": url}}))):
        with pytest.raises(ValueError, match=r"is a URL, .*\*\*\*@.*hub id, owner/model") as caught:
            refuse(URL)
        assert TOKEN not in str(caught.value) and "HF_TOKEN" in str(caught.value)


def test_a_token_in_a_configuration_is_stored_nowhere(
    make_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a key of the file and as a flag: metrics, config.json, checkpoints, threshold, trackers."""
    told: list[Any] = []

    class Wandb:
        @staticmethod
        def init(**settings: Any) -> Any:
            told.append(settings)
            return Wandb

        @staticmethod
        def log(*_: Any, **__: Any) -> None: ...

        @staticmethod
        def finish() -> None: ...

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    config = make_config(
        output={"trackers": ["tensorboard", "wandb"], "project": TOKEN, "validation_prompts": [URL]}
    )
    toml = write_toml(make_config(), tmp_path / "run.toml")
    toml.write_text(toml.read_text().replace('"tglo"', f'"{TOKEN}"'))
    assert TOKEN in toml.read_text()
    assert TOKEN not in json.dumps(to_plain(load_config(toml)))
    assert cli.main(["train", str(toml), "--output.project", TOKEN,
                     "--output.trackers", "tensorboard", "wandb"]) == 0  # fmt: skip
    train(config)
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    assert len(told) == 2 and TOKEN not in repr(told)
    for file in config.output.folder.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_errors_logs_and_tracebacks_are_without_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> None:
        logging.getLogger("a.library").warning("trying %s", URL)
        raise RuntimeError(f"401 at {URL}\n with {TOKEN}")

    handler = logging.StreamHandler(sys.stderr)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(cli, "_run", fail)
    for debug in ("0", "1"):
        monkeypatch.setenv("TGLO_DEBUG", debug)
        assert cli.main(["train"]) == 1
        error = capsys.readouterr().err
        assert "trying https://***@" in error and "401 at https://***@" in error
        assert TOKEN not in error
        assert ("Traceback" in error) == (debug == "1")


def test_doctor_and_evaluations_are_without_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tglo.evaluate.run import _plain
    from tglo.evaluate.samples import ModelSamples
    from tglo.evaluate.settings import Evaluation

    monkeypatch.setenv("TGLO_BACKEND", TOKEN)
    monkeypatch.setenv("CUDA_HOME", f"/{TOKEN}")
    assert cli.main(["doctor"]) == 0
    assert TOKEN not in capsys.readouterr().out
    settings = Evaluation("./m", {"x": URL}, {"p": Path("p")}, {"clip": f"clip={URL}"})
    assert TOKEN not in json.dumps(_plain(settings, ModelSamples([], 1, {})))

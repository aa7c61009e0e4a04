"""Settings that cannot work are named before a model is loaded: every number, with NaN, inf, -1, 0 and
more than anything holds, and empty texts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests import tiny
from tglo import cli, models
from tglo.train.config import TrainConfig
from tglo.train.config_checks import check
from tglo.train.config_files import parse_config, put
from tglo.train.config_limits import LIMITS

COMPLETE: dict[str, Any] = {
    "model": {"path": "./model"},
    "data": {"manifest": "scores.csv", "cache": "cache"},
    "output": {"folder": "run"},
}
ZERO_IS_FINE = {
    "seed", "data.guidance",
    "data.draw_seed", "data.draws", "data.percentile", "data.kappa", "data.caption_dropout",
    "model.lora_dropout", "objective.confidence", "objective.kto.positive_weight",
    "objective.kto.negative_weight", "optimizer.warmup_steps", "optimizer.beta1",
    "optimizer.beta2", "optimizer.weight_decay", "optimizer.max_gradient_norm",
    "optimizer.ema_decay", "output.validation_guidance",
    "objective.sdpo.mu", "objective.tgo.safeguard", "engine.hung_after",
}  # fmt: skip
INF_IS_FINE = {"objective.confidence"}
NEEDED = {"objective.tgo.safeguard": ("objective.group", 2)}


def kinds_of_keys(kind: type, prefix: str = "") -> Iterator[tuple[str, set[type]]]:
    """Every key of a configuration with the types that its value may have."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(default := field.default_factory):
            assert isinstance(default, type)
            yield from kinds_of_keys(default, f"{prefix}{field.name}.")
        else:
            hint = hints[field.name]
            yield f"{prefix}{field.name}", set(get_args(hint)) or {hint}


KINDS = dict(kinds_of_keys(TrainConfig))
NUMBERS = [key for key, kinds in KINDS.items() if kinds & {int, float}]
# An empty path is the current folder, which data.root may well be.
MAY_BE_EMPTY = ("_marker", "data.root")
WORDS = [k for k, kinds in KINDS.items() if kinds & {str, Path} and not k.endswith(MAY_BE_EMPTY)]


def config_with(key: str, value: Any) -> TrainConfig:
    plain = {section: dict(values) for section, values in COMPLETE.items()}
    if key in NEEDED:
        put(plain, *NEEDED[key])
    put(plain, key, value)
    return parse_config(plain)


def test_every_number_has_a_limit() -> None:
    assert sorted(NUMBERS) == sorted(LIMITS)
    for key in NUMBERS:
        value = attrgetter(key)(TrainConfig())
        assert value is None or isinstance(value, str) or LIMITS[key].allows(value), key


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_out_of_its_limits_is_named(key: str) -> None:
    values: list[float] = [-1, 2**40, 10**400]
    if float in KINDS[key]:
        values = [-1.0, float("nan"), float("inf"), -float("inf"), 1e308]
    if key not in ZERO_IS_FINE:
        values.append(0)
    if key in INF_IS_FINE:
        values.remove(float("inf"))
        check(config_with(key, float("inf")))
    for value in values:
        if key == "optimizer.steps" and value == 10**400:
            value = 2**63
        with pytest.raises(ValueError, match=rf"{re.escape(key)}\b.*(must be|out of range)"):
            check(config_with(key, value))
    if key in ZERO_IS_FINE:
        check(config_with(key, 0))


@pytest.mark.parametrize("key", WORDS)
def test_an_empty_text_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=re.escape(key)):
        check(config_with(key, ""))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("objective.backend", "cdua", "objective.backend is 'cdua'; nearest: cuda"),
        ("model.attention", "sdap", "unknown model.attention 'sdap'; nearest: sdpa"),
        ("engine.device", "tpu", "engine.device is 'tpu'; use auto, cpu or cuda"),
        ("engine.device", "cuda:x", "engine.device is 'cuda:x'; use auto, cpu or cuda"),
        (
            "optimizer.warmup_steps",
            1001,
            "warmup_steps is 1001; it must be at most optimizer.steps",
        ),
    ],
)
def test_words_that_nothing_is_called(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(config_with(key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("objective.backend", "cuda", "objective.backend: backend 'cuda' cannot run tgo_loss"),
        ("model.attention", "cudnn", "model.attention 'cudnn' needs a CUDA device"),
        ("engine.device", "cuda", "engine.device is 'cuda', but torch finds no CUDA device"),
    ],
)
def test_what_this_machine_lacks_is_known_before_a_model_is_loaded(
    key: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tglo.train.engines.choose import start_processes

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = config_with(key, value)
    check(config)
    with pytest.raises(ValueError, match=message):
        start_processes(config)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny.build_sd15(folder / "model")
    (folder / "prompts.txt").write_text("a temple\na flower\n")
    (folder / "m.csv").write_text("prompt,image,score\na,1.png,0.1\nb,2.png,0.7\n")
    (folder / "run.toml").write_text(
        '[model]\npath = "./model"\n[data]\nmanifest = "m.csv"\ncache = "cache"\n'
        '[output]\nfolder = "run"\n'
    )
    return folder


SAMPLING = {
    "--steps": ("0", "-1", "1000000"),
    "--guidance": ("nan", "inf", "-1", "1e300"),
    "--height": ("0", "-1", "1000000000"),
    "--width": ("0", "-1", "1000000000"),
    "--choice-temperature": ("nan", "inf", "-1"),
    "--count": ("0", "-1", "1000000000000"),
    "--batch-size": ("-1", "1000000000000"),
    "--seed": ("-1", str(2**70)),
    "--device": ("", "tpu"),
}
COMMANDS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "generate": (
        "--model ./model --prompts prompts.txt --output out",
        {**SAMPLING, "--model": ("", "https://example.org/m"), "--prompts": ("",)},
    ),
    "evaluate": (
        "--base ./model --prompts mine=prompts.txt --scorers ink --output out",
        {
            **SAMPLING,
            "--score-batch": ("0", "-1", str(2**70)),
            "--resamples": ("0", "-1", "1000000000000"),
            "--base": ("", "https://example.org/m"),
            "--scorers": ("",),
            "--prompts": ("", "mine="),
            "--models": ("", "x=", "x=https://example.org/m"),
        },
    ),
    "cache": (
        "--model ./model --manifest m.csv --output out",
        {
            "--resolution": ("0", "-1", "1000000000"),
            "--batch-size": ("0", "-1", str(2**70)),
            "--max-bad-fraction": ("nan", "inf", "-1", "2"),
            "--device": ("", "tpu"),
            "--model": ("", "https://example.org/m"),
            "--manifest": ("",),
        },
    ),
    "score": (
        "m.csv --scorer ink",
        {"--batch-size": ("-1", str(2**70)), "--scorer": ("",), "--mixture": ("ink=nan",)},
    ),
    "threshold": (
        "m.csv --output t.json --per-prompt",
        {
            "--percentile": ("nan", "inf", "-1", "101"),
            "--kappa": ("nan", "inf", "-1"),
            "--confidence": ("nan", "-inf", "-1"),
        },
    ),
    "plan": (
        "--model sd15",
        {
            **dict.fromkeys(
                ("--gpus", "--nodes", "--micro-batch", "--accumulation", "--draws"),
                ("0", "-1", "1000000000000"),
            ),
            **dict.fromkeys(
                ("--gpu-memory", "--epochs", "--compute", "--interconnect", "--network"),
                ("nan", "inf", "-1", "0", "1e300"),
            ),
            "--lora-rank": ("0", "-1", "1000000000000"),
            **dict.fromkeys(("--resolution", "--height", "--width"), ("0", "-1", "1000000000000")),
            "--frames": ("0", "-1", "9", "1000000000000"),
            "--model": ("",),
        },
    ),
    "sweep": (
        "run.toml --output out --vary objective.beta=1 --prompts prompts.txt --scorer ink",
        {**SAMPLING, "--scorer": ("nothing",), "--vary": ("", "objective.beta=-1", "seed=-1")},
    ),
    "demo": ("--output out", {"--seed": ("-1", "1000000000000")}),
}
CASES = [
    (command, flag, value)
    for command, (_, flags) in COMMANDS.items()
    for flag, values in flags.items()
    for value in values
]


@pytest.mark.parametrize(("command", "flag", "value"), CASES)
def test_a_flag_is_refused_before_a_model_is_loaded(
    command: str,
    flag: str,
    value: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(work)

    def load(model: str, **_: Any) -> None:
        models.resolve(model)
        pytest.fail("a model was loaded")

    monkeypatch.setattr("tglo.models.load", load)
    usual = COMMANDS[command][0].split()
    if flag in usual:
        at = usual.index(flag)
        del usual[at : at + 2]
    assert cli.main([command, *usual, flag, value]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    name = flag.removeprefix("--").replace("-", "_")
    assert error.startswith("tglo: ") and "not foreseen" not in error
    if value[:1] in tuple("-0123456789ni"):
        assert re.search(rf"{name}|seed|scorer|mixture", error), error
    assert not (work / "t.json").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--draws", "0"), ("--seed", "-1"), ("--caption-dropout", "nan"), ("--attention", "sdap")],
)
def test_a_reference_caches_flag_is_refused_before_its_model_is_loaded(
    flag: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tglo.cache.make.is_made_of", lambda *_: True)
    monkeypatch.setattr("tglo.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    usual = "cache --model ./m --manifest m.csv --output c --device cpu --reference".split()
    assert cli.main([*usual, flag, value]) == 1
    assert re.search(flag.strip("-").replace("-", "_"), capsys.readouterr().err)

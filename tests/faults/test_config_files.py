"""A run's file that cannot be read is one line that names it (fault 31 has wrong keys: tests/train)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tglo import cli
from tglo.train import load_config
from tglo.train.config_files import parse_config

GOOD = '[model]\npath = "./m"\n[output]\nvalidation_prompts = ["ein Tor in Köln"]\n'


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode("latin-1"),
        GOOD.encode("utf-16"),
        GOOD.encode()[:-8],
        b"\x00" * 64,
        b"PK\x03\x04" + bytes(range(256)),
        b"seed = " + b"[" * 100_000,
        ("a." * 5000 + "b = 1").encode(),
        b'[model]\npath = "./m"\n[model]\npath = "./m"\n',
        b"[optimizer]\nsteps = " + b"9" * 5000,
        b"[optimizer]\nlearning_rate = 1" + b"0" * 400,
    ],
    ids="latin utf16 torn zeros binary nested dotted twice digits large".split(),
)
def test_a_file_that_is_no_configuration_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.toml"):
        load_config(file)
    for command in (["train", str(file)], ["cache", str(file)], ["plan", str(file)]):
        assert cli.main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("tglo: ") and error.count("\n") == 1
        assert "run.toml" in error and "not foreseen" not in error


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    file = tmp_path / "run.toml"
    file.write_bytes(GOOD.encode("utf-8-sig"))
    assert load_config(file).output.validation_prompts == ("ein Tor in Köln",)


@pytest.mark.parametrize("content", [None, [], "x", 3])
def test_a_stored_configuration_of_another_form_is_named(content: object) -> None:
    with pytest.raises(ValueError, match=r"config\.json holds .*not the tables"):
        parse_config(content, "run/config.json")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_refused_or_read(seed: int, tmp_path: Path) -> None:
    """Any of a file's bytes may be another; what comes is a configuration or a ValueError."""
    chance = random.Random(seed)
    whole = (Path(__file__).parents[2] / "examples/configs/sdxl_lora.toml").read_bytes()
    file = tmp_path / "run.toml"
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            load_config(file)
        except ValueError as error:
            assert "run.toml" in str(error)

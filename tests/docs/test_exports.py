"""What docs/exports.md says of layouts, flags and settings is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tglo.models.kohya import LAYOUTS
from tglo.models.readback import CHEAP_BYTES
from tglo.train.config_files import parse_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/exports.md").read_text()


def test_the_pipelines_of_kohyas_layout() -> None:
    table = PAGE.split("| pipeline | names |")[1].split("\n\n")[0]
    assert set(re.findall(r"\b\w+Pipeline\b", table)) == set(LAYOUTS)


def test_flags_and_keys() -> None:
    for command in ("export", "push", "cache", "evaluate"):
        help_text = (ROOT / f"tests/golden/help/{command}.txt").read_text()
        known = {"export": ["layout", "dtype"], "push": ["repo", "private", "revision"]}
        for flag in known.get(command, ["lora"]):
            assert f"--{flag}" in help_text
            assert f"--{flag}" in PAGE
    model = parse_config(tomllib.loads(PAGE.split("```toml")[1].split("```")[0])).model
    assert model.lora == Path("./style.safetensors") and model.lora_reference == "start"
    assert f"less than {CHEAP_BYTES / 1e9:g} GB in float32" in PAGE

"""Examples run as they are documented."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from diffusers import StableDiffusionPipeline

from tests.preloaded import run
from tests.train.conftest import manifest, sd15  # noqa: F401  (fixtures)

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_plain_diffusers_and_accelerate(manifest: Path, sd15: Path, tmp_path: Path) -> None:
    output = tmp_path / "aligned"
    command = [
        *(sys.executable, str(EXAMPLES / "diffusers_accelerate.py")),
        *("--model", str(sd15), "--manifest", str(manifest), "--output", str(output)),
        *("--resolution", "16", "--batch-size", "4", "--steps", "5"),
        *("--learning-rate", "1e-3", "--temperature", "0.1"),
    ]
    result = run(command, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr[-2000:]
    losses = [float(x) for x in re.findall(r"step \d+: loss ([\d.]+)", result.stdout)]
    assert len(losses) == 5
    before = StableDiffusionPipeline.from_pretrained(sd15).unet.state_dict()
    after = StableDiffusionPipeline.from_pretrained(output).unet.state_dict()
    assert any(not before[name].equal(after[name]) for name in before)

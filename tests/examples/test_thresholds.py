from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tests.preloaded import run
from tests.train.conftest import manifest  # noqa: F401  (a fixture)

EXAMPLE = Path(__file__).parents[2] / "examples" / "thresholds.py"


def test_the_picture_of_thresholds(manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "threshold.png"
    command = [sys.executable, str(EXAMPLE), str(manifest), str(output), "score"]
    result = run(command, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr[-2000:]
    assert Image.open(output).width > 500

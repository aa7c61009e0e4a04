"""DeepSpeed's own files, of earlier versions, are compared with the run before they are loaded.

tests/train/test_resuming_elsewhere.py loads whole and damaged ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tglo.files import DamagedFile
from tglo.train.engines.deepspeed_files import check_tree


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"groups": torch.zeros(2)},
        {"groups": []},
        {"groups": [torch.zeros(1)]},
        {"groups": [torch.zeros(2).half()]},
        {"groups": [None]},
    ],
)
def test_another_form_is_damaged(found: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match=r"x\.pt is damaged or no part of this run's checkpoint"):
        check_tree(Path("x.pt"), "state", found, {"groups": [torch.zeros(2)], "step": 1})

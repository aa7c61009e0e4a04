"""A tiny model, prompts, and a run's file that says much."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny

RUN = """
seed = 3
[model]
path = "{work}/model"
train = "full"
attention = "sdpa"
gradient_checkpointing = "full"
[data]
manifest = "{work}/m.csv"
cache = "{work}/cache"
prompt_column = "caption"
draw_seed = 7
caption_dropout = 0.5
reference_cache = "{work}/errors"
[objective]
name = "{objective}"
reference = "cached"
[optimizer]
ema_decay = 0.9
micro_batch = 2
accumulation = 3
[engine]
kind = "deepspeed"
zero_stage = 1
precision = "bf16"
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny.build_sd15(folder / "model")
    (folder / "prompts.txt").write_text("a temple\n\na flower\n")
    return folder

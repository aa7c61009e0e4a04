from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_flow, tiny_video
from tglo import models
from tglo.data import ragged
from tglo.noise.draw import Draw

FLOW = {
    "flux": tiny_flow.build_flux,
    "sd3": tiny_flow.build_sd3,
    "sd35": lambda folder: tiny_flow.build_sd3(folder, medium=True),
    "qwen-image": tiny_flow.build_qwen_image,
    "z-image": tiny_flow.build_z_image,
    "klein": tiny_flow.build_flux2_klein,
    "sana": tiny_flow.build_sana,
    "wan": tiny_video.build_wan,
    "ltx": tiny_video.build_ltx,
}


@pytest.fixture(scope="session")
def flow_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each flow-matching family, built once; tests must not write into them."""
    root = tmp_path_factory.mktemp("flow")
    return {name: build(root / name) for name, build in FLOW.items()}


@pytest.fixture(params=list(FLOW))
def flow_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def flow(flow_kind: str, flow_folders: dict[str, Path]) -> models.Family:
    """A freshly loaded model of each kind, without its encoders."""
    return models.load(flow_folders[flow_kind], encoders=False)


def uneven(
    family: models.Family, height: int = 32, width: int = 32, longest: int = 16, frames: int = 9
) -> Draw:
    """A draw of two images or videos whose prompts, where they are ragged, have `longest` and 3 tokens."""
    draw = family.example(2, height, width, frames if family.default_frames else None)
    if ragged.MASK in draw.conditions:
        rows = draw.conditions[ragged.ROWS]
        rows = rows.repeat(1, -(-longest // rows.shape[1]), 1)[:, :longest].clone()
        mask = rows.new_ones(rows.shape[:2]).bool()
        rows[1, 3:], mask[1, 3:] = 0, False
        draw.conditions.update({ragged.ROWS: rows, ragged.MASK: mask})
    return draw

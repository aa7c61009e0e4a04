"""A family is one class and one registry line: a toy of one is cached, trained, exported and sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image
from torch import Tensor

from tests import tiny
from tglo import models
from tglo.cache.latents import LatentCache
from tglo.cache.make import build
from tglo.models import fingerprint
from tglo.models.text import TextPart
from tglo.settings import SamplingOptions
from tglo.train import train
from tglo.train.config_files import parse_config


class ToyPipeline(DiffusionPipeline):
    """Latents from a UNet that is told of the prompt by an embedding added to the timestep's."""

    def __init__(
        self, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )


class Toy(models.Family):
    """UNet2DModel conditioned on a prompt's last hidden state and, in one pass, on the guidance."""

    name = "toy"
    pipeline_class: ClassVar[Any] = ToyPipeline
    text_parts = (TextPart("tokenizer", "text_encoder", length=32, template="picture: {}"),)
    guidance_in_model = True
    patch = 2  # of two levels

    @staticmethod
    def timestep_density(unit: Tensor) -> Tensor:
        return unit.sqrt()

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        ids, mask = self._tokens(prompts, 0)
        return {"embedding": self.text_encoders[0](ids, attention_mask=mask)[0][:, -1]}

    def conditions(
        self, text: dict[str, Tensor], sizes: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        return {"embedding": text["embedding"].to(self.device)}

    def call(
        self,
        denoiser: Callable[..., Any],
        noisy: Tensor,
        timesteps: Tensor,
        conditions: dict[str, Tensor],
    ) -> Tensor:
        guidance = conditions.get("guidance", torch.ones_like(timesteps))
        label = conditions["embedding"] * guidance[:, None]
        return denoiser(noisy, timesteps, class_labels=label, return_dict=False)[0]

    def example_text(self, batch: int) -> dict[str, Tensor]:
        return {"embedding": self._random(batch, tiny.WIDTH)}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(models.FAMILIES, "ToyPipeline", Toy)
    base = DiffusionPipeline.from_pretrained(tiny.build_sd15(tmp_path / "sd15"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(
                4,
                8,
            ),  # so that the timestep's embedding is 16 wide, as the prompt's
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            class_embed_type="identity",
        )
    pipeline = ToyPipeline(
        unet, base.vae, base.text_encoder, base.tokenizer, DDIMScheduler(**tiny.NOISE)
    )
    pipeline.save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def manifest(folder: Path) -> Path:
    """Six squares of one grey each, and their brightness."""
    folder.mkdir()
    lines = ["prompt,image,score"]
    for number in range(6):
        Image.new("RGB", (16, 16), (40 * number,) * 3).save(folder / f"{number}.png")
        lines.append(f"grey {number % 2},{number}.png,{number / 6}")
    (folder / "scored.csv").write_text("\n".join(lines))
    return folder / "scored.csv"


def test_it_is_cached_trained_and_exported(toy: Path, tmp_path: Path) -> None:
    scored = manifest(tmp_path / "data")
    build(str(toy), scored, tmp_path / "cache", resolution=16, device="cpu")
    assert LatentCache(tmp_path / "cache").fingerprint["tokenizer_template"] == "picture: {}"
    config = parse_config(
        {
            "model": {"path": str(toy), "train": "full"},
            "data": {"manifest": str(scored), "cache": str(tmp_path / "cache")},
            "objective": {"temperature": 0.1},
            "optimizer": {"steps": 2, "micro_batch": 3, "learning_rate": 1e-3},
            "engine": {"device": "cpu", "kind": "plain"},
            "output": {"folder": str(tmp_path / "run"), "progress": False},
        }
    )
    result = train(config)
    assert result.finished
    before, after = models.load(toy), models.load(result.export)
    assert type(after) is Toy and after.fingerprint() == before.fingerprint()
    draw = before.example(2, 16, 24)
    assert draw.noisy.shape == (2, *before.latent_shape(16, 24)) == (2, 4, 8, 12)
    predictions = [family.predict(family.denoiser, draw) for family in (before, after)]
    assert not torch.equal(*predictions)


def test_guidance_in_the_model_takes_one_pass(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = models.load(toy)
    rows: list[int] = []
    call = family.call
    monkeypatch.setattr(family, "call", lambda *a: (rows.append(len(a[1])), call(*a))[1])

    def sample(guidance: float) -> bytes:
        options = SamplingOptions(2, guidance)
        return family.generate(["a"], [0], options)[0].tobytes()

    assert sample(1.0) != sample(9.0) and rows == [1, 1, 1, 1]


def test_it_states_its_shapes_and_its_density(toy: Path) -> None:
    family = models.load(toy)
    assert (family.default_size, family.bucket_step, family.size_step) == ((16, 16), 4, 4)
    assert family.schedule.density is Toy.timestep_density
    assert (
        fingerprint.denoiser(family)["schedule"]
        != fingerprint.denoiser(models.load(toy.parent / "sd15"))["schedule"]
    )
    assert family.text(["a"])["embedding"].shape == (1, tiny.WIDTH)
    with pytest.raises(ValueError, match="toy makes images, not 9 frames"):
        family.latent_shape(16, 16, frames=9)
    with pytest.raises(ValueError, match="toy has no tokens to choose"):
        family.generate(["a"], [0], SamplingOptions(1, choice_temperature=1.0))

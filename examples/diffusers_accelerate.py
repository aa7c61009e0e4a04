"""Threshold-guided optimization in a plain diffusers and accelerate script.

Only ``tgo_loss`` and the threshold come from tglo; the loop is the one that diffusers' own training
examples have. The manifest is a CSV file with the columns prompt, image and score.

    accelerate launch examples/diffusers_accelerate.py --model ./sd15 --manifest scored.csv \
        --output ./aligned --resolution 512 --steps 1000
"""

from __future__ import annotations

import argparse
import copy
import csv
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tglo import tgo_loss
from tglo.threshold import describe, estimate


class ScoredImages(Dataset):
    """Rows of the manifest as pixels in [-1, 1], token ids and the score."""

    def __init__(self, manifest: Path, tokenizer, resolution: int) -> None:
        with manifest.open(newline="") as file:
            self.rows = list(csv.DictReader(file))
        self.folder, self.tokenizer, self.resolution = manifest.parent, tokenizer, resolution
        self.scores = np.array([float(row["score"]) for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        row = self.rows[number]
        image = Image.open(self.folder / row["image"]).convert("RGB")
        image = image.resize((self.resolution, self.resolution), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 127.5 - 1
        tokens = self.tokenizer(
            row["prompt"],
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return {
            "pixels": pixels,
            "tokens": tokens.input_ids[0],
            "score": torch.tensor(self.scores[number]),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--temperature", type=float, default=1e-3)
    arguments = parser.parse_args()

    set_seed(0)
    accelerator = Accelerator()
    pipeline = StableDiffusionPipeline.from_pretrained(arguments.model, safety_checker=None)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    vae, text_encoder, unet = pipeline.vae, pipeline.text_encoder, pipeline.unet
    reference = copy.deepcopy(unet)
    for frozen in (vae, text_encoder, reference):
        frozen.requires_grad_(False).eval().to(accelerator.device)

    data = ScoredImages(arguments.manifest, pipeline.tokenizer, arguments.resolution)
    threshold = estimate(data.scores, percentile=50.0)
    accelerator.print(describe(data.scores, threshold))

    unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=arguments.learning_rate)
    loader = DataLoader(data, batch_size=arguments.batch_size, shuffle=True, drop_last=True)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)

    step = 0
    while step < arguments.steps:
        for batch in loader:
            with torch.no_grad():
                latents = vae.encode(batch["pixels"]).latent_dist.sample()
                latents = latents * vae.config.scaling_factor
                text = text_encoder(batch["tokens"])[0]
                noise = torch.randn_like(latents)
                timesteps = torch.randint(
                    scheduler.config.num_train_timesteps, latents.shape[:1], device=latents.device
                )
                noisy = scheduler.add_noise(latents, noise, timesteps)
                reference_pred = reference(noisy, timesteps, text, return_dict=False)[0]
            policy_pred = unet(noisy, timesteps, text, return_dict=False)[0]

            loss = tgo_loss(
                policy_pred,
                noise,
                batch["score"],
                threshold.value,
                reference_pred=reference_pred,
                temperature=arguments.temperature,
            )

            accelerator.backward(loss)
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            accelerator.print(f"step {step}: loss {loss.item():.4f}")
            if step == arguments.steps:
                break

    if accelerator.is_main_process:
        pipeline.unet = accelerator.unwrap_model(unet)
        pipeline.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()

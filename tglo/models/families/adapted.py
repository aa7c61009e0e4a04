"""A loaded model's LoRA: added, read from files in any layout, started from, written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tglo.models import kohya, lora, lora_files, lora_reading, lora_texts
from tglo.models.families.loaded import Loaded


class Adapted(Loaded):
    """A loaded model that may have a LoRA."""

    text_lora: lora_reading.Found | None = None
    """A LoRA with weights for text encoders, which those have that are loaded."""

    def write_lora(
        self,
        folder: Path,
        denoiser: Any,
        layout: str = "diffusers",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write a denoiser's LoRA, with the text encoders' weights that it started with, as the pipeline's
        `load_lora_weights` takes it. layout: diffusers, or kohya where diffusers reads that.
        """
        write = lora_files.write_for_pipeline if layout == "diffusers" else kohya.write
        texts = lora_texts.of(self)
        write(
            folder, denoiser, self.pipeline_class, self.denoiser_part, texts, dtype or torch.float32
        )

    def read_lora(self, path: Path) -> lora_reading.Found:
        """Read a LoRA in any layout that the pipeline knows; ValueError for one of another model."""
        lora_files.check(path)
        return lora_reading.read(path, self.pipeline_class, self.denoiser, self.denoiser_part)

    def attach_lora(
        self, folder: Path, denoiser: Any, *, plainly: bool = False
    ) -> lora_reading.Found:
        """Load a folder's LoRA into a denoiser; its text encoders' weights are only returned. plainly: see
        `lora_reading.attach`.
        """
        found = lora_reading.read(folder, self.pipeline_class, denoiser, self.denoiser_part)
        lora_reading.attach(found, denoiser, self.denoiser_part, plainly=plainly)
        return found

    def start_from_lora(
        self, found: lora_reading.Found, dropout: float = 0.0, seed: int = 0
    ) -> None:
        """Freeze the denoiser and add a LoRA that `read_lora` read, to be trained on; rank, alpha and layers are the
        file's. ValueError for one without weights for the denoiser. Text encoders: see `use_text_lora`.
        """
        part = self.denoiser_part
        weights = found.of(part)
        if not weights:
            raise ValueError(f"{found.path} has no weights for the {part}; give a LoRA that has")
        config = lora_reading.config_of(found, self.denoiser, part)
        self._check_lora_targets([name.partition(".lora_")[0] for name in weights])
        lora.start(self.denoiser, config, weights, dropout, seed)

    def use_text_lora(self, found: lora_reading.Found) -> None:
        """Give the text encoders their weights of a LoRA, those too that are loaded later."""
        if found.text_parts:
            self.text_lora = found
            for name, encoder in self.encoders.present().items():
                self._adapt(name, encoder)

    def _adapt(self, name: str, encoder: Any) -> None:
        if self.text_lora is not None and name in self.text_lora.text_parts:
            lora_reading.attach_to_encoder(self.text_lora, self.pipeline_class, encoder, name)
            encoder.requires_grad_(False)

    def add_lora(
        self,
        rank: int,
        alpha: float,
        targets: Sequence[str] | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Freeze the denoiser and add LoRA layers, zero at first; see tglo.models.lora."""
        targets = targets or self.lora_targets
        self._check_lora_targets(targets)
        lora.add(self.denoiser, rank, alpha, targets, dropout, seed)

    def _check_lora_targets(self, targets: Sequence[str]) -> None:
        """Raise ValueError for a layer that can have no LoRA."""

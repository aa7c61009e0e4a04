"""A model family, as users meet it: what `tglo.models.load` returns.

To add a family, write a subclass of Family in a file of its own and give its pipeline's name one line in
tglo.models.registry.FAMILIES (of masked models: a subclass of tglo.models.families.masked.MaskedFamily).
It must define

    name, pipeline_class    its name, and diffusers' pipeline
    text_parts              the text encoders: folders, length and template of each
    text, example_text      a prompt's embeddings, and random ones of the same shapes
                            (with several text encoders, as a SeveralEncoders too: encode_with and combine
                            in place of text)
    conditions, call        what the denoiser takes beside latents and timesteps; one call of it
    patch                   latents along a side that the denoiser handles as one

and it may replace what has a default: how parts are loaded (tglo.models.families.loaded), latents,
sizes, sampling, guidance, temperature, and the skeleton for `tglo plan` (tglo.models.families.model).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tglo.models import export, fingerprint, lora_readback, sampling
from tglo.models.families.model import Model
from tglo.settings import SamplingOptions


class Family(Model):
    """A loaded model with what is done with it as a whole."""

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        options: SamplingOptions = SamplingOptions(),
        **more: Any,
    ) -> list[Any]:
        """Sample images (or videos) of the prompts, one seed each; see tglo.models.sampling.generate."""
        return sampling.generate(self, prompts, seeds, options, **more)

    def check_export(self, folder: Path | str, *, whole: bool) -> None:
        """Raise ValueError now for what would stop an export later; see tglo.models.export.check_export."""
        export.check_export(self, Path(folder), whole=whole)

    def check_lora_export(self, folder: Path | str) -> None:
        """Raise ExportError now if the LoRA would not be read back; see tglo.models.lora_readback.check."""
        lora_readback.check(self, Path(folder))

    def save(self, folder: Path | str, **options: Any) -> Path:
        """Export a whole diffusers folder (LoRA merged); see tglo.models.export.save_pipeline."""
        return export.save_pipeline(self, Path(folder), **options)

    def save_lora(self, folder: Path | str, **options: Any) -> Path:
        """Export the LoRA for `pipe.load_lora_weights`; see tglo.models.export.save_lora."""
        return export.save_lora(self, Path(folder), **options)

    def load_lora(self, folder: Path | str) -> None:
        """Load an exported LoRA (of tglo or any that the pipeline loads); see tglo.models.export.load_lora."""
        export.load_lora(self, Path(folder))

    def fingerprint(self) -> dict[str, str]:
        """Return what a cache's bytes depend on, name -> text; see tglo.models.fingerprint.encodings."""
        return fingerprint.encodings(self)

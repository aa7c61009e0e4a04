"""Models by family. `load` opens a diffusers folder or a hub model as the family that it is."""

from __future__ import annotations

from tglo.models.families.amused import Amused
from tglo.models.families.base import Family
from tglo.models.families.meissonic import Meissonic
from tglo.models.families.stable_diffusion import StableDiffusion, StableDiffusionXL
from tglo.models.readback import ExportError
from tglo.models.registry import FAMILIES, family_of, is_model, load, local_path, resolve

__all__ = [
    "FAMILIES",
    "Amused",
    "ExportError",
    "Family",
    "Meissonic",
    "StableDiffusion",
    "StableDiffusionXL",
    "family_of",
    "is_model",
    "load",
    "local_path",
    "resolve",
]

"""The registry of families: finds the one that a folder or a hub model belongs to, and opens it."""

from __future__ import annotations

import difflib
import logging
import re
from itertools import chain
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from tglo.models import fitting, folder
from tglo.models.families import meissonic
from tglo.models.families.amused import Amused
from tglo.models.families.base import Family
from tglo.models.families.flux import Flux
from tglo.models.families.flux2 import Flux2, Flux2Klein
from tglo.models.families.ltx import Ltx
from tglo.models.families.meissonic import Meissonic
from tglo.models.families.qwen_image import QwenImage
from tglo.models.families.sana import Sana
from tglo.models.families.stable_diffusion import StableDiffusion, StableDiffusionXL
from tglo.models.families.stable_diffusion_3 import StableDiffusion3
from tglo.models.families.wan import Wan
from tglo.models.families.z_image import ZImage
from tglo.models.skeleton import Skeleton
from tglo.plugins import Registry, subclass_of
from tglo.redaction import redacted, refuse_url

log = logging.getLogger(__name__)

# Pipeline class in a folder's model_index.json -> family. Meissonic's own pipeline is no part of
# diffusers, and its folders are known by their transformer.
_OWN: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "FluxPipeline": Flux,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "QwenImagePipeline": QwenImage,
    "ZImagePipeline": ZImage,
    "Flux2Pipeline": Flux2,
    "Flux2KleinPipeline": Flux2Klein,
    "SanaPipeline": Sana,
    "WanPipeline": Wan,
    "LTXPipeline": Ltx,
    "AmusedPipeline": Amused,
    "Meissonic": Meissonic,
}
FAMILIES: Registry[type[Family]] = Registry("tglo.families", _OWN, subclass_of(Family))
"""With those of other packages (tglo.plugins)."""

_LOCAL = ("./", "../", "/", "~/")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Where a folder's parts may come from. Any other name would be code that the folder brings along.
_LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")


def load(
    path_or_hub_id: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    encoders: bool = True,
    denoiser: bool = True,
) -> Family:
    """Load a model; see `resolve` for its name. ValueError for one that is not supported.

    encoders: False leaves VAE and text encoders on disk; then it neither encodes nor generates. denoiser:
    False leaves its weights there, and loads VAE and text encoders when they are used, one at a time.
    """
    path = resolve(path_or_hub_id, revision=revision)
    return family_of(path)(path, dtype=dtype, device=device, encoders=encoders, denoiser=denoiser)


def resolve(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """Return the local folder of a model, downloaded from the Hugging Face hub if need be.

    A local folder is written as a Path, as `path:FOLDER`, or with a leading ./, ../, / or ~/.
    Everything else is a hub id, also where a local folder has that name: a folder that happens to
    be there must not change which weights are used. Only safetensors weights are taken, and code
    that a model brings along is never run. Raises ValueError when there is no such model, its
    pipeline class is unknown, it brings code, its folder lacks something or reaches out of itself
    (tglo.models.folder), or its parts do not fit each other (tglo.models.fitting).
    """
    name, path = str(path_or_hub_id), local_path(path_or_hub_id)
    if path is not None:
        if not is_folder(path):
            raise ValueError(f"{path} is not a diffusers model folder: it has no model_index.json")
    else:
        path = _download(name, revision)
    family = family_of(path)
    folder.check(path, family)
    with folder.understood(path, f"{family.name} model folder"):
        fitting.check(path, family)
    return path


def is_folder(path: Path) -> bool:
    """Tell whether a local folder is meant to be a model."""
    return (path / folder.INDEX).is_file() or meissonic.is_folder(path)


def local_path(path_or_hub_id: str | Path) -> Path | None:
    """Return the path that a model's name stands for, or None for a hub id; see `resolve`."""
    name = str(path_or_hub_id)
    if isinstance(path_or_hub_id, Path) or name.startswith(("path:", *_LOCAL)):
        return Path(name.removeprefix("path:")).expanduser()
    return None


def _download(name: str, revision: str | None) -> Path:
    refuse_url(name, "the model")
    hint = f"; for the local folder of that name write ./{name}" if Path(name).exists() else ""
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"{redacted(name)!r} is not a hub id such as 'owner/model'{hint or '; write a folder as ./name'}"
        )
    if hint:
        log.warning("%s is read from the hub%s", name, hint)
    try:
        folder = DiffusionPipeline.download(
            name, revision=revision, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the first error says what is wrong, the others where
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        where = hint or " (write a local folder as ./name)"
        raise ValueError(f"cannot get {name!r} from the hub{where}: {reason}") from error
    return Path(folder)


def family_of(path: Path) -> type[Family]:
    """Return the family of a local folder; ValueError where `resolve` raises one."""
    if meissonic.is_folder(path):
        return Meissonic
    index = folder.read_index(path)
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list):
            continue
        if entry[0] not in _LIBRARIES:
            raise ValueError(
                f"{path}: part {part!r} is {entry[0]}.{entry[1]}, code that the model brings "
                "along; such code is never run"
            )
    pipeline = index.get("_class_name")
    found = FAMILIES.find(pipeline) if isinstance(pipeline, str) else None
    if found is None:
        nearest = difflib.get_close_matches(str(pipeline), FAMILIES.known(), n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        raise ValueError(
            f"{path}: unknown pipeline class {pipeline!r}{hint}; "
            f"supported are {', '.join(FAMILIES.known())}"
        )
    return found.for_index(index)


def skeleton_of(model: str) -> Skeleton:
    """Return the denoiser without weights of a published model, by its short name, or of a local folder.

    ValueError if no family knows that name, or a folder of that name.
    """
    tried = []
    for _, family in chain(FAMILIES.items(), FAMILIES.plugins.working()):
        found = family.skeleton(model)
        if found is not None:
            return found
        tried.append(family)
    names = [name for family in tried for name in family.published]
    raise ValueError(
        f"model {model!r} is neither one of {', '.join(names)} nor a diffusers folder "
        "with the configurations of its denoiser (unet or transformer) and its vae"
    )

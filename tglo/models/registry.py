"""The registry of families: finds the one that a folder or a hub model belongs to, and opens it."""

from __future__ import annotations

import difflib
import logging
from contextlib import suppress
from dataclasses import replace
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
from tglo.models.names import HUB_ID, local_path
from tglo.models.single_file.header import read_header
from tglo.models.single_file.layouts import Layout, recognise
from tglo.models.single_file.refusals import adapter_kind
from tglo.models.single_file.stand_in import stand_in
from tglo.models.skeleton import Skeleton
from tglo.models.variants import lacks_weights, with_variant
from tglo.plugins import Registry, subclass_of
from tglo.redaction import redacted, refuse_url
from tglo.settings import ModelOptions

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
    options: ModelOptions = ModelOptions(),
) -> Family:
    """Load a model; see `resolve` for its name. ValueError for one that is not supported.

    encoders: False leaves VAE and text encoders on disk; then it neither encodes nor generates. denoiser:
    False leaves its weights there, and loads VAE and text encoders when they are used, one at a time.
    """
    path = resolve(path_or_hub_id, revision=revision, options=options)
    kind = family_of(path)
    family = kind(path, dtype=dtype, device=device, encoders=encoders, denoiser=denoiser)
    family.prompt_chunks = options.chunks
    return family


def resolve(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    options: ModelOptions = ModelOptions(),
) -> Path:
    """Return the local folder of a model, downloaded from the Hugging Face hub if need be.

    A local folder is written as a Path, as `path:FOLDER`, or with a leading ./, ../, / or ~/. For a model in
    one safetensors file it is a folder that stands for it (tglo.models.single_file). Everything else is a hub
    id, also where a local folder has that name: a folder that happens to be there must not change which weights
    are used. Only safetensors weights are taken, and code
    that a model brings along is never run. Raises ValueError when there is no such model, its
    pipeline class is unknown, it brings code, its folder lacks something or reaches out of itself
    (tglo.models.folder), or its parts do not fit each other (tglo.models.fitting).
    """
    name, path = str(path_or_hub_id), local_path(path_or_hub_id)
    if path is not None:
        if path.is_file():
            path = _stand_in(path, options)
        elif not is_model(path):
            raise ValueError(f"{path} {_what_lacks(path)}")
    else:
        path = _download(name, revision, options.variant)
        if options.variant is None and lacks_weights(path, family_of(path)):
            with suppress(ValueError):  # then what it lacks is told below
                path = _download(name, revision, "fp16")
    family = family_of(path)
    family.check_chunks(options)
    path = with_variant(path, family, options.variant)
    folder.check(path, family)
    with folder.understood(path, f"{family.name} model folder"):
        fitting.check(path, family)
    return path


def is_model(path: Path) -> bool:
    """Tell whether a local folder or file is meant to be a model, not a LoRA."""
    if path.is_file() and path.suffix == ".safetensors":
        return adapter_kind(read_header(path)) is None
    return (path / folder.INDEX).is_file() or meissonic.is_folder(path)


def _stand_in(file: Path, options: ModelOptions) -> Path:
    """Return the folder that stands for a model in one file."""
    layout = _layout(file)
    return stand_in(file, layout, FAMILIES[layout.pipeline], options.model_config)


def _layout(file: Path) -> Layout:
    if file.suffix != ".safetensors":
        raise ValueError(
            f"{file} is no safetensors file. Pickles (.ckpt, .pt, .bin) can run code and are never opened, and "
            "GGUF is not read: take the same model as .safetensors, or convert it where you trust it "
            "(torch.load with weights_only=True, then safetensors.torch.save_file)"
        )
    return recognise(read_header(file))


def _what_lacks(path: Path) -> str:
    if path.is_dir():
        return "is not a diffusers model folder: it has no model_index.json"
    return "does not exist; give a diffusers folder, a .safetensors file or a hub id"


def _download(name: str, revision: str | None, variant: str | None = None) -> Path:
    refuse_url(name, "the model")
    hint = f"; for the local folder of that name write ./{name}" if Path(name).exists() else ""
    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"{redacted(name)!r} is not a hub id such as 'owner/model'{hint or '; write a folder as ./name'}"
        )
    if hint:
        log.warning("%s is read from the hub%s", name, hint)
    named = {} if variant is None else {"variant": variant}
    try:
        folder = DiffusionPipeline.download(
            name, revision=revision, use_safetensors=True, trust_remote_code=False, **named
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


def skeleton_of(model: str, options: ModelOptions = ModelOptions()) -> Skeleton:
    """Return the denoiser without weights of a published model, by its short name, or of a local folder or file.

    ValueError if no family knows that name, or a folder of that name, or for long prompts that it does not take.
    """
    path = local_path(model)
    if path is not None and path.is_file():
        # The skeleton of a published architecture needs no folder, and so no hub.
        known = options.model_config is None and _layout(path).published
        model = known or f"path:{_stand_in(path, options)}"
    tried = []
    for _, family in chain(FAMILIES.items(), FAMILIES.plugins.working()):
        found = family.skeleton(model)
        if found is not None:
            family.check_chunks(options)
            return replace(found, prompt_chunks=options.chunks) if options.chunks > 1 else found
        tried.append(family)
    names = [name for family in tried for name in family.published]
    raise ValueError(
        f"model {model!r} is neither one of {', '.join(names)} nor a diffusers folder "
        "with the configurations of its denoiser (unet or transformer) and its vae"
    )

"""Whether the parts of a model folder fit each other, from their configurations alone, before any is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from safetensors import safe_open

from tglo.models import folder
from tglo.models.families.flow_skeleton import FlowSkeleton
from tglo.models.families.model import Model
from tglo.models.single_file.source import held_by
from tglo.models.text import TextPart

_SAME = "take both from one model"


def check(path: Path, family: type[Model]) -> None:
    """Raise ValueError, naming both sides and the remedy, for parts that are not of one family or one size."""
    index = folder.read_index(path) if (path / folder.INDEX).is_file() else {}
    _check_autoencoder(path, index, family)
    for part in family.text_parts:
        _check_encoder(path, index, family, part)
        _check_template(path, part)
    found = family.skeleton(f"path:{path}")
    if isinstance(found, FlowSkeleton):
        found.check(path)
    denoiser = folder.read_config(path / family.denoiser_part / "config.json")
    _check_widths(path, family, denoiser)
    _check_guidance(path, family, denoiser)
    _check_scheduler(path, family)


def _check_autoencoder(path: Path, index: Mapping[str, Any], family: type[Model]) -> None:
    part, known = family.vae_part, family.codec_class.autoencoders
    config = folder.read_config(path / part / "config.json")
    for kind in (config.get("_class_name"), _listed(index, part)):
        if known and kind and kind not in known:
            raise ValueError(
                f"{path / part} is of class {kind}; a {family.name} model has {' or '.join(known)}. "
                "Put the autoencoder of the same model there, and name its class in "
                f"{folder.INDEX}"
            )


def _check_encoder(
    path: Path, index: Mapping[str, Any], family: type[Model], part: TextPart
) -> None:
    if not part.classes:
        return
    named = _listed(index, part.encoder)
    kind = folder.read_config(path / part.encoder / "config.json").get("model_type")
    wrong = named if named and named not in part.classes else None
    if wrong is None and kind and part.model_type and kind != part.model_type:
        wrong = kind
    if wrong is not None:
        raise ValueError(
            f"{path / part.encoder} is of class {wrong}; a {family.name} model has "
            f"{' or '.join(part.classes)} there. Put the text encoder of the same model there, and name "
            f"its class in {folder.INDEX}"
        )


def _check_template(path: Path, part: TextPart) -> None:
    tokenizer = path / part.tokenizer
    if not part.is_chat or (tokenizer / "chat_template.jinja").is_file():
        return
    file = tokenizer / "tokenizer_config.json"
    if not file.is_file() or not folder.read_config(file).get("chat_template"):
        raise ValueError(
            f"{tokenizer} has no chat template, and the model's prompts are put into one: it needs a file "
            "chat_template.jinja, or chat_template in tokenizer_config.json. Take it from the model's "
            "own repository"
        )


def _check_widths(path: Path, family: type[Model], denoiser: Mapping[str, Any]) -> None:
    for entry, encoders in family.text_widths.items():
        taken = denoiser.get(entry)
        given = [_width(path / part) for part in encoders]
        if not isinstance(taken, int) or None in given:
            continue
        total = sum(n * width for n, width in zip(encoders.values(), given, strict=True) if width)
        if taken != total:
            raise ValueError(
                f"the denoiser in {path} takes {taken} numbers a token of text ({entry}), and "
                f"{' with '.join(encoders)} gives {total}; {_SAME}"
            )


def _width(encoder: Path) -> int | None:
    config = folder.read_config(encoder / "config.json")
    config = {**(config.get("text_config") or {}), **config}
    width = config.get("d_model", config.get("hidden_size"))
    return width if isinstance(width, int) else None


def _check_guidance(path: Path, family: type[Model], denoiser: Mapping[str, Any]) -> None:
    """A transformer without the weights that its configuration promises would start with random ones."""
    parameter = inspect.signature(family.denoiser_class or object).parameters.get("guidance_embeds")
    stated = denoiser.get("guidance_embeds", parameter and parameter.default)
    if not isinstance(stated, bool):
        return
    there = any(
        "guidance_embedder" in name or "guidance_in." in name  # in a folder, in one file
        for file in folder.weights(path / family.denoiser_part)
        for name in _names(file)
    )
    if there == stated:
        return
    source = held_by(path, family.denoiser_part)
    if source is not None:
        raise ValueError(
            f"{source.file} has {'an' if there else 'no'} embedding of the guidance, and {source.rest} is of a model "
            f"{'without' if there else 'with'} one; give the diffusers folder or hub id of the file's own model as "
            "model.config (--model-config)"
        )
    raise ValueError(
        f"{path / family.denoiser_part / 'config.json'} has guidance_embeds {str(stated).lower()}, and "
        f"the weights beside it have {'an' if there else 'no'} embedding of the guidance; set it "
        f"to {str(there).lower()}, or {folder.REMEDY}"
    )


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as weights:
        return list(weights.keys())


def _check_scheduler(path: Path, family: type[Model]) -> None:
    if family.flow_matching is None:
        return
    file = path / "scheduler" / "scheduler_config.json"
    config = folder.read_config(file)
    name = str(config.get("_class_name"))
    flow = name.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
    if family.flow_matching and not (flow or config.get("prediction_type") == "flow_prediction"):
        raise ValueError(
            f"{file} is of {name}, and {family.name} models are trained by flow matching; take the "
            "scheduler of the model's own repository, such as FlowMatchEulerDiscreteScheduler"
        )
    if not family.flow_matching and name.startswith("FlowMatch"):
        raise ValueError(
            f"{file} is of {name}, and {family.name} models are no flow-matching ones; take the "
            "scheduler of the model's own repository, such as DDIMScheduler"
        )
    if config.get("invert_sigmas"):
        raise ValueError(
            f"{file} has invert_sigmas true, for models whose noise grows with 1 - sigma, which "
            f"{family.name} is not; set it to false"
        )
    kind = getattr(diffusers, name, None)
    if family.explicit_sigmas and kind is not None and not config.get("use_flow_sigmas"):
        if "sigmas" not in inspect.signature(kind.set_timesteps).parameters:
            raise ValueError(
                f"{file} is of {name}, which takes no sigmas as the pipeline of {family.name} gives "
                "them; use FlowMatchEulerDiscreteScheduler"
            )


def _listed(index: Mapping[str, Any], part: str) -> str | None:
    entry = index.get(part)
    return entry[1] if isinstance(entry, list) and entry[1] else None

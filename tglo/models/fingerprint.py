"""Fingerprints of what caches depend on: SHA-256 digests of a model folder's parts, and its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tglo.files import sha256_file
from tglo.models.families.model import Model
from tglo.models.folder import present_parts, read_config
from tglo.models.single_file.header import read_header
from tglo.models.single_file.source import held_by

# Besides the weights: what turns a prompt into token ids.
_VOCABULARY = ("vocab.json", "merges.txt", "spiece.model", "chat_template.jinja")
# What saving a folder writes into these files; a tokenizer also keeps how it was last called.
_INCIDENTAL = ("transformers_version", "torch_dtype", "dtype", "truncation", "padding")


def encodings(model: Model) -> dict[str, str]:
    """Return everything that the bytes of cached latents and embeddings depend on, name -> text."""
    return {
        **encoders(model),
        "vae_dtype": str(model.codec.dtype(model.dtype)).removeprefix("torch."),
        "text_dtype": str(model.dtype).removeprefix("torch."),
    }


def encoders(model: Model) -> dict[str, str]:
    """Return everything that their meaning depends on: `encodings` without precisions, which may differ."""
    parts = [name for part in model.text_parts for name in (part.tokenizer, part.encoder)]
    templates = {
        f"{part.tokenizer}_template": part.template for part in model.text_parts if part.template
    }
    digests = folder_fingerprint(model.path, [model.vae_part, *parts])
    chats = {
        f"{part.tokenizer}_chat": f"thinking={part.thinking} {_text_digest(tokenizer.chat_template)}"
        for part, tokenizer in zip(model.text_parts, model.tokenizers, strict=True)
        if part.is_chat
    }
    lora = {} if model.text_lora is None else {"text_lora": file_digest(model.text_lora.path)}
    return {"family": model.name, **digests, **templates, **chats, **model.text_settings(), **lora}


def denoiser(model: Model) -> dict[str, str]:
    """Return everything that the untrained denoiser's predictions and targets depend on, name -> text."""
    digest = folder_fingerprint(model.path, [model.denoiser_part])[model.denoiser_part]
    return {"family": model.name, "denoiser": digest, "schedule": model.schedule.fingerprint()}


def folder_fingerprint(folder: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return part -> hexadecimal digest of its config, safetensors weights (of a model in one file: the part's
    tensors in it) and vocabulary.

    What differs between two savings of the same part does not count.
    """
    return {part: _part_digest(folder / part) for part in parts}


def model_digest(folder: Path, family: type[Model]) -> str:
    """Return a hexadecimal digest of all that a model's images depend on: its parts and its scheduler."""
    digest = hashlib.sha256()
    for part in sorted(present_parts(folder, family)):
        digest.update(f"{part}\0{_part_digest(folder / part)}\0".encode())
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    ours = {key: value for key, value in scheduler.items() if key != "_diffusers_version"}
    digest.update(json.dumps(ours, sort_keys=True).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return a hexadecimal digest of a LoRA: a safetensors file, or those of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"{path} holds no safetensors file; give the folder or file of a LoRA")
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def _part_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    source = held_by(folder.parent, folder.name)
    if source is not None:
        header = read_header(source.file)
        digest.update(header.digest(header.names(source.parts[folder.name])).encode())
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "tokenizer.json"):
            config = read_config(path)
            ours = {key: value for key, value in config.items() if _counts(key)}
            digest.update(json.dumps(ours, sort_keys=True).encode())
        elif path.suffix == ".safetensors" or path.name in _VOCABULARY:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _text_digest(text: str | None) -> str:
    return hashlib.sha256((text or "").encode()).hexdigest()


def _counts(key: str) -> bool:
    return not key.startswith("_") and key not in _INCIDENTAL

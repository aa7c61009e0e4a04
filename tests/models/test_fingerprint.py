from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from tests import tiny
from tglo import models
from tglo.models.fingerprint import encoders


def test_fingerprint_names_what_the_cache_depends_on(
    kind: str, family: models.Family, folders: dict[str, Path], tmp_path: Path
) -> None:
    fingerprint = family.fingerprint()
    parts = {"family", "vae", "text_encoder", "tokenizer", "vae_dtype", "text_dtype"}
    if kind == "sdxl":
        parts |= {"text_encoder_2", "tokenizer_2"}
    assert set(fingerprint) == parts
    assert all(isinstance(value, str) and value for value in fingerprint.values())
    assert models.load(folders[kind]).fingerprint() == fingerprint
    other = models.load(tiny.build_sd15(tmp_path / "other", seed=5)).fingerprint()
    if kind == "sd15":
        differing = {name for name in parts if other[name] != fingerprint[name]}
        assert differing == {"vae", "text_encoder"}
        half = family.to(dtype=torch.bfloat16).fingerprint()
        assert {name for name in parts if half[name] != fingerprint[name]} == {"text_dtype"}
        assert encoders(family).items() < fingerprint.items()


def test_a_saved_again_folder_has_the_same_fingerprint(
    kind: str, family: models.Family, folders: dict[str, Path], tmp_path: Path
) -> None:
    DiffusionPipeline.from_pretrained(folders[kind]).save_pretrained(tmp_path / "again")
    assert models.load(tmp_path / "again").fingerprint() == family.fingerprint()


def test_a_chat_template_counts(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(folders["sd15"], folder)
    before = encoders(models.load(folder))
    (folder / "tokenizer" / "chat_template.jinja").write_text("user: {{ prompt }}")
    after = encoders(models.load(folder))
    assert {name for name in before if before[name] != after[name]} == {"tokenizer"}

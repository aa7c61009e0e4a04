"""The diffusers folder that has what a model's one file does not hold: tokenizers, and parts that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tglo.models.folder import INDEX, TEXTS
from tglo.models.names import HUB_ID, local_path
from tglo.models.single_file.layouts import Layout
from tglo.redaction import refuse_url

_VARIANTS = ["*.fp16.*", "*.fp16-*", "*.bf16.*", "*.non_ema.*"]


def find_rest(file: Path, layout: Layout, needed: Sequence[str], config: str | None) -> Path:
    """Return a local folder with the parts that a file does not hold, downloaded if need be.

    needed: those parts. config: a folder or hub id in place of the layout's own repository; its configurations
    are then taken for all parts. ValueError, saying what is needed of whom, where it cannot be had.
    """
    name = config or layout.repository
    refuse_url(name, "the model's configuration")
    path = local_path(name)
    if path is None:
        path = _download(file, layout, needed, name, whole=bool(config))
    elif not path.is_dir():
        raise ValueError(
            f"model.config (--model-config) is {path}, which is no folder; give a diffusers folder of "
            f"{layout.title}, or a hub id"
        )
    lacking = [part for part in needed if not (path / part).is_dir()]
    if lacking:
        raise ValueError(
            f"{file} ({layout.title}) does not hold {', '.join(lacking)}, and neither does {path}; give a "
            "diffusers folder or hub id that does as model.config (--model-config)"
        )
    return path


def _download(
    file: Path,
    layout: Layout,
    needed: Sequence[str],
    name: str,
    *,
    whole: bool,
) -> Path:
    from huggingface_hub import snapshot_download

    if not HUB_ID.fullmatch(name):
        raise ValueError(
            f"model.config (--model-config) is {name!r}, which is no hub id such as 'owner/model'; write a "
            f"folder as ./{name}"
        )
    endings = (*TEXTS, ".safetensors")
    wanted = [f"{part}/*{ending}" for part in needed for ending in endings]
    if whole or not layout.published:
        wanted += [INDEX, "*/config.json", "scheduler/*.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=_VARIANTS))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{file} ({layout.title}) does not hold {', '.join(needed)}, which {name} on the hub has, and that "
            f"cannot be read ({reason}). Give a local diffusers folder of {layout.title} with "
            f"{'it' if len(needed) == 1 else 'them'} as model.config (--model-config), or start this once "
            "where there is network"
        ) from error

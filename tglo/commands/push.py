"""The flags of `tglo push`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from tglo.console.verbosity import show


def push(
    folder: Positional[Path], repo: str, private: bool = False, revision: str | None = None
) -> dict[str, Any]:
    """Upload an export, with its model card, to the Hugging Face hub.

    The token comes from HF_TOKEN or `hf auth login`; HF_ENDPOINT names another hub.

    Args:
        folder: What `tglo train` or `tglo export` wrote: RUN/export.
        repo: OWNER/NAME; made if it does not exist.
        private: Make it a private one; refused if it exists and is public.
        revision: Branch, made if it does not exist; the main one by default.
    """
    from tglo.files.hub import push

    address = push(folder, repo, private=private, revision=revision)
    show(f"pushed to {address}")
    return {"address": address}

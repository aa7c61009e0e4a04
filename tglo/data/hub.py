"""Data sets of the Hugging Face hub, as hf://datasets/OWNER/NAME[@REVISION][/PATH], in the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from tglo.data.errors import ManifestError
from tglo.redaction import redacted

_ADDRESS = re.compile(
    r"hf:/{1,2}datasets/(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


def is_on_hub(path: Path) -> bool:
    """Say whether a path is an address on the hub; as a Path it has lost a slash."""
    return str(path).startswith("hf:/")


def local_copy(path: Path) -> Path:
    """Return where a path is on this machine: itself, or of a data set on the hub the snapshot in the hub's cache.

    What is not there yet is downloaded. ManifestError if it cannot be, with what to do.
    """
    if not is_on_hub(path):
        return path
    address = _ADDRESS.fullmatch(str(path))
    if address is None:
        raise ManifestError(
            f"{redacted(str(path))} is no data set on the hub: write hf://datasets/OWNER/NAME, with @REVISION and "
            "/PATH of a file or folder in it if need be"
        )
    below = (address["path"] or "").strip("/")
    folder = _snapshot(address["id"], address["revision"], below)
    return folder / below


def _snapshot(name: str, revision: str | None, below: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [below, f"{below}/*"] if below else None
    try:
        return Path(
            snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = redacted(str(error).strip().partition("\n")[0]) or type(error).__name__
        at = f" --revision {revision}" if revision else ""
        raise ManifestError(
            f"cannot get the data set {name} from the hub: {reason}. Without a network, download it where there is "
            f"one (hf download {name} --repo-type dataset{at}) into the same cache, or into a folder that is given "
            "instead; private ones need HF_TOKEN"
        ) from error

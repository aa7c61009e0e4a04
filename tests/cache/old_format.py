"""Caches of format 1, as tglo wrote them before caches could be extended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tglo.files import sha256_file, write_json

SINCE = {"seal", "rows", "keys", "digests"}


def as_format_1(folder: Path, identity: str = "0") -> None:
    """Turn a new latent cache into one of format 1. identity: the manifest's."""
    index = load_file(folder / "index.safetensors")
    for name in ("digest", "text_digest"):
        del index[name]
    path = folder / "index.safetensors"
    save_file(index, path)
    for record in [*folder.glob("latents-*.json"), *folder.glob("text-*.json")]:
        if record.name.endswith(".sources.json"):
            record.unlink()
        else:
            write_json(record, without(json.loads(record.read_bytes())))
    content = without(json.loads((folder / "cache.json").read_bytes()))
    content["version"] = 1
    content["fingerprint"] |= {"cache_format": "1", "samples": identity}
    content["index"] = entry(path)
    write_json(folder / "cache.json", content)
    write_json(folder / "fingerprint.json", content["fingerprint"])


def errors_as_format_1(folder: Path) -> None:
    """Turn a new cache of reference errors into one of format 1."""
    content = without(json.loads((folder / "reference.json").read_bytes()))
    content["version"], content["shards"] = 1, []
    for path in sorted(folder.glob("errors-*.safetensors")):
        tensors = load_file(path)
        save_file({name: tensors[name] for name in ("sample_id", "error")}, path)
        content["shards"].append(entry(path))
        write_json(path.with_suffix(".json"), content["shards"][-1])
    write_json(folder / "reference.json", content)


def entry(path: Path) -> dict[str, object]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def without(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in SINCE}

"""Finds and reads a reward model's files: local ones in their published layout, or the hub's.

A scorer is named as NAME[=PLACE][,PART=PLACE]...: PLACE is the model's file or folder, PART another
thing that it needs, such as a tokenizer. A local place starts with ./, ../, / or ~/; anything else
is a hub id. A part that is not named is looked for beside the model's local file, then in an installed
package that has it, then on the hub.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WEIGHTS = "weights"  # the part that NAME=PLACE names
_LOCAL = ("./", "../", "/", "~/")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Part:
    """One thing that a reward model is read from.

    files: sets of file names; a folder that has all files of one set has the part.
    hub: the repository that publishes it; None if there is none, and then page says where it is.
    single: the part is one file, which may have any name when it is named itself.
    also: further files, or patterns, that a download takes if they exist.
    package: where an installed package has the file, PACKAGE/PATH; it is found without being imported.
    """

    files: tuple[tuple[str, ...], ...]
    hub: str | None
    page: str = ""
    single: bool = False
    also: tuple[str, ...] = ()
    package: str = ""

    def inside(self, folder: Path) -> Path | None:
        """Return the part of a folder, a file or the folder itself; None if the folder lacks it."""
        for names in self.files:
            if all((folder / file).is_file() for file in names):
                return folder / names[0] if self.single else folder
        return None

    @property
    def installed(self) -> Path | None:
        """The file of the installed package, if there is one."""
        name, _, path = self.package.partition("/")
        spec = importlib.util.find_spec(name) if name else None
        places = (spec.submodule_search_locations if spec else None) or ()
        return next((Path(p) / path for p in places if (Path(p) / path).is_file()), None)

    @property
    def names(self) -> str:
        """The files of the first set, for messages."""
        return " and ".join(self.files[0])

    @property
    def download(self) -> str:
        """The advice where a person can get it."""
        return f"Download {self.names} from {self.page or f'https://huggingface.co/{self.hub}'}"


def clip_model(hub: str) -> Part:
    """Return the part that is a folder with a transformers CLIPModel in safetensors."""
    whole, sharded = "model.safetensors", "model.safetensors.index.json"
    files = (("config.json", whole), ("config.json", sharded))
    return Part(files, hub, also=("model-*.safetensors",))


def clip_tokenizer(hub: str) -> Part:
    """Return the part that is a folder with CLIP's tokenizer."""
    files = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    return Part(files, hub, also=("tokenizer_config.json", "special_tokens_map.json"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the part of a message that names the nearest of the known names; "" if none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Parse NAME[=PLACE][,PART=PLACE]... into (NAME, place by part); ValueError for another form."""
    first, *others = text.split(",")
    name, equals, place = first.partition("=")
    places = {WEIGHTS: place} if equals else {}
    for other in others:
        part, _, place = other.partition("=")
        if part in places:
            raise ValueError(f"scorer {text!r} names {part!r} twice; leave one")
        places[part] = place
    empty = [part for part, place in places.items() if not part or not place]
    if empty or not name:
        raise ValueError(f"scorer {text!r} is not of the form NAME=PLACE,PART=PLACE")
    return name, places


def locate(name: str, places: Mapping[str, str], parts: Mapping[str, Part]) -> dict[str, Path]:
    """Return the local path of each part: a file if the part is single, else a folder.

    name: the scorer's name, for messages. places: as `parse` returns them. Raises ValueError for an
    unknown part or a missing file, saying what to download and where to put it.
    """
    for part in places:
        if part not in parts:
            hint = did_you_mean(part, parts)
            raise ValueError(f"{name} has no part {part!r}{hint}; it has {', '.join(parts)}")
    beside: tuple[Path, ...] = ()
    found: dict[str, Path] = {}
    for part, wanted in parts.items():
        place = places.get(part)
        if place is None:
            folders = (hit for folder in beside for hit in (folder, folder / part))
            inside = next(filter(None, map(wanted.inside, folders)), None) or wanted.installed
            if inside is not None:
                found[part] = inside
        elif place.startswith(("path:", *_LOCAL)):
            path = Path(place.removeprefix("path:")).expanduser()
            found[part] = _local(name, path, wanted)
            if part == WEIGHTS:
                beside = (path if path.is_dir() else path.parent,)
    # What no hub has is missed before gigabytes of the rest are downloaded.
    missing = [part for part in parts if part not in found]
    missing.sort(key=lambda part: bool(places.get(part) or parts[part].hub))
    for part in missing:
        found[part] = _download(name, part, parts[part], places.get(part))
    return {part: found[part] for part in parts}


def stamp(files: Mapping[str, Path]) -> str:
    """Return the names, sizes and times of the weight files, which change when the weights do."""
    entries = []
    for path in files.values():
        inner = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        entries += [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in inner]
    return " ".join(entries)


def load_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pt, .pth or .safetensors file, from its entry "state_dict" if it has one.

    Only tensors are unpickled; a file that would run code raises ValueError, and so does a torn one.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is torn, or no safetensors file ({error}); download it again"
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception:  # of nearly any type for a torn file; torch's text advises running the file
        raise ValueError(
            f"{path} is torn, or holds something other than tensors, which is never unpickled since "
            "that could run code; download it again"
        ) from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict of tensors; give the published file")
    return content


def checked(path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError naming the file unless state has exactly the expected names and shapes."""
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    for problem, keys in (("lacks", missing), ("has unknown", unknown), ("misshapes", shapes)):
        if keys:
            raise ValueError(
                f"{path} {problem} {len(keys)} of the model's weights ({', '.join(keys[:3])}); "
                "is it another model's file, or another version?"
            )


def _local(name: str, path: Path, wanted: Part) -> Path:
    if wanted.single and path.is_file():
        return path
    if found := wanted.inside(path):
        return found
    files = wanted.names
    what = f"{path} has no {files}" if path.is_dir() else f"{path} does not exist ({files})"
    raise ValueError(f"{name}: {what}. {wanted.download} into that place")


def _download(name: str, part: str, wanted: Part, hub: str | None = None) -> Path:
    repository = hub or wanted.hub
    option = f"{name}=./PLACE" if part == WEIGHTS else f"{name}=...,{part}=./PLACE"
    remedy = f"{wanted.download} and name its place: --scorer {option}"
    if repository is None:
        raise ValueError(f"{name}: its {part} file is not on the hub. {remedy}")
    if not _HUB_ID.fullmatch(repository):
        raise ValueError(
            f"{name}: {repository!r} is not a hub id such as 'owner/model'; write a local place "
            f"with a leading ./ or /: {part} = ./{repository}"
        )
    from huggingface_hub import snapshot_download

    log.info("%s: %s from the hub, %s", name, part, repository)
    patterns = [*dict.fromkeys(file for names in wanted.files for file in names), *wanted.also]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # of many types: offline, unknown, gated, disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{name}: cannot get {part} from the hub ({repository}: {reason}). {remedy}"
        ) from None
    if found := wanted.inside(folder):
        return found
    raise ValueError(f"{name}: {repository} on the hub has no {wanted.names}. {remedy}")

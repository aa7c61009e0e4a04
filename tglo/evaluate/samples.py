"""Images or videos of every model for all prompts, their scores and their diversity: made once, then kept.

    images/MODEL/            as `tglo generate` makes it, for the prompts of all sets together
    scores/MODEL/SCORER.json
    diversity/MODEL.json

Each of them resumes where it was stopped, and knows the images it belongs to.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tglo import models
from tglo.data.images import decode_image
from tglo.data.manifest import Manifest, Row, read_manifest
from tglo.data.prefetch import in_order
from tglo.data.video import is_video
from tglo.data.video_views import read_frames
from tglo.evaluate import diversity
from tglo.evaluate.settings import BASE, Evaluation
from tglo.files import read_sealed, reading, write_sealed
from tglo.generation.generate import generate_images
from tglo.models import lora_files
from tglo.rewards import Scorer, load_scorer, score_manifest
from tglo.rewards.frames import OfFrames
from tglo.rewards.video import takes_videos

FORMAT = f"tglo.diversity.2, {diversity.SIDE} pixels"
UNSEALED = f"tglo.diversity, {diversity.SIDE} pixels"  # the same without a checksum
_DIVERSITY = "diversity of images", "remove it, and it is measured again"
SAVE_SECONDS = 30.0
Floats = NDArray[np.float64]


@dataclass
class ModelSamples:
    """The images of every model and what was measured on them; prompt i is row i of every array."""

    prompts: Sequence[str]
    count: int
    manifests: dict[str, Manifest]
    """Model -> its images, prompt by prompt, `count` times over."""
    frames: dict[str, int] = field(default_factory=dict)
    """Model -> frames of its videos; empty where the models make images."""
    scores: dict[str, dict[str, Floats]] = field(default_factory=dict)
    """Model -> scorer -> (P, n)."""
    diversity: dict[str, Floats] = field(default_factory=dict)
    """Model -> (P,); empty where there is one image of each prompt."""

    def rows(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows of `prompts` in the arrays."""
        place = {prompt: row for row, prompt in enumerate(self.prompts)}
        return np.array([place[prompt] for prompt in prompts])

    def image(self, model: str, prompt: int, index: int) -> Row:
        """Return an image, as the manifest has it, of the prompt in this row."""
        return self.manifests[model].rows[index * len(self.prompts) + prompt]


def check_models(settings: Evaluation) -> dict[str, int]:
    """Return the frames of each model's videos, nothing for models of images.

    Raises ValueError, before the first is sampled, for a model or a LoRA that is not there, for a size or a
    number of frames that a model cannot make, and for images and videos to be compared.
    """
    paths = {
        name: models.resolve(_model(settings, name)[0], options=settings.loading)
        for name in settings.names
    }
    kinds = {name: models.family_of(path) for name, path in paths.items()}
    frames = {
        name: settings.options.frames or kind.default_frames
        for name, kind in kinds.items()
        if kind.default_frames is not None
    }
    for name in settings.models:
        if (name in frames) != (BASE in frames):
            makes = ("images", "videos") if name in frames else ("videos", "images")
            raise ValueError(
                f"{BASE} ({settings.base}) makes {makes[0]} and model {name} ({settings.models[name]}) "
                f"{makes[1]}, which no scorer can compare; evaluate them apart, each with a base of its kind"
            )
    for name, kind in kinds.items():
        kind.check_size(paths[name], settings.options)
        _, lora = _model(settings, name)
        if lora is not None and not lora.is_file() and not any(lora.glob("*.safetensors")):
            raise ValueError(
                f"model {name}: {lora} is neither a model (a diffusers folder or a .safetensors file) nor a "
                "LoRA: it has no model_index.json and no .safetensors file"
            )
        if lora is not None:
            lora_files.check(lora)
    return frames


def check_scorer(name: str, scorer: Scorer, frames: dict[str, int]) -> None:
    """Raise ValueError for a scorer of videos where the models make images; frames: as of `check_models`."""
    if takes_videos(scorer) and not frames:
        raise ValueError(f"scorer {name} takes videos, and the models make images; leave it out")


def generate(
    settings: Evaluation,
    prompts: Sequence[str],
    output: Path,
    frames: dict[str, int],
    *,
    rank: int = 0,
    world_size: int = 1,
) -> ModelSamples:
    """Sample the images, without scores. Process 0 waits for the others'; only its result is complete.

    frames: as of `check_models`.
    """
    manifests = {}
    for name in settings.names:
        model, lora = _model(settings, name)
        path = generate_images(
            model,
            prompts,
            output / "images" / name,
            settings.options,
            count=settings.count,
            lora=lora,
            prefix=settings.prefixes.get(name, ""),
            batch_size=settings.batch_size,
            seed=settings.seed,
            device=settings.device,
            dtype=settings.dtype,
            rank=rank,
            world_size=world_size,
            wait=rank == 0,
            loading=settings.loading,
        )
        if rank == 0:
            manifests[name] = read_manifest(path, require_scores=False)
    return ModelSamples(prompts, settings.count, manifests, frames)


def score(settings: Evaluation, samples: ModelSamples, output: Path) -> None:
    """Fill in scores and diversity."""
    for scorer, text in settings.scorers.items():
        function = load_scorer(text, device=settings.device, dtype=settings.dtype)
        for name, manifest in samples.manifests.items():
            partial = output / "scores" / name / f"{file_name(scorer)}.json"
            partial.parent.mkdir(parents=True, exist_ok=True)
            scored = _scored(settings, manifest, function, samples.frames.get(name), partial)
            scores = scored.scores().reshape(samples.count, len(samples.prompts)).T
            samples.scores.setdefault(name, {})[scorer] = scores
    if samples.count > 1:
        (output / "diversity").mkdir(exist_ok=True)
        for name in samples.manifests:
            path = output / "diversity" / f"{name}.json"
            samples.diversity[name] = _diversity(samples, name, path)


def _scored(
    settings: Evaluation, manifest: Manifest, scorer: Scorer, frames: int | None, partial: Path
) -> Manifest:
    """Score a model's samples: images, or videos of so many frames, as it takes them or some of their frames."""
    batch = settings.score_batch
    if frames is None:
        return score_manifest(manifest, scorer, batch, partial=partial)
    if not takes_videos(scorer):
        frames = min(frames, settings.videos.frames)
        scorer = OfFrames(scorer, frames, settings.videos.of_frames, chunk=batch)
    batch = max(1, batch // frames)
    return score_manifest(manifest, scorer, batch, partial=partial, frames=frames)


def file_name(scorer: str) -> str:
    """Return a file name for a scorer; no two scorers share one."""
    plain = re.sub(r"[^\w.+-]", "-", scorer)
    digest = hashlib.sha256(scorer.encode()).hexdigest()[:8]
    return plain if plain == scorer else f"{plain}-{digest}"


def _model(settings: Evaluation, name: str) -> tuple[str, Path | None]:
    """Return the pipeline of a model, and its LoRA if that is what it is."""
    if name == BASE:
        return settings.base, settings.lora
    value = settings.models[name]
    path = models.local_path(value)
    if path is None or models.is_model(path):
        return value, None
    return settings.base, path


def _diversity(samples: ModelSamples, name: str, path: Path) -> Floats:
    """Return the diversity (P,) of each prompt's images; values that `path` holds for them are kept."""
    manifest = samples.manifests[name]
    known = _known_diversity(path) if path.exists() else {}
    content = {"format": FORMAT, "values": known}
    saved = time.monotonic()

    def measure(prompt: int) -> tuple[str, float]:
        rows = [samples.image(name, prompt, index) for index in range(samples.count)]
        digests = b"".join(_digest(manifest, row) for row in rows)
        digest = hashlib.sha256(digests).hexdigest()
        if digest in known:
            return digest, known[digest]
        return digest, diversity.mean_distance([_features(manifest, row) for row in rows])

    values = []
    with ThreadPoolExecutor(4) as pool:
        for digest, value in in_order(pool, measure, range(len(samples.prompts)), 8):
            known[digest] = value
            values.append(value)
            if time.monotonic() - saved > SAVE_SECONDS:
                write_sealed(path, content)
                saved = time.monotonic()
    write_sealed(path, content)
    return np.array(values, dtype=np.float64)


def _digest(manifest: Manifest, row: Row) -> bytes:
    with manifest.open_file(row) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _features(manifest: Manifest, row: Row) -> Floats:
    if is_video(row.image):
        with manifest.open_file(row) as file:
            return diversity.video_features(read_frames(file, diversity.FRAMES).frames)
    return diversity.features(decode_image(manifest.open_image(row)))


def _known_diversity(path: Path) -> dict[str, float]:
    """Read the diversity of images by their digest."""
    content = read_sealed(path, *_DIVERSITY, lambda found: found.get("format") != FORMAT)
    if content.get("format") not in (FORMAT, UNSEALED):
        raise ValueError(f"{path} holds no diversity of this kind; remove it")
    with reading(path, *_DIVERSITY):
        return {digest: float(value) for digest, value in content["values"].items()}

"""The model card of an export: a README.md as the Hugging Face hub reads it, and a grid of validation images.

It names no path of this machine: only hub ids, file names, digests and the settings.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from PIL import Image

from tglo.models import local_path
from tglo.redaction import redacted
from tglo.train.config_files import to_plain
from tglo.train.earlier import SAMPLES
from tglo.train.run import Run

GRID = "validation.png"
_SIDE = 256  # pixels of an image in the grid
_SHOWN = 8  # prompts in the grid
_METRICS = (
    *("step", "loss", "implicit_accuracy", "r_positive", "r_negative", "saturated"),
    *("policy_error", "reference_error", "noise_floor"),
)
_PATHS = ("manifest", "cache", "threshold", "reference_cache", "root", "folder", "project")


def files(run: Run, layout: str, base: dict[str, Any]) -> dict[str, bytes]:
    """Return the card's files by name. base: the digest of the base model, as `BaseModel.digests` has it."""
    grid, steps = _grid(run)
    card = _front_matter(run, layout) + _body(run, layout, base, steps)
    found = {"README.md": redacted(card).encode("utf-8", "replace")}
    return found if grid is None else {**found, GRID: grid}


def _front_matter(run: Run, layout: str) -> str:
    path = run.config.model.path
    of_hub = local_path(path) is None
    adapter = _is_adapter(run, layout)
    data = ModelCardData(
        base_model=path if of_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if of_hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image" if run.family.frame_rate is None else "text-to-video",
        tags=["diffusers", "tglo", run.config.objective.name, *(["lora"] if adapter else [])],
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _body(run: Run, layout: str, base: dict[str, Any], steps: list[int]) -> str:
    config, digests = run.config, run.digests
    kind = "LoRA" if _is_adapter(run, layout) else "model"
    objective = config.objective
    facts = {
        "base": f"{_base_name(run)}, {run.family.name}",
        "base's digest": base.get("base", ""),
        "started from": _start(run),
        "data": f"{digests['count']} scored rows of {_code(config.data.manifest.name)}",
        "data's digest": f"rows {digests['rows']}, scores {digests['scores']}",
        "objective": f"{objective.name}, recipe {config.recipe}",
        "threshold": _threshold(run),
        "temperature T": f"{run.temperature.value:g}",
        "confidence c": f"{objective.confidence:g}",
        "updates": f"{config.optimizer.steps} of {_batch(run)} samples",
    }
    lines = [
        f"# {kind} aligned with tglo",
        "",
        f"This {kind} of {_base_name(run)} was trained on scored samples with "
        "[tglo](https://arxiv.org/abs/2605.04653) (threshold-guided optimization and related objectives).",
        "",
        *_usage(run, layout),
        "## Training",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.items() if value),
        "",
        *_metrics(run),
        *_pictures(run, steps),
        *_settings(run),
    ]
    return "\n".join(lines)


def _is_adapter(run: Run, layout: str) -> bool:
    return run.config.model.train == "lora" and layout != "merged"


def _base_name(run: Run) -> str:
    path = run.config.model.path
    local = local_path(path)
    return f"[{path}](https://huggingface.co/{path})" if local is None else _code(local.name)


def _start(run: Run) -> str:
    model = run.config.model
    if model.lora is None:
        return ""
    return f"the LoRA {_code(model.lora.name)}, {run.digests['lora'].split()[-1]}; reference: {model.lora_reference}"


def _threshold(run: Run) -> str:
    threshold, data = run.threshold, run.config.data
    how = "from a file" if data.threshold is not None else str(data.baseline)
    if how == "percentile":
        how = f"percentile {data.percentile:g}{' of each prompt' if data.per_prompt else ''}"
    return f"{threshold.value:.6g} ({how}), digest {run.digests['threshold']}"


def _batch(run: Run) -> int:
    units = run.batches.samples.units
    return run.batches.sampler.micro_batch * units.shape[1] * run.config.optimizer.accumulation


def _usage(run: Run, layout: str) -> list[str]:
    loader = "DiffusionPipeline"
    load = ['pipe = DiffusionPipeline.from_pretrained("THIS FOLDER OR REPOSITORY")']
    if _is_adapter(run, layout):
        loader, base = _base_loader(run)
        load = [f"pipe = {base}"]
        part = run.family.denoiser_part
        if (
            getattr(run.family.pipeline_class, "lora_state_dict", None) is None
            or run.family.answers_with_error
        ):
            load.append(f'pipe.{part}.load_lora_adapter("THIS FOLDER OR REPOSITORY", prefix=None)')
        else:
            load.append('pipe.load_lora_weights("THIS FOLDER OR REPOSITORY")')
    prefix = run.config.objective.prompt_prefix
    prompt = json.dumps(f"{prefix}a prompt", ensure_ascii=False)
    return [
        *("```python", f"from diffusers import {loader}", ""),
        *load,
        f"image = pipe({prompt})[0][0]",
        *("```", ""),
    ]


def _base_loader(run: Run) -> tuple[str, str]:
    """Return the class that loads the base, and the call; a file with a UNet is a whole pipeline."""
    path, local = run.config.model.path, local_path(run.config.model.path)
    if local is not None and local.suffix == ".safetensors" and run.family.denoiser_part == "unet":
        name = run.family.pipeline_class.__name__
        return name, f"{name}.from_single_file({json.dumps(local.name)})"
    base = json.dumps(path if local is None else "BASE")
    return "DiffusionPipeline", f"DiffusionPipeline.from_pretrained({base})"


def _metrics(run: Run) -> list[str]:
    """Return the last line of metrics.jsonl as a table."""
    file = run.config.output.folder / "metrics.jsonl"
    try:
        last = json.loads(file.read_bytes().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return []
    known = [(n, last[n]) for n in _METRICS if isinstance(last, dict) and n in last]
    rows = [
        f"| {n} | {v:.6g} |" for n, v in known if isinstance(v, (int, float)) and math.isfinite(v)
    ]
    return ["The last line of its metrics:", "", "| metric | value |", "| --- | --- |", *rows, ""]


def _pictures(run: Run, steps: list[int]) -> list[str]:
    if not steps:
        return []
    prompts = run.config.output.validation_prompts[:_SHOWN]
    after = " and ".join(f"{step} updates" for step in steps)
    columns = f"after {after}" + (", from left to right" if len(steps) > 1 else "")
    rows = [f"{number}. {_escaped(prompt)}" for number, prompt in enumerate(prompts, start=1)]
    return [
        *("## Validation images", "", f"![Validation images]({GRID})", ""),
        f"Each row has one prompt and seed, {columns}. The prompts:",
        *("", *rows, ""),
    ]


def _settings(run: Run) -> list[str]:
    plain = to_plain(run.config)
    flat: dict[str, Any] = {}
    for section, values in plain.items():
        if not isinstance(values, dict):
            flat[section] = values
            continue
        for name, value in values.items():
            if isinstance(value, dict):
                flat |= {f"{section}.{name}.{key}": entry for key, entry in value.items()}
            elif section not in ("data", "output") or name not in _PATHS:
                flat[f"{section}.{name}"] = value
    model = run.config.model
    of_model = {"path": local_path(model.path), "lora": model.lora}
    of_model["config"] = None if model.config is None else local_path(model.config)
    for key, value in of_model.items():
        if value is not None:
            flat[f"model.{key}"] = Path(value).name
    text = "\n".join(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in flat.items())
    runs = [len(found) for found in re.findall("`+", text)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return ["## Settings", "", f"{fence}toml", text, fence, ""]


def _grid(run: Run) -> tuple[bytes | None, list[int]]:
    """Return the images of the first and the last validation, a row for each prompt, and their steps."""
    folders = sorted((run.config.output.folder / SAMPLES).glob("step-*"))
    folders = [f for f in folders if f.is_dir() and f.name.removeprefix("step-").isdigit()]
    folders = list(dict.fromkeys([*folders[:1], *folders[-1:]]))
    count = min(len(run.config.output.validation_prompts), _SHOWN)
    columns = []
    for folder in folders:
        found = [folder / f"{number:03d}.png" for number in range(count)]
        if found and all(file.is_file() for file in found):
            columns.append((int(folder.name.removeprefix("step-")), found))
    if not columns:
        return None, []
    pictures = [[_small(file) for file in found] for _, found in columns]
    width, height = (
        max(getattr(p, side) for c in pictures for p in c) for side in ("width", "height")
    )
    grid = Image.new("RGB", (width * len(columns), height * count), "white")
    for column, images in enumerate(pictures):
        for row, image in enumerate(images):
            grid.paste(image, (column * width, row * height))
    content = io.BytesIO()
    grid.save(content, "png")
    return content.getvalue(), [step for step, _ in columns]


def _small(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    return image


def _escaped(text: str) -> str:
    """Return a prompt as Markdown that says it and nothing else: no link, tag, table or new line."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~:@$])", r"\\\1", plain)


def _code(text: str) -> str:
    """Return a file's name as code, also in a cell of a table."""
    plain = " ".join(text.replace("`", "").split()).replace("|", r"\|")
    return f"`{plain}`"

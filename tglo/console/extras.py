"""Extras of pyproject.toml: which one brings a module, and the command that installs it."""

from __future__ import annotations

EXTRAS = {
    **dict.fromkeys(
        (
            "accelerate",
            "deepspeed",
            "diffusers",
            "filelock",
            "jinja2",
            "matplotlib",
            "msgspec",
            "peft",
            "PIL",
            "psutil",
            "pyarrow",
            "safetensors",
            "sklearn",
            "tqdm",
            "transformers",
        ),
        "train",
    ),
    "av": "video",
    "bitsandbytes": "bnb",
    "ftfy": "rewards",
    "krippendorff": "web",
    "onnxruntime": "ocr",
    "rapidocr": "ocr",
    "starlette": "web",
    "tensorboard": "track",
    "trackio": "track",
    "uvicorn": "web",
    "wandb": "track",
    "xformers": "xformers",
}
"""Module -> the extra that brings it."""


def install(extra: str) -> str:
    """Return the command that installs an extra. Until tglo is published under its name, a checkout is the source."""
    return f'pip install ".[{extra}]" in a checkout of tglo'

"""Errors in a line: without a class's name where a person can mend it, with the extra that is missing."""

from __future__ import annotations

EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError)

EXTRAS = {
    **dict.fromkeys(
        (
            "accelerate",
            "deepspeed",
            "diffusers",
            "filelock",
            "matplotlib",
            "msgspec",
            "peft",
            "PIL",
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
    "onnxruntime": "ocr",
    "rapidocr": "ocr",
    "tensorboard": "track",
    "trackio": "track",
    "wandb": "track",
    "xformers": "xformers",
}
"""Module -> the extra of pyproject.toml that installs it."""


def in_a_line(error: BaseException, command: str = "") -> str:
    """Return what a person should read of an error; `command` is what they had started."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in EXTRAS:
            return f"{command or 'this'} needs {module}, which is not installed: {install(EXTRAS[module])}"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"  # without the number
    kind = type(error).__name__
    if isinstance(error, EXPECTED):
        return text or f"{kind}: no message"
    return f"{kind}: {text or 'no message'} (an error that was not foreseen; -v shows where it happened)"


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "tglo[{extra}]" (in a checkout: pip install ".[{extra}]")'

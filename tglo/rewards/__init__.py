"""Scorers: callables (images, prompts) -> (B,) float64, higher is better.

`SCORERS` need no weights, `MODELS` read them from files or the hub, `PACKAGED` come with a package; these are the
registry. Any other scorer is given as "package.module:function", or as the
URL of a server (tglo.rewards.served).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from tglo.console.extras import install
from tglo.devices import DTYPES, process_device
from tglo.plugins import Plugins, can_be_called
from tglo.rewards import programmatic
from tglo.rewards.mixture import mix, parse_mixture
from tglo.rewards.score import Scorer, score_manifest
from tglo.rewards.served import ServedScorer, is_served, parse_server, served_name
from tglo.rewards.video import Video, VideoScorer
from tglo.rewards.weights import did_you_mean, locate, parse

__all__ = [
    "MODELS",
    "PACKAGED",
    "SCORERS",
    "VIDEO_MODELS",
    "Scorer",
    "Video",
    "VideoScorer",
    "load_scorer",
    "mix",
    "named_scorers",
    "parse_mixture",
    "score_manifest",
    "scorer_name",
    "search_working_folder",
]


SCORERS: dict[str, Scorer] = {
    "ink": programmatic.ink,
    "colourfulness": programmatic.colourfulness,
    "sharpness": programmatic.sharpness,
    "compressibility": programmatic.compressibility,
}


# The class of each reward model; its module is imported when the model is asked for.
MODELS: dict[str, str] = {
    "hpsv2": "tglo.rewards.hpsv2:HPSv2",
    "pickscore": "tglo.rewards.clip:PickScore",
    "imagereward": "tglo.rewards.imagereward:ImageReward",
    "clip": "tglo.rewards.clip:ClipScore",
    "aesthetic": "tglo.rewards.clip:Aesthetic",
    "hpsv3": "tglo.rewards.hpsv3:HPSv3",
}


# The same of models whose first argument is videos (tglo.rewards.video).
VIDEO_MODELS: dict[str, str] = {
    "videoreward": "tglo.rewards.videoreward:VideoReward",
    "videoreward_vq": "tglo.rewards.videoreward:VisualQuality",
    "videoreward_mq": "tglo.rewards.videoreward:MotionQuality",
    "videoreward_ta": "tglo.rewards.videoreward:TextAlignment",
}


# Those that a package brings with its models, and the extra that installs it.
PACKAGED: dict[str, tuple[str, str]] = {
    "ocr": ("tglo.rewards.ocr:Ocr", "ocr"),
}


PLUGINS = Plugins(
    "tglo.rewards", lambda: {*SCORERS, *MODELS, *VIDEO_MODELS, *PACKAGED}, can_be_called
)
"""Those of other packages: a scorer, or a subclass of `tglo.rewards.model.RewardModel`."""


def scorer_name(text: str) -> str:
    """Return a scorer's name, which is also its column: the text for `load_scorer` without places."""
    if is_served(text):
        return served_name(text)
    name, _, _ = text.partition("=")
    return name.partition(",")[0]


def named_scorers(texts: Sequence[str]) -> dict[str, str]:
    """Return the texts for `load_scorer` by the scorers' names. ValueError for two of one name."""
    found: dict[str, str] = {}
    for text in texts:
        name = scorer_name(text)
        if name in found:
            raise ValueError(f"scorer {name} is given twice; leave one")
        found[name] = text
    return found


def search_working_folder() -> None:
    """Let `load_scorer` find modules in the working folder, too.

    The folder comes after all installed packages, so no file in it can replace one.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def load_scorer(text: str, *, device: str = "auto", dtype: str = "fp32") -> Scorer:
    """Load a scorer of the registry, a server's, or any callable given as "package.module:function".

    text: the NAME of a scorer; for a model it may say where its files are: NAME=PLACE,PART=PLACE (see
        tglo.rewards.weights); for a server [NAME=]URL (see tglo.rewards.served).
    device, dtype (fp32, bf16, fp16): a model's; other scorers ignore them.

    "package.module:function" imports and runs that module: take it from a person's command line,
    never from a file. Raises ValueError for an unknown name (naming the nearest), a module that
    cannot be found, something that cannot be called, or weights that are missing or do not fit.
    """
    if is_served(text):
        return ServedScorer(parse_server(text))
    name = scorer_name(text)
    if ":" in name:
        return _import(text)
    models = {**MODELS, **VIDEO_MODELS}
    if name in models:
        return _model(_imported(name, models[name], "rewards"), text, device, dtype)
    plugin = None if name in {*SCORERS, *PACKAGED} else PLUGINS.find(name)
    if isinstance(plugin, type) and hasattr(plugin, "parts"):
        return _model(plugin, text, device, dtype)
    if plugin is None and name not in (*SCORERS, *PACKAGED):
        known = sorted([*SCORERS, *PACKAGED, *models, *PLUGINS.names()])
        raise ValueError(
            f"there is no scorer {name!r}{did_you_mean(name, known)}; known are {known}, "
            'or give your own as "package.module:function"'
        )
    if text != name:
        raise ValueError(f"scorer {name} has no files to name, got {text!r}; give {name} alone")
    if plugin is not None:
        return cast(Scorer, plugin)
    if name in PACKAGED:
        return _imported(name, *PACKAGED[name], make=True)
    return SCORERS[name]


def _model(model: Any, text: str, device: str, dtype: str) -> Scorer:
    """Return a reward model, read from the files that its text names or the hub has."""
    name, places = parse(text)
    where = process_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    return cast(Scorer, model(locate(name, places, model.parts), where, DTYPES[dtype]))


def _imported(name: str, place: str, extra: str, make: bool = False) -> Any:
    """Return the class of a scorer, or one made of it. ImportError naming the extra that installs it."""
    module, _, kind = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), kind)
        return found() if make else found
    except ModuleNotFoundError as error:
        raise ImportError(f"scorer {name}: {error}; {install(extra)}") from error


def _import(name: str) -> Scorer:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"scorer {name!r}: {error}; run where the module can be imported, or set PYTHONPATH"
        ) from error
    scorer = getattr(module, attribute, None)
    if not callable(scorer):
        hint = did_you_mean(attribute, dir(module))
        raise ValueError(f"{module_name} has no callable {attribute!r}{hint}")
    return cast(Scorer, scorer)

"""The build backend: scikit-build-core, which is told beforehand what is compiled.

The wheel's version says what is in it, and is asked for before CMake runs. So what the user wants is collected here,
from wherever it was said, decided by tglo_target, and handed to both.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import tglo_target
from scikit_build_core import build as scikit

Settings = dict[str, str | list[str]] | None

build_sdist = scikit.build_sdist
get_requires_for_build_sdist = scikit.get_requires_for_build_sdist


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return scikit.get_requires_for_build_wheel(_decided(config_settings))


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return scikit.get_requires_for_build_editable(_decided(config_settings))


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    return scikit.prepare_metadata_for_build_wheel(metadata_directory, _decided(config_settings))


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    return scikit.prepare_metadata_for_build_editable(metadata_directory, _decided(config_settings))


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    return scikit.build_wheel(wheel_directory, _decided(config_settings), metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    return scikit.build_editable(wheel_directory, _decided(config_settings), metadata_directory)


def wishes(config_settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return tglo_target's variables: CMAKE_ARGS comes before a config setting, that before the environment."""
    found = {}
    for name in tglo_target.VARIABLES:
        value: str | list[str] = environment.get(name, "")
        for prefix in ("skbuild.", ""):
            value = (config_settings or {}).get(f"{prefix}cmake.define.{name}", value)
        if isinstance(value, list):
            value = value[-1]
        arguments = re.findall(rf"-D\s*{name}(?::\w+)?=(\S*)", environment.get("CMAKE_ARGS", ""))
        found[name] = arguments[-1] if arguments else value
    return found


def _decided(config_settings: Settings) -> dict[str, str | list[str]]:
    """Return the settings for scikit-build-core, and leave what was wanted to `Version` and CMake."""
    wanted = wishes(config_settings, os.environ)
    try:
        target = tglo_target.decide({**os.environ, **wanted})
    except tglo_target.Refusal as refusal:
        sys.exit(f"\n{refusal}\n")
    wanted["TGLO_TORCH_INCLUDE"] = target.torch_include  # looked for once
    os.environ.update(wanted)
    settings = dict(config_settings or {})
    for name, value in wanted.items():  # always: CMake's cache may have those of an earlier build
        settings.pop(f"skbuild.cmake.define.{name}", None)
        settings[f"cmake.define.{name}"] = value
    return settings if target.extension else {**settings, "wheel.cmake": "false"}


class Version:
    """Provider of the project's version: that of tglo/__init__.py, with a label that says what was compiled."""

    def build_state(self, state: str) -> None:
        self.sdist = state == "sdist"

    def dynamic_metadata(
        self, settings: Mapping[str, object], project: Mapping[str, object]
    ) -> dict[str, str]:
        text = Path("tglo/__init__.py").read_text(encoding="utf-8")
        stated = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
        assert stated, "tglo/__init__.py has no __version__"
        # A wheel that is made from an sdist must have its version: pip refuses another.
        if self.sdist or Path("PKG-INFO").exists():
            return {"version": stated[1]}
        return {"version": f"{stated[1]}+{tglo_target.decide(os.environ).label}"}

"""The public names of a module, as Sphinx's autodoc wants them."""

from __future__ import annotations

import importlib
import inspect


def public(module: str) -> list[str]:
    """Return the functions and classes of a module's __all__ that say what they are."""
    found = importlib.import_module(module)
    values = {name: getattr(found, name) for name in found.__all__}
    return [
        name
        for name, value in values.items()
        if inspect.isclass(value) or inspect.isfunction(value)
        if value.__doc__ and value.__name__ == name  # no former names
    ]


def page(name: str) -> str:
    """Return the documentation of a module's functions and classes, or of a single one, named in full."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, own = name.rpartition(".")
        names = [own]
    else:
        module, names = name, public(name)
    lines = []
    for each in names:
        if inspect.isclass(getattr(importlib.import_module(module), each)):
            has_page = module == "tglo.train"  # reference/config.md
            members = [] if has_page else ["   :members:"]
            lines += [f".. autoclass:: {module}.{each}", *members, ""]
        else:
            lines += [f".. autofunction:: {module}.{each}", ""]
    return "\n".join(["```{eval-rst}", *lines, "```"])

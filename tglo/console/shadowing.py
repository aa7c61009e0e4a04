"""Whether a source folder, which has no extension, hides an installed tglo that has one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tglo

REMEDY = "start Python in another folder, or with python -P (PYTHONSAFEPATH=1)"


def hidden_installation() -> str:
    """Return the folder of an installed tglo with the extension that this one hides; "" if there is none."""
    mine = Path(tglo.__file__).resolve().parent
    if (mine / "_C.so").is_file():
        return ""
    for entry in sys.path:
        other = os.path.join(entry or os.curdir, "tglo")
        if os.path.isfile(os.path.join(other, "_C.so")) and not os.path.samefile(other, mine):
            return other
    return ""


def problem() -> str:
    """Say what hides what, without the remedy; "" if nothing is hidden."""
    other = hidden_installation()
    if not other:
        return ""
    mine = Path(tglo.__file__).parent
    return f"the source folder {mine}, where tglo/_C.so was not built, hides the installed {other}"

"""A source folder without the extension, beside an installed tglo that has it: said in a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tglo
from tglo.ops import EXTENSION

LOSS = """
import torch, tglo
a = torch.zeros(2, 3)
tglo.tgo_loss(a, a, torch.ones(2), 0.5, reference_error=torch.ones(2), temperature=1.0)
"""


@pytest.mark.skipif(not EXTENSION.loaded, reason=f"no extension: {EXTENSION.problem}")
def test_a_source_folder_does_not_hide_the_installed_package_in_silence(tmp_path: Path) -> None:
    source = Path(tglo.__file__).parent
    for name, left_out in (("installed", ()), ("checkout", ("_C*", "kernels"))):
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", *left_out)
        shutil.copytree(source, tmp_path / name / "tglo", ignore=ignored)
    shutil.copy(EXTENSION.path, tmp_path / "installed" / "tglo" / "_C.so")

    def run(*arguments: str) -> str:
        # Neither -P nor a site of an editable installation: a person's Python in a checkout.
        paths = [str(tmp_path / "installed"), *(path for path in sys.path if path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment.pop("PYTHONSAFEPATH")
        done = subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=tmp_path / "checkout",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    hidden = f"{tmp_path}/checkout/tglo, where tglo/_C.so was not built, hides the installed"
    remedy = f"{tmp_path}/installed/tglo; start Python in another folder, or with python -P"
    for arguments in (("-m", "tglo", "plan", "--model", "sd15"), ("-c", LOSS)):
        said = run(*arguments)
        assert hidden in said and remedy in said and said.count("\n") == 1
    assert run("-P", *arguments) == ""

"""The library's examples: a script, and a notebook, which is kept without outputs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.preloaded import run

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "notebooks" / "align.ipynb"


def test_a_script_trains_with_a_configuration_of_dataclasses(tmp_path: Path) -> None:
    done = run(
        [sys.executable, str(EXAMPLES / "train_in_python.py"), "--output", str(tmp_path),
         "--count", "4", "--steps", "2"],
        capture_output=True,
        text=True,
        timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "40 scored images" in done.stdout and re.search(r"step 2: loss \d", done.stdout)
    assert re.search(r"mean score [\d.]+ before, [\d.]+ after", done.stdout)
    assert (tmp_path / "run" / "export" / "unet").is_dir()


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    monkeypatch.setenv("TGLO_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=110, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 6
    (means,) = (o["data"]["text/plain"] for o in shown if "'aligned'" in str(o.get("data")))
    assert re.fullmatch(r"\{'base': [\d.]+, 'aligned': [\d.]+\}", means)

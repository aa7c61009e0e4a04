"""A reader of standard output that goes away, as head does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tglo.console import pipes


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt,image,score\na,1.png,1\nb,2.png,2\n")
    reader, writer = os.pipe()
    os.close(reader)
    for arguments in (["--version"], ["threshold", "m.csv"]):
        done = subprocess.run(
            [sys.executable, "-m", "tglo", *arguments],
            cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (pipes.STATUS, "")
    os.close(writer)

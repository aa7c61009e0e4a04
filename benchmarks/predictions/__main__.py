"""Predicted GPU times of the CUDA kernels, and measured ones beside them.

python -m benchmarks.predictions                  # writes docs/gpu-predictions.md; --check: compares
python -m benchmarks.predictions --compile        # first reads the machine code of csrc/ anew
python -m benchmarks.predictions --measured FILE  # prints a record of `tglo bench` beside them
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # a checkout that is not installed

from benchmarks.page import ROOT
from benchmarks.predictions import kernels, page

PAGE = ROOT / "docs" / "gpu-predictions.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predictions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--compile", action="store_true", help="read csrc/ anew; needs nvcc")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if out of date")
    parser.add_argument("--measured", type=Path, help="a record of `tglo bench` on a GPU")
    parser.add_argument("--output", type=Path, help="with --measured: write the table here too")
    options = parser.parse_args(arguments)
    if options.compile:
        kernels.write()
    record = kernels.read()
    if options.measured:
        text = page.beside(record, json.loads(options.measured.read_text()))
        print(text)
        if options.output:
            options.output.write_text(text)
        return 0
    made = page.compose(record)
    if options.check:
        current = PAGE.read_text() == made
        print(f"{PAGE.name} is {'up to date' if current else 'out of date'}")
        return int(not current)
    PAGE.write_text(made)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

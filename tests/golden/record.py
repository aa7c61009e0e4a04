"""Records the golden outputs of this checkout: python -m tests.golden.record"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("record.json")
HELP = Path(__file__).with_name("help")


def record() -> None:
    """Write record.json and help/COMMAND.txt."""
    from tests.golden import outputs

    with tempfile.TemporaryDirectory() as folder:
        content = {
            "machine": outputs.machine(),
            **outputs.make_all(Path(folder)),
            "demo": outputs.demo(Path(folder)),
        }
    RECORD.write_text(json.dumps(content, indent=1) + "\n")
    HELP.mkdir(exist_ok=True)
    for name, text in outputs.help_texts().items():
        (HELP / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    import argparse

    import tests.conftest  # noqa: F401  (one thread a process, no network)

    argparse.ArgumentParser(description=__doc__).parse_args()
    record()

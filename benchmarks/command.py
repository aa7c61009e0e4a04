"""The parts that the suites' command lines share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from tglo.devices import choose_device


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser that has --device and --output."""
    found = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--device", type=_device, default="auto", help="auto, cpu or cuda")
    found.add_argument("--output", type=Path, help="write the record here as it grows")
    return found


def _device(name: str) -> str:
    try:
        return choose_device(name).type
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def start_log() -> None:
    """Show tglo's messages with their time, and warnings of others."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("tglo").setLevel(logging.INFO)


def end(wrong: Sequence[str]) -> int:
    """Log every wrong result of tglo's, and return the exit status: 1 if there is one."""
    for line in wrong:
        logging.getLogger("tglo").error("%s", line)
    return min(len(wrong), 1)

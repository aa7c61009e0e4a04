"""The flags of `tglo export`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def export(run: Positional[Path], output: Path) -> None:
    """Export the newest checkpoint of a run: a diffusers folder, or a LoRA.

    Args:
        run: Output folder of `tglo train`. Start this with as many processes as the run had.
        output: Folder to write; refused if it exists.
    """
    from tglo.train.loop import export_run

    print(f"wrote {export_run(run, output)}")

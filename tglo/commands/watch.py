"""The flags of `tglo watch`."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from tglo.console.verbosity import note


def watch(
    runs: Positional[tuple[Path, ...]],
    host: str = "127.0.0.1",
    port: int = 8422,
    token: str | None = None,
    output: Path | None = None,
) -> None:
    """Show training runs on a page: curves, validation images, and what the metrics say.

    For example: tglo watch runs/a runs/b

    The page follows the runs while they go on. It reads the files that they write, from another process or
    machine, and never writes into their folders.

    Args:
        runs: Output folders of runs, or folders with runs below them. One that is not there yet is waited for.
        host: Address of the page; by default this machine alone can reach it.
        port: Of that address; 0 takes a free one.
        token: Word that a browser must know, at least 8 characters, or random: a new one. Needed with a host
            that other machines reach.
        output: Write a page of what there is now, which needs no server, to this file instead.
    """
    if not runs:
        raise ValueError(
            "no run to watch: give output folders of runs, or folders with runs in them"
        )
    if output is not None:
        from tglo.watch.page import write_page
        from tglo.watch.runs import Runs

        found = Runs(runs)
        found.poll()
        write_page(found, output)
        note(f"wrote {output}")
        return
    from tglo.watch.app import watch as serve

    serve(runs, host=host, port=port, token=token)

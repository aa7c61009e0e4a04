"""The flags of `tglo doctor`: none."""

from __future__ import annotations


def doctor() -> None:
    """Say what was found, which backend each operator uses, and what to do about the rest."""
    from tglo.doctor import print_report

    print_report()

"""The flags of `tglo doctor`: none."""

from __future__ import annotations

from typing import Any


def doctor() -> dict[str, Any]:
    """Say what was found, which backend each operator uses, and what to do about the rest."""
    from tglo import __version__
    from tglo.doctor import print_report

    findings = print_report()
    return {"tglo": __version__, "findings": [finding._asdict() for finding in findings]}

"""The flags of `tglo plan`."""

from __future__ import annotations

from tyro.conf import OmitArgPrefixes

from tglo.plan.options import Options


def plan(options: OmitArgPrefixes[Options], json: bool = False) -> None:
    """Work out memory, communication and ZeRO stage of a run before there is a GPU.

    Args:
        options: The run.
        json: Print all numbers as JSON instead of tables.
    """
    from json import dumps

    from tglo.plan.planner import plan as work_out
    from tglo.plan.text import as_json, report

    answer = work_out(options)
    print(dumps(as_json(answer), indent=1) if json else report(answer))

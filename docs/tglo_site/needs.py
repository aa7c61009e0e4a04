"""Marks above blocks of commands: what they need that not everybody has, or which test runs them.

<!-- needs: weights -->          shown on the site
<!-- ran: docs/test_data.py -->  a test under tests/, as it stands or with smaller numbers
"""

from __future__ import annotations

import re

NEEDS = {
    "account": "Needs an account on the hub.",
    "docker": "Needs Docker.",
    "files": "Needs images or runs of your own.",
    "gpus": "Needs GPUs and the model's weights.",
    "time": "Takes from minutes to hours.",
    "weights": "Needs the model's weights.",
}
BLOCK = re.compile(
    r"(?:<!-- (needs|ran): ([\w/. -]+) -->\n)?^```(console|bash)\n(.*?)^```",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"^<!-- needs: (\w+) -->$", re.MULTILINE)


def shown(text: str) -> str:
    """Return a page with a sentence in the place of each mark."""
    return MARK.sub(lambda found: f"<p class='needs'>{NEEDS[found[1]]}</p>\n", text)

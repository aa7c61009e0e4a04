"""docs/watch.md: its numbers are the code's."""

from __future__ import annotations

from tests.drop_in.miniature import DOCS
from tglo.train.reports.metrics import NOISY, SATURATED
from tglo.train.temperature import TARGET_SPREAD
from tglo.watch import health, page, recent
from tglo.watch.curves import MOST_BINS

PAGE = " ".join((DOCS / "watch.md").read_text().split())


def test_the_numbers_of_the_page() -> None:
    for text in (
        f"at most {MOST_BINS} points",
        f"up to {page.IMAGES} of the validation images",
        f"at least {recent.FEWEST_LINES} and at most {recent.MOST_LINES}",
        f"mean r of negatives below -{SATURATED:.0f}",
        f"mean r of positives below -{TARGET_SPREAD:.0f}",
        f"more than {health.TEACHES_LITTLE:.0%} of the samples",
        f"r began at more than {NOISY}",
        f"more than {health.DATA_SHARE:.0%} of a step's time",
        f"less than {health.ONE_SIDED:.0%} of the samples on one side",
        f"r of both sides within {health.FLAT} of 0",
    ):
        assert text in PAGE, text
    assert health.FORGETTING == 2 and "more than twice the reference's" in PAGE
    assert health.SPIKE == 10 and "ten times its median" in PAGE and recent.EARLY == 0.2
    assert health.DEVIATIONS == 2

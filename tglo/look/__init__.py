"""A scored data set on one page, before anything is trained on it."""

from tglo.look.findings import Findings
from tglo.look.survey import survey

__all__ = ["Findings", "survey"]

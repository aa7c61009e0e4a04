"""`tglo sweep`: one configuration, a grid of some of its values, a table and heat maps of the results."""

from tglo.sweep.points import Point, parse_variations, points
from tglo.sweep.run import sweep
from tglo.sweep.sampling import Sampling, sample_scores

__all__ = ["Point", "Sampling", "parse_variations", "points", "sample_scores", "sweep"]

"""`tglo sweep`: one configuration, a grid of some of its values, a table and heat maps of the results."""

from tglo.sweep.points import Point, parse_variations, points
from tglo.sweep.run import sweep
from tglo.sweep.sampling import Sampling, Scores, sample_scores

__all__ = ["Point", "Sampling", "Scores", "parse_variations", "points", "sample_scores", "sweep"]

"""Denoisers of tglo's own, and the layer in which masked models compute their error."""

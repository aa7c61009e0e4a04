"""A small world with scored images: drawings of two coloured shapes, five rewards, a base model."""

from pathlib import Path

BASE = Path(__file__).parent / "base"
"""The base model, a Stable Diffusion pipeline folder."""

"""What diffusers says while it does what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Leave diffusers' warnings out inside."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)

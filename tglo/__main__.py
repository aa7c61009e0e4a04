"""`python -m tglo` is `tglo`."""

from __future__ import annotations

import sys

from tglo.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m corten``: the ``corten`` command."""

from __future__ import annotations

import sys

from corten.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

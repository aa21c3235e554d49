"""`python -m kit COMMAND`: the command line (kit.ui.cli)."""

from __future__ import annotations

import sys

from kit.ui.cli import main

if __name__ == "__main__":
    sys.exit(main())

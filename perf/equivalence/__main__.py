"""Runs `python perf/equivalence`, which compares two checkouts of edgewright.

The docstring of the package has the commands.
"""

import importlib
import sys
from pathlib import Path

if not __package__:  # called as `python perf/equivalence`
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
sys.exit(importlib.import_module(f"{__package__ or 'equivalence'}.command_line").main())

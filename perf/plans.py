"""How long plans of published models for all targets take together.

    python -m edgewright.perf.plans tests/models/published_configs.yaml [--repeats 3]

The file has the published config.json of many models; a plan reads nothing else. Starting Python is
not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ..pipeline.forecast import plan_model
from ..targets import list_targets

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    published = yaml.safe_load(args.configs.read_text())
    with tempfile.TemporaryDirectory() as folder:
        models = [Path(folder) / name for name in published]
        for model in models:
            model.mkdir()
            (model / "config.json").write_text(json.dumps(published[model.name]["config"]))
        for _ in range(args.repeats):
            begin = time.perf_counter()
            busy = time.process_time()
            seconds = {model.name: _seconds(model) for model in models}
            total = time.perf_counter() - begin
            busy = time.process_time() - busy
            slowest = max(seconds, key=lambda name: seconds[name])
            print(
                f"{len(models)} models on {len(list_targets())} targets: {total:.2f} s "
                f"({busy:.2f} s of the processor); slowest {slowest} {seconds[slowest]:.2f} s"
            )
    return 0


def _seconds(model: Path) -> float:
    """Seconds of one plan for all targets."""
    begin = time.perf_counter()
    plan_model(str(model), "all")
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())

"""The driver's side of a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .record import PLACE

LIMIT_S = 900
"""Seconds after which a job is killed."""
HERE = Path(__file__).resolve().parent


class Checkout:
    """A worker process that has the command line of a checkout loaded."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root.resolve(), work.resolve()
        (self.work / "out").mkdir(parents=True, exist_ok=True)
        (self.work / "logs").mkdir(exist_ok=True)
        place = self.work / PLACE
        place.mkdir(exist_ok=True)
        for name, target in (("edgewright", self.package), (HERE.name, HERE)):
            (place / name).unlink(missing_ok=True)
            (place / name).symlink_to(target)
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = dict.fromkeys(threads, "1") | {
            "PYTHONPATH": str(place),
            "PYTHONPYCACHEPREFIX": str(self.work / ".pycache"),  # leave the checkout clean
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "160",
            "TERM": "dumb",
            "NO_COLOR": "1",
        }
        self._process = subprocess.Popen(
            # not `-m`: click would print the name of the module as the name of the program
            [sys.executable, "-P", "-c", f"from {HERE.name}.worker import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env=os.environ | environment,
        )

    @property
    def package(self) -> Path:
        """The folder of the checkout that holds the package `edgewright`."""
        places = (self.root / "src" / "edgewright", self.root / "edgewright", self.root)
        return next(place for place in places if (place / "__init__.py").is_file())

    def ask(self, name: str, arguments: list[str], limit_s: int = LIMIT_S, build: str = "") -> int:
        """Run a command line, or build the inputs. Returns the exit code; negative: a signal."""
        assert self._process.stdin and self._process.stdout
        stdout, stderr = (str(self.work / "logs" / f"{name}.{kind}") for kind in ("out", "err"))
        request = {
            "arguments": arguments,
            "stdout": stdout,
            "stderr": stderr,
            "limit_s": limit_s,
            "build": build,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("the worker process ended; its error is above")
        return int(answer)

    def close(self) -> None:
        """End the worker process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

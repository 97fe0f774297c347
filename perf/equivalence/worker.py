"""The process that runs the jobs with the checkout under test.

Its PYTHONPATH holds the checkout as `edgewright`, so that is what it imports. It imports the slow
packages once and forks for every job. Each job so starts with fresh state.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .inputs import build_inputs

SLOW = [
    "torch",
    "transformers",
    "safetensors.torch",
    "accelerate",
    "peft",
    "onnx",
    "onnxruntime",
    "reasoning_gym",
    "optuna",
    "matplotlib.figure",
    "pydantic",
    "yaml",
    "jinja2",
    "gguf",
    "math_verify",
]


def preload() -> Any:
    """Import the slow packages and return `main` of the command line."""
    for name in SLOW:
        importlib.import_module(name)
    return importlib.import_module("edgewright.cli").main


def serve() -> None:
    """Answer requests, one per line of standard input, each in a forked process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main = preload()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            run_forked(main, request)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(json.dumps(code) + "\n")
        answers.flush()


def run_forked(main: Any, request: Mapping[str, Any]) -> None:
    """Run one job in the forked process and end the process."""
    for descriptor, file in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(request["limit_s"])
    sys.argv = ["edgewright", *request["arguments"]]
    code: Any = 0
    try:
        build_inputs(Path(request["build"])) if request["build"] else main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)

"""Renders chat templates in a process of their own, with limits of time, memory and length.

A template is a program of others: `{% for i in range(99999) %}`, twice nested, does not end in a
day. `contain` makes all tokenizers of transformers render this way. A rendering costs a tenth of a
millisecond more, and the first one a second.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .template_worker import SECONDS

__all__ = ["contain"]

RESTORE = "restore the chat template of the model"


class _Renderer:
    """The process, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._stopped: dict[str | None, str] = {}
        """Why templates that were stopped were: they are not tried again for every row of data."""

    def render(self, conversations: Any, **options: Any) -> tuple[list[str], list[Any]]:
        """What `render_jinja_template` of transformers returns.

        Raises:
            TemplateError: the template fails.
            UsageError: it was stopped, because it took too much time or memory.
        """
        from jinja2 import TemplateError  # late: plans render nothing

        template: str | None = options.get("chat_template")
        request = {"conversations": conversations, **options}
        with self._lock:
            if template in self._stopped:
                raise UsageError(self._stopped[template], RESTORE)
            answer = self._answer(json.dumps(request, default=_named))
            if answer is None:
                self._stopped[template] = self._reason()
                raise UsageError(self._stopped[template], RESTORE)
        if "error" in answer:
            raise TemplateError(answer["error"])
        return answer["texts"], answer["marks"]

    def _answer(self, line: str) -> dict[str, Any] | None:
        """The answer of the process; None: it ended."""
        if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
            self._start()
        process = self._process
        assert process and process.stdin and process.stdout
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        found = process.stdout.readline()
        return json.loads(found) if found.endswith("\n") else None

    def _start(self) -> None:
        worker = Path(__file__).with_name("template_worker.py")
        command = [sys.executable, "-P", str(worker)]  # -P: no module beside it is a library's
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )

    def _reason(self) -> str:
        """Why the process ended."""
        code = self._process.wait() if self._process else 0
        if code == -signal.SIGPROF:
            return f"the chat template was stopped after {SECONDS:g} s of processor time"
        return f"the process that renders the chat template ended (exit status {code})"

    def close(self) -> None:
        """End the process."""
        if self._process and self._owner == os.getpid():
            self._process.kill()


_renderer = _Renderer()
atexit.register(_renderer.close)


def _named(value: object) -> str:
    """What transformers, too, gives a template for a value that is no plain data."""
    return f"<{type(value).__name__}>"


def contain() -> None:
    """Make transformers render every chat template in the other process."""
    import transformers.tokenization_utils_base as base  # late: slow to import

    base.render_jinja_template = _renderer.render  # pyright: ignore[reportPrivateImportUsage]

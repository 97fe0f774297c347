"""A process that renders chat templates: one request a line in, one answer a line out, in JSON.

A chat template is a program that comes with a checkpoint. transformers runs it in jinja's sandbox,
which keeps it from everything but the processor and the memory; this process limits these two.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

SECONDS = 10.0
"""Processor time of one rendering. The kernel then ends the process, whatever it is doing."""
MEMORY = 1 << 30
"""Bytes that renderings may take beside what the libraries have."""
CHARACTERS = 16 << 20
"""The longest text."""


def main() -> None:
    """Answer requests until there are no more."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit = _mapped() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # then SIGPROF ends the process
        try:
            answer: Any = _checked(render_jinja_template(**request))
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY >> 20} MB of memory"}
        except Exception as error:  # a template raises what it likes
            answer = {"error": str(error) or type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


def _checked(found: Any) -> Any:
    texts, marks = found
    if sum(map(len, texts)) > CHARACTERS:
        return {"error": f"its text is longer than {CHARACTERS:,} characters"}
    return {"texts": texts, "marks": marks}


def _mapped() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()

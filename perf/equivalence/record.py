"""What is recorded of a job, without what differs between any two runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from .matrix import needs

PLACE = ".pythonpath"
"""Folder, inside the work folder, through which the worker finds the checkout."""
VOLATILE = {
    "seconds",
    "created",
    "command",
    "fingerprint",
    "code",
    "environment",
    "measured",
    "build_s",
    "warm_rounds",
    "affinity",
}
OF_BUNDLES = {"id", "version", "size_bytes"}
TIMED = {
    "ttft_ms",
    "token_ms",
    "decode_tok_s",
    "prefill_tok_s",
    "peak_rss_bytes",
    "load_s",
    "joules_per_token",
}
TIMED_COLUMNS = ("s", "time here s")
DOCUMENTS = ("edgewright.json", "ledger.json", "bundle.json", ".report.json")
"""JSON that holds something volatile, so that its bytes cannot be compared."""
BYTES_ONLY = ("config.json", "tokenizer.json", ".index.json", "cut.json", "special_tokens_map.json")
"""JSON that other programs read: it must keep its bytes."""
REPORTS = ("report.md", "report.html", "page.md", "page.html")
"""They print seconds and dates, so their text is compared without numbers."""
SCRIPTS = (".sh", ".pbtxt")
NAME_ONLY = ("study.db", ".lock", ".py")
CODE = re.compile(r"(^|/)lib/edgewright/")
"""Modules of the package in a bundle. Their names follow the structure of the code."""
NOISY = "noisy"
"""A key that is there only if a timing varied much."""
VARIES = r"\s*(<[^<>]*>|\()varies(<[^<>]*>|\))"
"""A remark in reports that is there only if a timing varied much."""
HASH = re.compile(r"\b[0-9a-f]{64}\b")
TIMED_LINE = re.compile(r"\b(TTFT|tok/s|token|decode|prefill|peak|load|cv)\b.*\|")
"""Rows of a model card that hold timings."""


def sha(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def tensors(data: bytes) -> dict[str, str]:
    """Dtype, shape and hash of every tensor of a safetensors file, by name."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    return {
        name: f"{spec['dtype']} {spec['shape']} {sha(bytes(body[slice(*spec['data_offsets'])]))}"
        for name, spec in sorted(header.items())
        if name != "__metadata__"
    }


class Cleaner:
    """Removes what differs between two runs, or between any two versions of the code.

    Args:
        chained: the job reads the result of another job. Its hashes over whole inputs cover a
            fingerprint of the code, so they are removed. The files themselves are compared.
        bundle: the job makes a bundle, whose name and size depend on the code in it.
    """

    def __init__(self, chained: bool, bundle: bool) -> None:
        self._chained = chained
        self._volatile = VOLATILE | (OF_BUNDLES if bundle else set())

    def json(self, value: Any, key: str = "", parents: tuple[str, ...] = ()) -> Any:
        """A JSON document in which volatile values are replaced."""
        timed = "metrics" in parents and key.partition("/")[0] in TIMED
        over_all = key == "files" and isinstance(value, str)  # one hash over all files
        if timed or over_all or key.rpartition("/")[2] in self._volatile:
            return "<volatile>"
        if isinstance(value, dict):
            around = (*parents, key)
            kept = {n: v for n, v in value.items() if n != NOISY and not CODE.search(n)}
            return {plain(name): self.json(one, name, around) for name, one in kept.items()}
        if isinstance(value, list):
            return [self.json(one, "", (*parents, key)) for one in value]
        if isinstance(value, str) and self._chained:
            value = HASH.sub("<hash>", value)
        return plain(value) if isinstance(value, str) else value

    def file(self, file: Path) -> Any:
        """What is recorded of a file."""
        data = file.read_bytes()
        name = file.name
        if name.endswith(NAME_ONLY):
            return "<name only>"
        if name.endswith(".safetensors"):
            return {"sha256": sha(data), "tensors": tensors(data)}
        if name.endswith(DOCUMENTS):
            return {"json": self.json(json.loads(data))}
        if name.endswith(".json") and not name.endswith(BYTES_ONLY):
            return {"sha256": sha(data), "json": self.json(json.loads(data))}
        if name.endswith(".xml"):
            return {"text": re.sub(r'timestamp="[^"]*"', "", data.decode()).splitlines()}
        if name == "README.md":
            lines = plain(data.decode()).splitlines()
            return {"text": [line for line in lines if not TIMED_LINE.search(line)]}
        if name.endswith(REPORTS):
            return report(plain(data.decode()), name.endswith(".html"))
        if name.endswith((".md", *SCRIPTS)):
            return {"sha256": sha(data), "text": plain(data.decode()).splitlines()}
        return {"sha256": sha(data)}


class Visible(HTMLParser):
    """Collects the text that a page shows, without styles and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note whether the text that follows is hidden."""
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        """Text after the end of a style or script is visible."""
        self._hidden = False

    def handle_data(self, data: str) -> None:
        """Keep visible text."""
        if not self._hidden:
            self.lines += data.splitlines()


def report(text: str, html: bool) -> dict[str, Any]:
    """The text of a report or page, with `#` for every number and fingerprint."""
    masked = re.sub(r"\b[0-9a-f]{12}\b|[-\d.,:]+", "#", re.sub(VARIES, "", text))
    lines = masked.splitlines()
    if html:
        page = Visible()
        page.feed(re.sub(VARIES, "", text))
        lines = [re.sub(r"\b[0-9a-f]{12}\b|[-\d.,:]+", "#", line) for line in page.lines]
    return {"words": sha(masked.encode()), "text": [line for line in lines if line.strip()]}


def plain(text: str) -> str:
    """Text without measured seconds and free space, and with one name for the package's folder."""
    text = re.sub(rf"[^\s\"'`(=,]*{re.escape(PLACE)}/edgewright[^\s\"'`:),]*", "<package>", text)
    return re.sub(r"\bin \d+\.\d+ s\b|\b\d+\.\d GB free\b", "<measured>", text)


def printed_lines(text: str) -> list[str]:
    """The lines of standard output. In tables, columns of measured seconds are blanked."""
    lines: list[str] = []
    timed: set[int] = set()
    for line in plain(text).splitlines():
        if line.startswith("┏"):
            timed = set()
        elif line.startswith("┃"):
            timed |= {i for i, cell in enumerate(line.split("┃")) if cell.strip() in TIMED_COLUMNS}
        elif line.startswith("│"):
            line = "│".join("-" if i in timed else c for i, c in enumerate(line.split("│")))
        lines.append(line)
    return lines


def keys_of(value: Any, prefix: str = "") -> set[str]:
    """The dotted names of everything in a JSON document."""
    if isinstance(value, dict):
        return set().union(
            *({f"{prefix}{k}"} | keys_of(v, f"{prefix}{k}.") for k, v in value.items())
        )
    if isinstance(value, list):
        return set().union(*(keys_of(v, f"{prefix}[].") for v in value))
    return set()


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones included, in order of name."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def printed(work: Path, name: str, kind: str) -> str:
    """What a job wrote to standard output (`out`) or standard error (`err`)."""
    return (work / "logs" / f"{name}.{kind}").read_text(errors="replace")


def recorded(
    work: Path, name: str, command: str, arguments: list[str], code: int
) -> dict[str, Any]:
    """The record of a job that ran: arguments, exit code, files, JSON or text, and errors."""
    folder = work / "out" / name
    output = printed(work, name, "out")
    record: dict[str, Any] = {"arguments": arguments, "code": code}
    clean = Cleaner(bool(needs(command)), bundle=arguments[0] == "deploy")
    files = {str(file.relative_to(folder)): file for file in files_below(folder)}
    record["files"] = {n: clean.file(file) for n, file in files.items() if not CODE.search(n)}
    try:
        document = json.loads(output)
        record["keys"] = sorted(k for k in keys_of(document) if not k.endswith(NOISY))
        record["json"] = clean.json(document) if not command.startswith("?") else None
    except json.JSONDecodeError:
        record["text"] = printed_lines(output)
    if code:
        record["error"] = plain(printed(work, name, "err")).splitlines()
    return record

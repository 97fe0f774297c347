"""How the equivalence check classifies differences: bytes, values, words, new and declared."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest

from edgewright.perf.equivalence import declared, help_text
from edgewright.perf.equivalence.compare import compare, of_job
from edgewright.perf.equivalence.declared import Declared
from edgewright.perf.equivalence.matrix import chosen, matrix

HELP = """Usage: edgewright bench [OPTIONS] {path}

  Measure a checkpoint or
  an artifact.

Arguments:
  path <path>  artifact directory  [required]

Options:
  --seq-len <int>           tokens a row  [default: 512]
  --latency / --no-latency  time it in a process of its own  [default: no-
                            latency]
  --share <float>           part to cut  [default: 0.5; 0<=x<1]
"""
CARD = """---
license: apache-2.0
---
# result

made of whole heads, by edgewright.

| metric | result |
| --- | ---: |
| size | 13.0 MB |

```yaml
prune:
  heads: 0.25
```
"""
RECORD = {
    "arguments": ["prune", "model"],
    "code": 0,
    "seconds": 1.0,
    "keys": ["notes", "rows"],
    "json": {
        "notes": ["query heads 8 -> 6: they were cut"],
        "rows": 5,
        "ok": True,
        "precision": "int4",
        "step": "cpu fp16",
    },
    "files": {
        "model.safetensors": {"sha256": "aa", "tensors": {"lm_head": "F32 [2] 11"}},
        "config.json": {"sha256": "bb"},
        "measured.json": {"sha256": "cc", "json": {"metrics": {"size_bytes": 7}}},
        "README.md": {"text": CARD.splitlines()},
        "run.sh": {"sha256": "dd", "text": ["#!/bin/sh", "# Run it here.", "exec run 1"]},
        "gate.xml": {"text": ['<case name="size 1 MB">it was too big</case>']},
        "report.md": {"words": "ee"},
    },
}


def changed(path: str, value: object) -> Counter[str]:
    """The kinds of differences after one value of the record changes; None removes the key."""
    after = copy.deepcopy(RECORD)
    *parents, last = path.split("/")
    node: object = after
    for key in parents:
        node = node[int(key) if isinstance(node, list) else key]  # type: ignore[index]
    if value is None:
        del node[last]  # type: ignore[attr-defined]
    else:
        node[int(last) if isinstance(node, list) else last] = value  # type: ignore[index]
    return Counter(one.kind for one in of_job("job", RECORD, after))


def card(old: str, new: str) -> list[str]:
    """The lines of the model card with another text in one place."""
    assert old in CARD
    return CARD.replace(old, new).splitlines()


TENSORS = {"sha256": "ab", "tensors": {"lm_head": "F32 [2] 22"}}
MORE = {"sha256": "cd", "json": {"metrics": {"size_bytes": 7, "parameters": 3}}}
OTHER = {"sha256": "cd", "json": {"metrics": {"size_bytes": 8}}}
COMMENT = {"sha256": "de", "text": ["#!/bin/sh", "# Start the model.", "exec run 1"]}
COMMAND = {"sha256": "de", "text": ["#!/bin/sh", "# Run it here.", "exec run 2"]}


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("seconds", 2.0, None),
        ("files/model.safetensors", TENSORS, "bytes"),
        ("files/config.json", {"sha256": "bc"}, "bytes"),
        ("files/measured.json", {"sha256": "cd", "json": {"metrics": {"size_bytes": 7}}}, "bytes"),
        ("files/measured.json", OTHER, "values"),
        ("files/measured.json", MORE, "new"),
        ("files/measured.json", {"sha256": "cc"}, None),  # a capture of the older script
        ("files/measured.json", {"sha256": "cd"}, "bytes"),
        ("files/config.json", None, "values"),
        ("files/other.json", {"sha256": "ff"}, "values"),
        ("files/README.md", {"text": card("made of", "made from")}, "words"),
        ("files/README.md", {"text": card("13.0 MB", "14.0 MB")}, "values"),
        ("files/README.md", {"text": card("heads: 0.25", "heads: 0.5")}, "values"),
        ("files/README.md", {"text": card("  heads", "  bits: 4\n  heads")}, "new"),
        ("files/README.md", {"text": card("apache-2.0", "mit")}, "values"),
        ("files/run.sh", COMMENT, "words"),
        ("files/run.sh", COMMAND, "values"),
        ("files/gate.xml", {"text": ['<case name="size 1 MB">big</case>']}, "values"),
        ("files/gate.xml", {"text": ['<case name="size 1 MB">it was large</case>']}, "words"),
        ("files/gate.xml", {"text": ['<case name="size MB">it was too big</case>']}, "values"),
        ("files/report.md", {"words": "ef"}, "words"),
        ("code", 3, "values"),
        ("json/rows", 6, "values"),
        ("json/rows", 5.0, "values"),
        ("json/ok", 1, "values"),
        ("json/ok", None, "values"),
        ("json/more", 1, "new"),
        ("json/precision", "int8", "values"),
        ("json/step", "cpu fp32 or so", "values"),
        ("json/notes/0", "query heads 8 -> 6: removed", "words"),
        ("json/notes/0", "query heads 8 -> 5: they were cut", "values"),
        ("json/notes", [*RECORD["json"]["notes"], "and one more note"], "words"),
    ],
)
def test_kind_of_a_difference(path, value, kind):
    found = changed(path, value)
    assert [*found] == ([kind] if kind else []), found


def of_text(before: str, after: str, job: str = "job", field: str = "text") -> Counter[str]:
    """The kinds of differences of two outputs; those with a `Usage:` are help texts."""
    arguments = ["bench", "--help"] if before.startswith("Usage") else ["bench"]
    sides = [
        {"arguments": arguments, "code": 0, "files": {}, field: text.splitlines()}
        for text in (before, after)
    ]
    return Counter(one.kind for one in of_job(job, *sides))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("tokens a row", "tokens per row", "words"),
        ("or\n  an artifact.", "or an\n  artifact.", None),
        ("no-\n                            latency]", "no-latency]", None),
        ("[default: 512]", "[default: 256]", "values"),
        ("--seq-len <int>", "--seq-len <str>", "values"),
        ("0<=x<1", "0<=x<2", "values"),
        ("/ --no-latency", "              ", "values"),
        ("  --share <float>           part to cut  [default: 0.5; 0<=x<1]\n", "", "values"),
        ("Options:\n", "Options:\n  --more <int>  a new one\n", "new"),
        ("[OPTIONS] {path}", "[OPTIONS] {model}", "values"),
        ("  [required]", "", "values"),
    ],
)
def test_help_texts(old, new, kind):
    assert old in HELP
    assert [*of_text(HELP, HELP.replace(old, new))] == ([kind] if kind else [])


def test_parts_of_a_help_text():
    parts = help_text.parse(HELP.splitlines())
    assert parts["usage"] == "Usage: edgewright bench [OPTIONS] {path}"
    assert parts["prose"] == "Measure a checkpoint or an artifact."
    assert parts["options"]["--no-latency"]["default"] == "no-latency"
    assert parts["options"]["--share"] == {
        "metavar": "<float>",
        "default": "0.5",
        "range": "0<=x<1",
        "description": "part to cut",
    }


def test_a_declared_difference_is_allowed_in_its_job_only(monkeypatch):
    allowed = Declared("help-bench", "help.options.--seq-len.default", "a default that must change")
    monkeypatch.setattr(declared, "DECLARED", (allowed,))
    after = HELP.replace("512", "256")
    assert of_text(HELP, after, job="help-bench") == {"declared": 1}
    assert of_text(HELP, after, job="help-quantize") == {"values": 1}


TABLE = "title of it\n┃ metric ┃ result ┃\n├──┤\n│ size │ 7 MB │\n│ loss │ int4 │\n"


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("title of it", "another title", "words"),
        ("┃ metric", "┃ what   ", "words"),
        ("│ size │ 7 MB", "│ size   │   7 MB", None),
        ("7 MB", "8 MB", "values"),
        ("int4", "int8", "values"),
        ("│ loss │ int4 │\n", "", "values"),
        ("│ size", "│ time │ some text │\n│ size", "new"),
    ],
)
def test_output_with_a_table(old, new, kind):
    assert old in TABLE
    assert [*of_text(TABLE, TABLE.replace(old, new))] == ([kind] if kind else [])


def test_a_message_may_be_reworded_and_wrapped():
    before = "error: bits: 5 is not allowed\n  -> see --help for it"
    after = "error: bits: 5 is not\nallowed\n  -> read --help for it"
    assert [*of_text(before, after, field="error")] == ["words"]
    assert [*of_text(before, before.replace("5", "6"), field="error")] == ["values"]


def test_exit_codes_and_missing_jobs(tmp_path, capsys):
    worded = copy.deepcopy(RECORD)
    worded["json"]["notes"] = ["query heads 8 -> 7: removed"]
    captures = {"a": {"one": RECORD}, "b": {"one": worded}, "c": {"one": worded, "two": RECORD}}
    for name, capture in captures.items():
        (tmp_path / name).write_text(json.dumps(capture))
    assert compare(tmp_path / "a", tmp_path / "b", words=True) == 0
    assert "(!) one, json.notes.0" in capsys.readouterr().out  # other numbers than before
    assert compare(tmp_path / "a", tmp_path / "c") == 0
    assert compare(tmp_path / "c", tmp_path / "a") == 1


def test_a_job_runs_after_the_jobs_that_it_reads():
    jobs = matrix()
    order = chosen(jobs, "export-kv-pruned")
    assert order == ["prune-kv-heads", "gptq-pruned", "export-kv-pruned"]
    assert "demo" not in chosen(jobs, "")
    assert len(chosen(jobs, "")) == len(jobs) - 1

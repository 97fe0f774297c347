"""The commands of README and docs work as they are printed, in order, in a clean directory.

Each page has its own directory. `MODEL` and the other names that docs/verbs.md explains are tiny
models and small texts there; and every page has what the commands of docs/verbs.md made. Numbers of
rows and steps are made small, by options behind the printed ones. No command is left out in
silence: the test below counts those that are not run, by the reason that the page gives.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from doc_commands import (
    MARK,
    PAGES,
    REASONS,
    VERBS,
    blocks,
    commands_of,
    python_of,
    unfenced,
)
from report_ledger import make_ledger

import edgewright as ew

Cli = Callable[..., tuple[int, str, str]]
RUN = [page for page in PAGES if any(not command.reason for command in commands_of(page))]
PYTHON = [page for page in PAGES if any(not reason for _, reason in python_of(page))]
COUNTS = {
    "run": 110,
    "takes minutes": 16,
    "needs a board": 12,
    "needs a server": 8,
    "needs a real model": 4,
    "needs several processes": 3,
    "needs a download": 5,
    "writes into the repository": 2,
    "needs measurements of yours": 1,
    "runs until you stop it": 3,
}
"""Commands of all pages: how many the tests run, and how many they do not, by reason."""
SMALLER: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "quantize": (("", ("--samples", "4", "--seq-len", "32")),),
    "prune": (("", ("--samples", "4", "--seq-len", "32")),),
    "iterate": (
        ("", ("--samples", "4", "--seq-len", "32", "--batch-size", "2")),
        ("", ("--hidden-steps", "1", "--logit-steps", "1", "--held-out-rows", "4")),
    ),
    "distill": (
        ("", ("--seq-len", "32", "--batch-size", "2")),
        (r"--teacher MODEL(?!.*--teacher-cache)", ("--hidden-steps", "1", "--logit-steps", "1")),
        ("--teacher-cache|--qat", ("--logit-steps", "1")),
        ("--teacher none", ("--label-steps", "1")),
    ),
    "traces": (("", ("--limit", "2", "--chains", "2", "--max-new-tokens", "8")),),
    "export": (("", ("--seq-len", "32")),),
    "bench": (
        ("--perplexity", ("--windows", "2", "--seq-len", "32")),
        ("--tasks", ("--limit", "2", "--max-new-tokens", "8")),
        ("--latency", ("--runs", "1", "--new-tokens", "4")),
    ),
    "kv-study": (
        ("", ("--windows", "2", "--seq-len", "32", "--samples", "4")),
        ("--tasks", ("--limit", "2", "--max-new-tokens", "8")),
    ),
}
"""By verb: what the command has (a pattern), and the options that keep the test short."""
SHORT = {"samples": 4, "seq_len": 32}
SMALLER_CALLS: dict[str, dict[str, int]] = {
    "prune": SHORT,
    "quantize": SHORT,
    "distill": {"seq_len": 32, "batch_size": 2},
}
"""By function: the keywords that keep a test of the Python examples short."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_in_fenced_blocks_with_known_marks(page: Path) -> None:
    assert not list(unfenced(page)), (
        "fence commands as ```bash and ```python, so that a test runs them"
    )
    marks = [line for block in blocks(page) for line in block.splitlines() if line.startswith(MARK)]
    assert {line.removeprefix(MARK) for line in marks} <= set(REASONS)
    assert {reason for _, reason in python_of(page)} <= {"", *REASONS}


def test_how_many_commands_are_run_and_why_the_others_are_not() -> None:
    found = Counter(command.reason or "run" for page in PAGES for command in commands_of(page))
    assert dict(found) == COUNTS


def supplied(folder: Path, make_model: Callable[..., Path]) -> None:
    """What a reader brings: models and data."""
    long = {"max_position_embeddings": 16384, "use_sliding_window": False}
    shutil.copytree(make_model("qwen3", **long), folder / "MODEL")
    shutil.copytree(make_model("qwen3_moe"), folder / "MIXTURE")
    sentences = [
        f"{n} boats left the harbour, and {n * 7 % 50} of them came back." for n in range(400)
    ]
    for name in ("mine", "held-out", "wiki", "other"):
        (folder / f"{name}.txt").write_text("\n".join(sentences))
    sums = [{"question": f"{n}+{n % 9}=", "answer": f"#### {n + n % 9}"} for n in range(1100)]
    rows = "".join(f"{json.dumps(row)}\n" for row in sums)
    (folder / "gsm8k.jsonl").write_text(rows)
    (folder / "gsm8k_train.jsonl").write_text(rows)
    choice = {"question": "1+1=", "choices": ["1", "2"], "answer": 1}
    (folder / "arc.jsonl").write_text(f"{json.dumps(choice)}\n" * 20)
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def one():\n",
        "entry_point": "one",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
    }
    (folder / "HumanEval.jsonl.gz").write_bytes(
        gzip.compress(f"{json.dumps(problem)}\n".encode() * 4)
    )
    (folder / "gate.yaml").write_text("limits: {size_bytes: {max_ratio: 1.5}}\n")
    for name in ("demo", "other"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "ledger.json").write_text(json.dumps(make_ledger()))


def smaller(words: list[str]) -> list[str]:
    """The options that keep a command short, without those that would be given twice."""
    line = " ".join(words)
    rules = SMALLER.get(words[1], ())
    return [word for part, more in rules if re.search(part, line) for word in more]


def run_page(cli: Cli, page: Path) -> None:
    """Run the commands of a page in the current directory."""
    for command in commands_of(page):
        if command.reason:
            continue
        words = command.words
        if words[0] == "mkdir":
            Path(words[-1]).mkdir(parents=True, exist_ok=True)
            continue
        assert words[0] == "edgewright", f"{page.name}: {command.line}"
        code, _, error = cli(*words[1:], *smaller(words))
        assert code in command.exit_codes, f"{page.name}: {command.line}\n{error}"
        if words[1] == "traces" and not Path("traces.jsonl").read_text().strip():
            # A model of random numbers has no right answers to learn from.
            shutil.copy("gsm8k.jsonl", "traces.jsonl")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]
) -> Iterator[Path]:
    """The directory in which the commands of docs/verbs.md are run, by the first test."""
    folder = tmp_path_factory.mktemp("verbs")
    supplied(folder, make_model)
    yield folder


def of_the_page(folder: Path, page: Path) -> None:
    """What a page itself tells the reader to have: its policy, and names for artifacts."""
    if "This is `gate.yaml`" in page.read_text():
        policy = re.search(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        assert policy and yaml.safe_load(policy[1])["limits"]
        (folder / "gate.yaml").write_text(policy[1])
    (folder / "traces.jsonl").unlink()  # the page makes it again
    for name, stands_for in (("ARTIFACT", "int4-onnx"), ("GGUF", "int4-gguf")):
        shutil.copytree(folder / stands_for, folder / name)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_of_a_page_work_as_printed(
    cli: Cli, page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    if not (made / "int4-onnx").is_dir():  # the first test of a process, whichever page it is of
        run_page(cli, VERBS)
    if page != VERBS:
        folder = tmp_path / "page"
        shutil.copytree(made, folder)
        of_the_page(folder, page)
        monkeypatch.chdir(folder)
        run_page(cli, page)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_of_a_page_works_as_printed(
    cli: Cli, page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    if not (made / "int4-onnx").is_dir():
        run_page(cli, VERBS)
    folder = tmp_path / "page"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    for name, keywords in SMALLER_CALLS.items():
        monkeypatch.setattr(ew, name, partial(getattr(ew, name), **keywords), raising=False)
    names: dict[str, object] = {}
    for code, reason in python_of(page):
        if not reason:
            exec(compile(code, page.name, "exec"), names)

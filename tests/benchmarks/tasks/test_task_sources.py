"""Where tasks read their problems from: JSONL, gzip, Parquet, the hub, and parts of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_data import stub_hub, write, write_rows
from scripted_backend import lines

from edgewright.benchmarks.measure import Measurement, measure
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.multiple_choice import read_choices
from edgewright.benchmarks.tasks.programs import read_exercises
from edgewright.benchmarks.tasks.questions import read_pairs
from edgewright.benchmarks.tasks.task import Task
from edgewright.data.sources import Source
from edgewright.errors import UsageError

REASONER = Path(__file__).parents[3] / "demo" / "model"
PROBLEMS: dict[str, list[dict[str, Any]]] = {
    "qa": [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(6)],
    "choice": [
        {
            "question": f"{n}?",
            "choices": {"text": ["a", "b"], "label": ["A", "B"]},
            "answerKey": "B",
        }
        for n in range(6)
    ],
    "code": [
        {"prompt": f"def f{n}():\n", "test": "def check(f):\n    f()\n", "entry_point": f"f{n}"}
        for n in range(6)
    ],
}
READERS: dict[str, Callable[[Source], list[Any]]] = {
    "qa": read_pairs,
    "choice": read_choices,
    "code": read_exercises,
}


def packed(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return file


def read(text: str) -> list[Any]:
    task = Task.parse(text)
    assert task.source
    task.check()
    return READERS[task.kind](task.source)


def hub(folder: Path, rows: list[dict[str, Any]], *splits: str) -> str:
    """A data set whose test split has all rows, and the others two."""
    return write(
        folder, ("main",), splits, lambda _, split: rows if split == splits[-1] else rows[:2]
    )


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problems_are_the_same_in_every_table(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = PROBLEMS[kind]
    file = lines(tmp_path / "own.jsonl", *rows)
    folder = hub(tmp_path / "set", rows, "train", "test")
    stub_hub(monkeypatch, {"someone/problems": folder, folder: folder})
    tables = [
        f"jsonl:{file}",
        str(packed(tmp_path / "own.jsonl.gz", rows)),
        f"parquet:{write_rows(tmp_path / 'own.parquet', rows)}",
        f"hf:{folder}",
        "hf:someone/problems",
        "hf:someone/problems:main:test",
    ]
    expected = read(f"{kind}:{file}")
    assert len(expected) == 6
    for table in tables:
        assert read(f"{kind}:{table}") == expected, table
        assert read(f"{kind}:{table}[-2:]") == expected[-2:], table
    assert read(f"{kind}:hf:someone/problems:train") == expected[:2]


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (("train", "validation", "test"), "test"),
        (("train", "validation"), "validation"),
        (("train",), "train"),
    ],
)
def test_tasks_prefer_the_split_test(
    splits: tuple[str, ...], chosen: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub(tmp_path / "set", PROBLEMS["qa"], *splits)
    assert len(read(f"qa:hf:{folder}")) == 6
    assert f"configuration main, split {chosen}" in " ".join(capsys.readouterr().err.split())
    text = Source.parse(f"hf:{folder}")
    assert text.hub.split == "train", "text is read from the split train"
    task = Task.parse(f"qa:hf:{folder}")
    assert (task.fingerprint() == text.fingerprint()) == (chosen == "train")


def test_a_split_must_be_named_where_no_usual_one_is(tmp_path: Path) -> None:
    folder = hub(tmp_path / "set", PROBLEMS["qa"], "train", "dev")
    with pytest.raises(UsageError, match="no split test or validation, but train, dev") as caught:
        Task.parse(f"qa:hf:{folder}").check()
    assert f"hf:{folder}:train" in caught.value.hint


def test_a_task_reads_whole_rows(tmp_path: Path) -> None:
    file = lines(tmp_path / "own.jsonl", *PROBLEMS["qa"])
    folder = hub(tmp_path / "set", PROBLEMS["qa"], "test")
    for name in (f"{file}:question", f"jsonl:{file}:question[:2]", f"hf:{folder}:test:question"):
        with pytest.raises(UsageError, match="whole rows, not the field `question`") as caught:
            Task.parse(f"qa:{name}").check()
        assert caught.value.hint == "leave the field out"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("HumanEval.jsonl", "HumanEval"),
        ("HumanEval.jsonl.gz", "HumanEval"),
        ("jsonl:v1.2.json.gz[5:]", "v1.2"),
        ("gsm8k_train.jsonl[-1000:]", "gsm8k_train"),
        ("parquet:gsm8k_train.parquet[:10]", "gsm8k_train"),
        ("hf:openai/openai_humaneval", "openai_humaneval"),
        ("hf:openai/gsm8k:main:test[:100]", "gsm8k"),
        ("hf:someone/data-v1.5", "data-v1.5"),
    ],
)
def test_the_name_in_metrics(
    name: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not name.startswith("hf:"):
        file = name.partition("[")[0].removeprefix("jsonl:").removeprefix("parquet:")
        (tmp_path / file).write_text("{}")
    assert Task.parse(f"code:{name}").label == label


def test_the_fingerprint_covers_content_and_range(tmp_path: Path) -> None:
    file = lines(tmp_path / "own.jsonl", *PROBLEMS["qa"])
    names = [f"qa:{file}", f"qa:{file}[:3]", f"qa:{file}[3:]"]
    first = [Task.parse(name).fingerprint() for name in names]
    assert len(set(first)) == 3
    assert first == [Task.parse(name).fingerprint() for name in names]
    lines(file, *PROBLEMS["qa"][:5])
    assert not set(first) & {Task.parse(name).fingerprint() for name in names}


def measured(*tasks: str, limit: int = 10) -> Measurement:
    options = EvaluateOptions(tasks=tasks, limit=limit, max_new_tokens=4, latency=None)
    return measure(REASONER, options)


def test_a_part_of_a_hub_data_set_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub(tmp_path / "set", PROBLEMS["choice"], "train", "test")
    stub_hub(monkeypatch, {"openai/gsm8k": folder})
    hashes: list[str] = []
    for part, limit, count in (("", 10, 6), ("[:3]", 10, 3), ("[3:]", 10, 3), ("[-4:]", 2, 2)):
        found = measured(f"choice:hf:openai/gsm8k:main{part}", limit=limit)
        assert found.metrics["accuracy/gsm8k/n"] == count
        assert found.context["problems/gsm8k"] == count
        hashes.append(found.context["problems_hash/gsm8k"])
        last = found.answers[-1]["question"]
    assert len(set(hashes)) == 4
    assert last == "3?", "of the last four problems, the first two are asked"


def test_two_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = PROBLEMS["choice"]
    file = lines(tmp_path / "own.jsonl", *rows)
    (tmp_path / "other").mkdir()
    other = lines(tmp_path / "other" / "own.jsonl", *rows)
    for second in (f"choice:{other}", f"choice:{file}[:2]", f"qa:{file}", "gym:own"):
        with pytest.raises(UsageError, match="both are called own in metrics") as caught:
            measured(f"choice:{file}", second)
        assert second in str(caught.value)
        assert caught.value.hint
    texts = (f"jsonl:{file}:question[:3]", f"jsonl:{file}:question[3:]")
    with pytest.raises(UsageError, match="both are called own in metrics"):
        measure(REASONER, EvaluateOptions(perplexity=texts, latency=None))


def test_all_inputs_are_checked_before_the_first_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("edgewright.benchmarks.measure.open_backend")
    file = lines(tmp_path / "own.jsonl", *PROBLEMS["choice"])
    with pytest.raises(UsageError, match="no rows are in this range; the data has 6"):
        measured("reasoning", f"choice:{file}[6:]")

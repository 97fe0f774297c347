"""A task file of lm-eval is another one as soon as anything that it reads is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.benchmarks.tasks.lm_eval_files import files_of
from edgewright.benchmarks.tasks.task import Task

FILES = {
    "task.yaml": (
        "include: shared/base\ntask: t\ndataset_kwargs:\n  data_files: {test: [a.jsonl, 'b*.gz']}\n"
        "process_docs: !function code.utils.docs\n"
        "metric_list: [{metric: !function math.sqrt}, &same {metric: acc}, *same]\n"
    ),
    "shared/base": "include: [more.yaml]\ndataset_path: json\ndataset_kwargs: {data_dir: folder}\n",
    "shared/more.yaml": "include: base\ndoc_to_text: !function text.of\n",
    "shared/text.py": "def of(doc): return ''",
    "code/utils.py": "def docs(rows): return rows",
    "a.jsonl": "{}",
    "b1.gz": "1",
    "b2.gz": "2",
    "folder/deep/rows.parquet": "x",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "unread.jsonl").write_text("{}")
    (tmp_path / "t").write_text("a file of the name of the task")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_of_a_task_file(folder: Path) -> None:
    found = files_of(Path("task.yaml"))
    assert {str(file.relative_to(folder)) for file in found} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_file_is_seen(folder: Path, name: str) -> None:
    task = Task.parse("lm-eval:task.yaml")
    before = task.fingerprint()
    (folder / "unread.jsonl").write_text("[]")
    assert task.fingerprint() == before
    with (folder / name).open("a") as handle:
        handle.write("\n")
    assert task.fingerprint() != before


def test_a_file_that_is_no_yaml_is_known_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "odd.yaml"
    prints: set[str] = set()
    for text in ("a: [", "[" * 5000, "- \x00", "x", ""):
        file.write_text(text)
        assert files_of(file) == [file]
        prints.add(Task.parse(f"lm-eval:{file}").fingerprint())
    assert len(prints) == 5

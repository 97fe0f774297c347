"""The local files that a task file of lm-eval reads, so that their changes are seen."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

from ...documents import YAML_BYTES, read_text
from ...errors import UsageError

__all__ = ["files_hash", "files_of"]

DATA = frozenset({"data_dir", "data_files", "dataset_path"})
"""Keys of a task file whose values name files and folders of data, or are patterns of names."""
INCLUDE = "include"
"""Its key for task files that it extends; their names begin at its own folder."""
FUNCTION = "!function"
"""Its tag for a function of a Python file; MODULE.FUNCTION, beginning at its own folder."""


def files_hash(task_file: Path) -> str:
    """A hash of the contents of `files_of`."""
    digest = hashlib.sha256()
    for file in files_of(task_file):
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def files_of(task_file: Path) -> list[Path]:
    """The task file, those that it includes, their Python files, and their local data.

    What is no local file (a data set of the hub, an address) is known by its name in the task file.
    What a Python file reads is not seen.
    """
    found: dict[Path, None] = {}
    waiting = [task_file.resolve()]
    while waiting:
        file = waiting.pop()
        if file in found or not os.path.isfile(file):
            continue
        found[file] = None
        for node in _nodes(file):
            waiting += [(file.parent / name).resolve() for name in _texts(node, {INCLUDE})]
            found.update(dict.fromkeys(_function_file(node, file.parent)))
            for name in _texts(node, DATA):
                found.update(dict.fromkeys(_data_files(name)))
    return list(found)


def _nodes(file: Path) -> Iterator[yaml.Node]:
    """The values in a YAML file, each once; none if it is no YAML, which lm-eval then says."""
    try:
        waiting = [yaml.compose(read_text(file, "", YAML_BYTES), yaml.SafeLoader)]
    except (UsageError, yaml.YAMLError, ValueError, RecursionError):
        return
    yield from _all(waiting)


def _all(waiting: list[yaml.Node | None]) -> Iterator[yaml.Node]:
    """These values and all inside of them, each once, however often aliases name it."""
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting += _children(node)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _texts(node: yaml.Node, keys: Collection[str]) -> Iterator[str]:
    """The texts anywhere under these keys of a mapping."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for inner in _all(
        [value for key, value in pairs if isinstance(key, yaml.ScalarNode) and key.value in keys]
    ):
        if isinstance(inner, yaml.ScalarNode):
            yield inner.value


def _function_file(node: yaml.Node, folder: Path) -> list[Path]:
    """The Python file of a function, if it is one of this folder and no installed module."""
    if node.tag != FUNCTION or not isinstance(node, yaml.ScalarNode):
        return []
    module = node.value.rpartition(".")[0].replace(".", os.sep)
    file = (folder / f"{module}.py").resolve()
    return [file] if os.path.isfile(file) else []


def _data_files(name: str) -> list[Path]:
    """The files that a name or a pattern means: of a folder all that are in it."""
    paths = map(Path, sorted(glob.glob(name, recursive=True)))
    inside = (path.rglob("*") if path.is_dir() else [path] for path in paths)
    return [file.resolve() for files in inside for file in sorted(files) if file.is_file()]

"""Code that comes with a checkpoint never runs, and nobody is asked whether it may."""

from __future__ import annotations

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
NAMES = ("evil.py", "modeling_llama.py", "configuration_llama.py", "custom_generate/generate.py")
MAPS = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}
PICKLES = ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "model.ckpt")


class _Evil:
    """What a pickle runs when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def plant(folder: Path) -> Path:
    """Put code wherever some reader of checkpoints looks for it; returns what it would make."""
    mark = folder.parent / f"{folder.name}.ran"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(_Evil(mark)))
    return mark


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


PLACES: dict[str, Callable[[Path], None]] = {
    "config.json": lambda f: edit(f / "config.json", auto_map=MAPS),
    "config.json, from the hub": lambda f: edit(
        f / "config.json", auto_map=dict.fromkeys(MAPS, "some/body--evil.X")
    ),
    "own model type": lambda f: edit(f / "config.json", model_type="evil", auto_map=MAPS),
    "kernels": lambda f: edit(f / "config.json", attn_implementation="some/body"),
    "tokenizer_config.json": lambda f: edit(f / "tokenizer_config.json", auto_map=MAPS),
    "own tokenizer class": lambda f: edit(
        f / "tokenizer_config.json", tokenizer_class="Tokenizer", auto_map=MAPS
    ),
    "old form of the tokenizer": lambda f: edit(
        f / "tokenizer_config.json", tokenizer_class="Own", auto_map=["evil.Tokenizer", None]
    ),
    "pickles alone": lambda f: (f / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_verb_runs_it(
    place: str,
    copy_model: MakeModel,
    cli: Cli,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = copy_model("llama")
    mark = plant(model)
    PLACES[place](model)
    small = ("--calibration", f"text:{text_file}", "--samples", 1, "--seq-len", 32)
    score = ("--perplexity", f"text:{text_file}", "--windows", 1, "--seq-len", 32)
    for verb, *options in (
        ("plan", "--target", "jetson-orin-nano-8gb"),
        ("bench", *score),
        ("quantize", "--method", "rtn", "--group-size", 32, *small, "--out", tmp_path / "q"),
        ("export", "--format", "gguf", "--precision", "fp16", "--out", tmp_path / "g"),
    ):
        answers = io.StringIO("y\n" * 100)
        monkeypatch.setattr(sys, "stdin", answers)
        code, _, err = cli(verb, model, *options)
        assert not mark.exists(), (verb, err)
        assert answers.tell() == 0, (verb, "somebody was asked")
        assert code in (0, 1, 2, 3), (verb, err)
        assert "Traceback" not in err
        assert "trust_remote_code=True" not in err, err


def test_outputs_carry_no_code(
    copy_model: MakeModel, cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    """What is written has neither the code nor the pickles of the checkpoint."""
    model = copy_model("llama")
    plant(model)
    small = ("--calibration", f"text:{text_file}", "--samples", 1, "--seq-len", 32)
    out = tmp_path / "q"
    assert (
        cli("quantize", model, "--method", "rtn", "--group-size", 32, *small, "--out", out)[0] == 0
    )
    names = {file.name for file in out.rglob("*")}
    assert not names & {*PICKLES, *(Path(name).name for name in NAMES)}

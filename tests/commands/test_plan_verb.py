"""`plan MODEL`: which precisions a device can run, what to type to get them, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

QWEN_3B = Path(__file__).parents[1] / "configs" / "qwen2.5-3b.json"
BLOCKS: dict[str, dict[str, Any]] = {
    "gptq-4": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "gptq-8": {"quant_method": "gptq", "bits": 8, "group_size": 128},
    "smoothquant": {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"},
}
OWN_PRECISION = {"gptq-4": "int4", "gptq-8": "fp16", "smoothquant": "int8"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copy(QWEN_3B, tmp_path / "config.json")
    return tmp_path


def headings(out: str) -> list[str]:
    """The headings of the first table, each in one line."""
    head = out.partition("┡")[0].splitlines()
    lines = [line.strip("┃").split("┃") for line in head if line.startswith("┃")]
    return [" ".join(" ".join(parts).split()) for parts in zip(*lines, strict=True)]


def test_one_precision_that_fits_is_enough(cli, model: Path) -> None:
    code, out, error = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    assert (code, error) == (0, "")
    assert "int4 runs on jetson-orin-nano-8gb" in out
    assert "fp16 runs" not in out
    assert f"edgewright quantize {model} --method mixed --out int4" in out
    assert "edgewright export int4 --format gguf --precision int4 --out int4-gguf" in out
    assert "5.00 GB to give" in out  # why fp16 and int8 do not fit
    assert "with --kv-cache int8" not in out  # llama.cpp's is not ours


def test_a_smaller_cache_is_named_where_it_makes_the_context_longer(cli, model: Path) -> None:
    _, out, _ = cli("plan", model, "--target", "jetson-orin-nx-16gb", "--context", "4096")
    assert "with --kv-cache int8" not in out  # 32,768 tokens, the model's own limit, fit
    file = model / "config.json"
    longer = json.loads(file.read_text()) | {"max_position_embeddings": 10**6}
    file.write_text(json.dumps(longer))
    _, out, _ = cli("plan", model, "--target", "jetson-orin-nx-16gb")
    assert "int8 with --kv-cache int8: its longest context is" in out


def test_none_that_fits_is_refused_with_3_and_every_reason(cli, model: Path) -> None:
    code, out, error = cli("plan", model, "--target", "jetson-orin-nano-4gb")
    assert code == 3
    assert "runs on" not in out
    assert "jetson-orin-nano-4gb can run this model in no precision" in error
    assert [word in error for word in ("fp16:", "int8:", "int4:")] == [True] * 3
    assert "step" not in error


def test_columns_without_a_value_are_left_out(cli, model: Path) -> None:
    _, out, _ = cli("plan", model)
    assert headings(out) == ["precision", "format", "params M", "size"]
    assert "add --target NAME (`edgewright targets` lists them) for a prediction" in out
    _, out, _ = cli("plan", model, "--target", "all")
    assert headings(out)[:2] == ["target", "precision"]
    assert "add --target" not in out


@pytest.mark.parametrize("block", BLOCKS)
def test_a_quantized_model_is_planned_as_it_can_be_exported(cli, model: Path, block: str) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": BLOCKS[block]}
    file.write_text(json.dumps(config))
    code, out, _ = cli("plan", model, "--target", "jetson-agx-orin-64gb", "--json")
    assert code == 0
    own = OWN_PRECISION[block]
    [row] = json.loads(out)["rows"]
    assert row["precision"] == own
    format = "gguf" if own == "int4" else "onnx"  # TensorRT reads INT4 from JetPack 7.2 on
    named = "--format gguf " if format == "gguf" else ""
    export = f"edgewright export {model} {named}--precision {own} --out {own}-{format}"
    assert (row["format"], row["commands"]) == (format, [export])


def student(folder: Path, **sizes: Any) -> Path:
    """A smaller model with the same tokens, as a directory beside the model."""
    config = json.loads(QWEN_3B.read_text()) | {"num_hidden_layers": 12} | sizes
    draft = folder / "student"
    draft.mkdir()
    (draft / "config.json").write_text(json.dumps(config))
    return draft


def test_a_draft_is_planned_for_the_engines_that_take_one(cli, model: Path) -> None:
    draft = student(model)
    device = ("--target", "jetson-agx-orin-64gb")
    code, out, _ = cli("plan", model, *device, "--draft", draft)
    assert code == 0
    assert "int4 with the draft, llama.cpp: " in out and "int4 with the draft, vllm: " in out
    assert "is an assumption" in " ".join(out.split())
    code, out, _ = cli("plan", model, *device, "--draft", draft, "--draft-tokens", "3", "--json")
    found = [entry for row in json.loads(out)["rows"] for entry in row["drafts"]]
    assert code == 0 and len(found) == 6
    assert {(entry["drafted"], entry["assumed"]) for entry in found} == {(3, True)}


def test_a_draft_that_has_no_room_is_said(cli, model: Path) -> None:
    device = ("--target", "jetson-orin-nano-8gb", "--draft-agreement", "0.8")
    _, out, _ = cli("plan", model, *device, "--draft", student(model, num_hidden_layers=30))
    assert "NO room" in out and "is an assumption" not in " ".join(out.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "--draft needs one model and one device"),
        (("--target", "all"), "--draft needs one model and one device"),
        (("--target", "cpu"), "no engine that runs here takes a draft model"),
        (("--target", "jetson-orin-nx-16gb", "--draft-agreement", "70"), "is a share, 0 to 1"),
        (("--target", "jetson-orin-nx-16gb", "--draft-tokens", "0"), "must be at least 1"),
    ],
)
def test_a_draft_that_cannot_be_planned_is_one_message(
    cli, model: Path, more: tuple[str, ...], message: str
) -> None:
    code, out, error = cli("plan", model, "--draft", student(model), *more)
    assert (code, out) == (2, "") and message in error


def test_a_draft_with_other_tokens_is_refused(cli, model: Path) -> None:
    draft = student(model, vocab_size=32000)
    code, _, error = cli("plan", model, "--target", "jetson-orin-nx-16gb", "--draft", draft)
    assert code == 2 and "the draft has 32,000 tokens and the model 151,936" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--set", "model=x"), "--set changes a recipe"),
        (("--draft-tokens", "4"), "need --draft"),
        (("--draft-agreement", "0"), "need --draft"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    cli, model: Path, given: tuple[str, ...], message: str
) -> None:
    code, out, error = cli("plan", model, *given)
    assert (code, out) == (2, "") and message in error


def test_one_precision_is_planned_alone(cli, model: Path) -> None:
    device = ("--target", "jetson-orin-nano-8gb")
    code, out, error = cli("plan", model, *device, "--precision", "int4", "--json")
    assert (code, error) == (0, "")
    assert [row["precision"] for row in json.loads(out)["rows"]] == ["int4"]
    code, out, error = cli("plan", model, *device, "--precision", "fp16")
    assert code == 3
    assert "jetson-orin-nano-8gb cannot run this model in fp16" in error
    assert "-> leave --precision out, or give --precision int4, which runs there" in error


def test_a_precision_that_a_quantized_model_has_not_is_bad_usage(cli, model: Path) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": BLOCKS["gptq-4"]}
    file.write_text(json.dumps(config))
    code, _, error = cli("plan", model, "--precision", "fp16")
    assert code == 2 and "--precision int4" in error
    code, _, error = cli("plan", "demo", "--precision", "fp16")
    assert code == 2 and "--precision is for the plan of a model" in error


def test_no_advice_leads_in_a_circle(cli, model: Path) -> None:
    for target in ("jetson-orin-nano-8gb", "jetson-orin-nano-4gb"):
        _, out, _ = cli("plan", model, "--target", target, "--json")
        rows = {row["precision"]: row for row in json.loads(out)["rows"]}
        for row in rows.values():
            for line in (*row["violations"], *row["refused"]):
                advised = line.partition("(nearest: ")[2]
                wrong = [name for name in rows if f"--precision {name}" in advised]
                assert not [name for name in wrong if rows[name]["refused"]], line
                assert "(nearest: )" not in line


def test_a_refusal_names_a_device_that_runs_the_model_or_a_context(cli, model: Path) -> None:
    _, _, error = cli("plan", model, "--target", "jetson-orin-nano-4gb")
    advice = error.rpartition("-> ")[2]
    assert "use a larger device (jetson-orin-nano-8gb)" in advice
    assert cli("plan", model, "--target", "jetson-orin-nano-8gb")[0] == 0
    long = ("--target", "jetson-orin-nano-8gb", "--context", 10**6)
    _, _, error = cli("plan", model, *long)
    shorter = error.rpartition("--context ")[2].split()[0]
    assert cli("plan", model, "--target", "jetson-orin-nano-8gb", "--context", shorter)[0] == 0


def test_what_is_refused_is_said_once(cli, model: Path) -> None:
    _, out, error = cli("plan", model, "--target", "jetson-orin-nano-4gb")
    assert (out + error).count("int8: weights 3.28 GB") == 1


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_plan_fits_the_terminal_and_ends_with_what_to_type(
    cli, model: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewright.commands.tables.WIDTH", width)
    _, out, _ = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    for whole in ("6.17 GB", "3,085.94", "×÷1.15", "26,880", "7W:5  15W:13  25W:20", "15W:0.9"):
        assert whole in out
    export = "edgewright export int4 --format gguf --precision int4 --out int4-gguf"
    assert lines[-1].strip() == export
    assert "in 3.91 of its 5.00 GB, at about 20 tokens/s" in " ".join(out.split())


def test_a_recipe_that_ships_is_planned_by_its_name(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = cli("plan", "demo")
    assert code == 0, error
    assert "export-int4" in out
    code, _, error = cli("plan", "recipes/demo.yaml")
    assert code == 2 and "one of these names: " in error and " demo, " in error


def test_a_name_with_brackets_is_no_markup(cli, tmp_path: Path) -> None:
    model = tmp_path / "a[b]"
    model.mkdir()
    shutil.copy(QWEN_3B, model / "config.json")
    _, out, _ = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    assert f"edgewright quantize '{model}' --method mixed" in out
    _, out, _ = cli("targets", "show", "jetson-orin-nano-8gb")
    assert "formats: [onnx, " in out and len(out.splitlines()) < 140


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), ("0", 160), ("wide", 160)])
def test_a_table_in_a_pipe_is_as_wide_as_columns_says(
    cli, model: Path, columns: str, widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    _, out, _ = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    table = [len(line) for line in out.splitlines() if line.startswith("┃")]
    assert table and widest - 30 < max(table) <= widest


def test_a_context_beyond_the_model_is_planned_as_long_as_the_model_reads(cli, model: Path) -> None:
    device = ("--target", "jetson-agx-orin-64gb", "--precision", "fp16")
    code, out, _ = cli("plan", model, *device, "--context", 10**6)
    assert code == 0 and "planned for 32,768 tokens" in out


def test_an_artifact_is_no_model_to_plan(cli, model: Path) -> None:
    (model / "model.onnx").write_bytes(b"")
    code, out, error = cli("plan", model, "--target", "jetson-orin-nano-8gb")
    assert (code, out) == (2, "") and "an artifact of `export`" in error


def test_pruning_is_advised_only_where_it_can_be_enough(cli, tmp_path: Path) -> None:
    device = ("--target", "jetson-orin-nano-4gb")
    large = json.loads(QWEN_3B.read_text()) | {"num_hidden_layers": 400}
    (tmp_path / "config.json").write_text(json.dumps(large))
    code, _, error = cli("plan", tmp_path, *device)
    assert code == 3 and "take a smaller model" in error and "edgewright prune" not in error


def test_a_recipe_has_one_device(cli) -> None:
    code, _, error = cli("plan", "demo", "--target", "all")
    assert code == 2 and "--target all is for the plan of a model" in error

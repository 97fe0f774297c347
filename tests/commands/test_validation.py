"""From flags, or keywords, to options: switches of nested models, shorthands, and messages."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from edgewright.benchmarks.options import EvaluateOptions, LatencyOptions
from edgewright.commands.options import parameters
from edgewright.commands.validation import validated
from edgewright.compress.distill.options import DistillOptions, LoraOptions
from edgewright.compress.distill.stage_options import Stage
from edgewright.compress.iterate.options import IterateOptions
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.errors import UsageError


def made(model: type[BaseModel], **given: Any) -> Any:
    return validated(model, list(parameters(model)), given)


@pytest.mark.parametrize("model", [PruneOptions, QuantizeOptions, IterateOptions])
def test_nothing_given_is_the_default(model: type[BaseModel]) -> None:
    needs = {"prune": {}} if model is IterateOptions else {}
    assert made(model) == model.model_validate(needs)


def test_stages_without_flags_are_the_usual_ones() -> None:
    """The same counts, whether a recipe or the command line leaves them out."""
    for given in (
        {"teacher": "t"},
        {"teacher": "none"},
        {"teacher": "t", "teacher_cache": "logits"},
    ):
        nested = {**given, "teacher_cache": {"path": "logits"}} if len(given) > 1 else given
        recipe = DistillOptions.model_validate(nested)
        assert made(DistillOptions, **given).stages == recipe.stages
        with_rate = made(DistillOptions, **given, lr=0.5).stages
        assert [(s.loss, s.steps) for s in with_rate] == [(s.loss, s.steps) for s in recipe.stages]
        assert {s.lr for s in with_rate} == {0.5}


def test_flags_of_stages_go_to_the_stages_that_have_them() -> None:
    options = made(
        DistillOptions,
        teacher="t",
        hidden_steps=3,
        label_steps=2,
        attention=0.5,
        temperature=2.0,
        freeze=["model.embed*"],
        early_stop=4,
        hold_out=8,
        align_layers=["1:2", "2:4"],
    )
    hidden, logits, labels = options.stages
    assert (hidden.steps, logits.steps, labels.steps) == (3, 400, 2)
    assert (hidden.attention, logits.attention) == (0.5, 0.0)
    assert (hidden.temperature, logits.temperature) == (1.0, 2.0)
    assert hidden.layers == ((1, 2), (2, 4)) and logits.layers is None
    assert all(stage.freeze == ("model.embed*",) for stage in options.stages)
    assert all(stage.early_stop.patience == 4 for stage in options.stages)


def test_a_nested_model_follows_its_switch() -> None:
    assert made(DistillOptions, teacher="t").lora is None
    assert made(DistillOptions, teacher="t", lora=0).lora is None
    assert made(DistillOptions, teacher="t", lora=0, lora_alpha=8).lora is None
    lora = made(DistillOptions, teacher="t", lora=4, lora_alpha=8, lora_targets="v_proj,o_proj")
    assert lora.lora == LoraOptions(r=4, alpha=8, targets=("v_proj", "o_proj"))
    qat = made(DistillOptions, teacher="t", qat=4, qat_sym=False, scales_from="int4").qat
    assert (qat.bits, qat.group_size, qat.sym, qat.scales_from) == (4, 128, False, "int4")
    assert made(EvaluateOptions).latency is None
    assert made(EvaluateOptions, latency=True) == EvaluateOptions()
    timed = made(EvaluateOptions, latency=True, batches="1,8", context=[4096]).latency
    assert (timed.batches, timed.contexts) == ((1, 8), (4096,))
    assert made(QuantizeOptions, sensitivity=0.1).sensitivity.budget == 0.1
    assert made(PruneOptions, max_memory_mb=1.5).budget.memory_bytes == 1_500_000


def test_in_python_a_nested_model_may_be_given_whole() -> None:
    stages = [{"loss": "labels", "steps": 3}]
    options = made(DistillOptions, teacher="none", stages=stages, lora={"r": 2})
    assert options.stages == (Stage(loss="labels", steps=3),)
    assert options.lora == LoraOptions(r=2)
    assert made(EvaluateOptions, latency=LatencyOptions(runs=2)).latency.runs == 2
    assert made(PruneOptions, budget={"parameters": 7}).budget.parameters == 7
    assert made(QuantizeOptions, rules=[{"match": "*.a", "bits": 8}]).rules[0].bits == 8
    assert made(QuantizeOptions, rule="*.a=8").rules[0].bits == 8


def test_an_option_without_effect_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert made(EvaluateOptions, prompt=8, runs=3).latency is None
    warning = "warning: --prompt and --runs have no effect without --latency"
    assert warning in capsys.readouterr().err
    assert made(DistillOptions, teacher="t", qat=0, qat_group_size=64).qat is None
    assert not capsys.readouterr().err


WRONG = {
    "a number": (PruneOptions, {"heads": 1.5}, "--heads: Input should be less than 1"),
    "a share": (
        PruneOptions,
        {"heads": 2.0},
        "--heads: Input should be less than 1: it is a share between 0 and 1, such as 0.25",
    ),
    "a share that may be all": (QuantizeOptions, {"alpha": 2.0}, "a share between 0 and 1"),
    "a choice": (PruneOptions, {"criterion": "luck"}, "--criterion luck: use taylor, activation"),
    "a list": (EvaluateOptions, {"latency": True, "batches": "1,x"}, "--batches: "),
    "of stages": (DistillOptions, {"teacher": "t", "hidden_steps": -1}, "--hidden-steps: "),
    "inside stages": (DistillOptions, {"teacher": "t", "lr": -1.0}, "--lr: "),
    "a pair": (DistillOptions, {"teacher": "t", "align_layers": ["2"]}, "not STUDENT:TEACHER"),
    "a rule": (QuantizeOptions, {"rule": ["*.a"]}, "--rule *.a: not PATTERN=BITS"),
    "no adapters": (
        DistillOptions,
        {"teacher": "t", "lora_alpha": 8, "lora_targets": "v_proj"},
        "--lora-alpha and --lora-targets need --lora",
    ),
    "no grid": (DistillOptions, {"teacher": "t", "scales_from": "x"}, "--scales-from needs --qat"),
    "all of them": (PruneOptions, {"heads": 2.0, "layers": -1}, "--layers: "),
    "a pair of options": (
        QuantizeOptions,
        {"method": "int8", "bits": 4},
        "method int8 rounds to 8 bits",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_as_it_was_typed(name: str) -> None:
    model, given, words = WRONG[name]
    with pytest.raises(UsageError) as error:
        made(model, **given)
    assert words in str(error.value)


def test_errors_in_python_name_keywords() -> None:
    with pytest.raises(UsageError, match=r"^lora_alpha needs lora,"):
        validated(
            DistillOptions,
            list(parameters(DistillOptions)),
            {"teacher": "t", "lora_alpha": 8},
            in_python=True,
        )

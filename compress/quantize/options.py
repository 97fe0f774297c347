"""Quantization options: the method, the grid, and the layout on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from ...checkpoints.scheme import Scheme
from ...steps.options import Cli
from ...steps.panels import Panels
from ...steps.strict import STRICT
from .rules import Rule, Sensitivity, first_match, parsed_rule

__all__ = ["DAMP", "QuantizeOptions"]

DAMP = 0.005
"""Share of the mean Hessian diagonal that is added to the diagonal before GPTQ inverts it."""
MIXED = {"method": "gptq", "kv_bits": 8, "group_size": 64, "sym": False}
"""What method mixed stands for; options that are given count first."""
W8A8 = {"int8": "compressed-tensors", "smoothquant": "modelopt"}
"""Methods that also round activations, each with the only layout that it is written in."""


class QuantizeOptions(BaseModel):
    """How weights are rounded and stored."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "How weights are rounded",
        common=("method", "bits", "group_size", "format"),
        expert=("act_order", "damp", "refine", "hessian_tokens", "bf16"),
    )

    method: Literal["gptq", "mixed", "rtn", "awq", "int8", "smoothquant"] = Field(
        default="gptq",
        description="gptq: rounding that compensates its error; mixed: gptq with keys and values "
        "in 8 bits, zero points and groups of 64, which keeps more and suits ONNX Runtime and "
        "GGUF, but not TensorRT, vLLM or transformers; awq: scaling and clipping by "
        "activations; int8: weights and activations in 8 bits, one activation scale per token; "
        "smoothquant: the same with activation scales fixed from calibration data; rtn: round to "
        "nearest, the baseline to beat",
    )
    bits: Literal[2, 3, 4, 8] = Field(
        default=4, description="bits per weight; int8 and smoothquant: always 8"
    )
    kv_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None,
        description="bits of the key and value projections; method mixed: 8; default: as the "
        "others. Where query heads share them they are few weights, and their errors count most",
    )
    group_size: int = Field(
        default=128,
        description="input channels that share a scale: 32, 64, 128, or -1 for all; int8 and "
        "smoothquant: always all",
    )
    sym: Annotated[bool, Cli("--sym/--asym")] = Field(
        default=True, description="zero point in the middle of the range, as Jetson kernels need"
    )
    act_order: Literal["static", "permuted", "none"] = Field(
        default="static",
        description="whether GPTQ starts with the columns of largest activations; static: yes, "
        "groups stay consecutive channels; permuted: yes, groups follow the order and every layer "
        "has a g_idx that kernels gather by (desc_act); none: columns in their own order",
    )
    damp: float = Field(
        default=DAMP, gt=0, description="GPTQ: share of the mean Hessian diagonal added to it"
    )
    refine: int = Field(
        default=1,
        ge=0,
        description="GPTQ: rounds of improving scales and integers in turn afterwards; 0: GPTQ as "
        "in the paper",
    )
    scaling: Literal["none", "awq", "smoothquant"] = Field(
        default="none",
        description="scales that are folded into the preceding layer before rounding; method awq: "
        "awq, int8 and smoothquant: smoothquant, if not given",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="SmoothQuant: how much of the activations' range moves to the weights",
    )
    format: Literal["gptq", "awq", "compressed-tensors", "modelopt"] = Field(
        default="gptq",
        description="layout of packed weights on disk; method awq: awq, int8: compressed-tensors, "
        "smoothquant: modelopt, if not given",
    )
    rules: Annotated[tuple[Rule, ...], Cli("--rule", takes=str, convert=parsed_rule)] = Field(
        default=(),
        description="other bits or groups for linear layers by name, or none: 'PATTERN=BITS', "
        "'PATTERN=BITS:GROUP' or 'PATTERN=skip'; the first match counts",
    )
    head_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None,
        description="quantize the output head to this many bits; a tied head is the embedding",
    )
    embedding_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None, description="quantize the embedding to this many bits"
    )
    hessian_tokens: int = Field(
        default=8,
        gt=0,
        description="GPTQ: calibration tokens per input channel that its Hessian is made of, drawn "
        "at random; more take longer",
    )
    bf16: bool | None = Field(
        default=None,
        description="run calibration rows in bfloat16; default: if the processor supports it",
    )
    sensitivity: Annotated[Sensitivity | None, Cli(switch="budget")] = Field(
        default=None,
        description="measure the error of each matrix first, and keep the worst at more bits",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Fill in the options that follow from the method."""
        if not isinstance(values, dict):
            return values
        method = values.get("method")
        implied = dict[str, Any]()
        if method == "mixed":
            implied |= MIXED
            values = {key: value for key, value in values.items() if key != "method"}
        if method == "awq":
            implied |= {"format": "awq", "scaling": "awq"}
        if method in W8A8:
            implied |= {
                "bits": 8,
                "group_size": -1,
                "format": W8A8[method],
                "scaling": "smoothquant",
            }
        return implied | values

    @model_validator(mode="after")
    def _consistent(self) -> QuantizeOptions:
        """Refuse combinations that do not fit together."""
        if self.method in W8A8:
            if (self.bits, self.group_size, self.sym) != (8, -1, True):
                raise ValueError(
                    f"method {self.method} rounds to 8 bits, symmetric, one scale per output "
                    "channel: leave bits, group_size and sym out"
                )
            if self.format != W8A8[self.method]:
                raise ValueError(
                    f"method {self.method} is written as {W8A8[self.method]}: leave format out"
                )
        elif self.format not in ("gptq", "awq"):
            raise ValueError(
                f"format {self.format} is for weights and activations in 8 bits: use method int8 "
                "or smoothquant"
            )
        elif self.format == "awq" and self.bits != 4:
            raise ValueError("the awq layout holds 4-bit weights: use bits 4, or format gptq")
        if self.format != "gptq":
            self._check_plain()
        if self.method == "awq" and self.scaling == "none":
            raise ValueError(
                "method awq without scaling is plain rounding: use method rtn, or leave scaling out"
            )
        if self.method == "smoothquant" and self.scaling != "smoothquant":
            raise ValueError("method smoothquant goes with scaling smoothquant: leave scaling out")
        return self

    def _check_plain(self) -> None:
        """Refuse options that only the GPTQ layout can store."""
        wants = {
            "act_order permuted": self.permuted,
            "kv_bits": self.kv_bits,
            "rules other than skip": any(not rule.skip for rule in self.rules),
            "head_bits and embedding_bits": self.head_bits or self.embedding_bits,
            "sensitivity": self.sensitivity,
        }
        if found := [name for name, wanted in wants.items() if wanted]:
            raise ValueError(
                f"the layout {self.format} has no place for {', '.join(found)}: use format gptq, "
                "or leave it out"
            )

    @property
    def rounds_activations(self) -> bool:
        """Whether the inputs of a quantized layer are rounded as well."""
        return self.method in W8A8

    @property
    def needs_calibration(self) -> bool:
        """Whether the result depends on the calibration text."""
        plain = self.method in ("rtn", "int8") and self.scaling == "none"
        return not plain or self.sensitivity is not None

    @field_validator("act_order", mode="before")
    @classmethod
    def _from_switch(cls, value: object) -> object:
        """Accept the switch of earlier recipes: true is static, false is none."""
        return {True: "static", False: "none"}[value] if isinstance(value, bool) else value

    def with_kept_bits(self, schemes: Mapping[str, Scheme]) -> QuantizeOptions:
        """The same options, with rules that give these matrices `sensitivity.keep_bits` bits.

        Args:
            schemes: the matrices by full name, with the schemes whose group size they keep.
        """
        assert self.sensitivity
        groups = {
            name: scheme.group_size if scheme.group_size != self.group_size else None
            for name, scheme in schemes.items()
        }
        bits = self.sensitivity.keep_bits
        kept = tuple(
            Rule.model_validate({"match": name, "bits": bits, "group_size": group})
            for name, group in groups.items()
        )
        return self.model_copy(update={"rules": (*kept, *self.rules)})

    def with_rules(self, rules: Iterable[Rule]) -> QuantizeOptions:
        """The same options with further rules behind their own, which count first."""
        return self.model_copy(update={"rules": (*self.rules, *rules)})

    @property
    def permuted(self) -> bool:
        """Whether groups follow the order of columns, so that every layer has its own `g_idx`."""
        return self.method == "gptq" and self.act_order == "permuted"

    def scheme(self, name: str) -> Scheme | None:
        """The scheme of the linear layer of this full name; None if it stays in floating point."""
        rule = first_match(self.rules, name)
        return None if rule and rule.skip else self._ruled(rule)

    def vocab_scheme(self, name: str, bits: int | None) -> Scheme | None:
        """The scheme of the embedding or head of this full name; None if it stays floating point.

        Only a rule with exactly this name applies: `*` matches linear layers only.
        """
        rule = next((rule for rule in self.rules if rule.match == name), None)
        if (rule and rule.skip) or not (rule or bits):
            return None
        return self._ruled(rule, bits)

    def _ruled(self, rule: Rule | None, bits: int | None = None) -> Scheme:
        """The scheme of a layer that this rule, if any, applies to."""
        changed = (rule.bits, rule.group_size) if rule else (None, None)
        return Scheme(changed[0] or bits or self.bits, changed[1] or self.group_size, self.sym)

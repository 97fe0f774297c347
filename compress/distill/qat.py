"""Quantization-aware learning: every linear layer of the decoder layers computes with the weights that its integers will stand for.

Scales and zero points stay those of the start, a packed checkpoint's or plain rounding's. After every step weights that left the range of
their grid are brought back to its edge (Courbariaux et al. 2015, section 2.4): beyond it they could not be told apart, and
would need many steps to return.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...checkpoints.files import read_architecture, read_state
from ...checkpoints.layouts import LAYOUTS, PackedLinear, layout_of
from ...checkpoints.layouts.gptq import Gptq
from ...errors import UsageError
from ...models import Architecture, require_expressible, weight_of
from ..quantize.assignment import check_shapes
from ..quantize.gptq import rtn
from ..quantize.options import DAMP
from .fake_quant import fake_quantize, grid_range, into_cells, pack
from .linears import decoder_linears
from .options import QatOptions

__all__ = [
    "CENTRED",
    "QuantizedStudent",
    "check_widths",
    "quantization_block",
    "starting_integers",
    "with_packed",
]

CENTRED = 0.5
"""How far weights start towards the centres of a packed checkpoint's cells. At the borders the first steps would undo its integers."""


def quantization_block(options: QatOptions) -> dict[str, Any]:
    """The `quantization_config` of the checkpoint that is written.

    Readers expect a damping, although there is no Hessian to damp: it is that of `quantize`.
    """
    layout = LAYOUTS["gptq"]
    assert isinstance(layout, Gptq)
    return layout.config(options.scheme, DAMP)


def check_widths(options: QatOptions, architecture: Architecture, where: str) -> None:
    """Stop before anything is loaded where the weights do not fit the grid or the layout.

    Raises:
        UsageError: no such group size.
        Refused: a mixture of experts, or a width that the groups or the stored words do not divide.
    """
    require_expressible(architecture, "qat", where)
    shapes = {linear.name: linear.shape for linear in architecture.linear_counts()}
    check_shapes(
        {name: (options.scheme, shape) for name, shape in shapes.items()}, "--qat-group-size"
    )


def starting_integers(
    options: QatOptions, student: Any, architecture: Architecture, packed: Path | None
) -> dict[str, PackedLinear]:
    """Integers and grid that every linear layer starts with, by full name, on the student's device.

    Args:
        options: the grid.
        student: as loaded.
        architecture: of the student.
        packed: a packed checkpoint of this very student; None: round its weights to the nearest, scales by least error.

    Raises:
        UsageError: the checkpoint is not packed, on another grid, or not this student's.
        Refused: its layout is not read here.
    """
    linears = decoder_linears(student, architecture)
    if packed is None:
        return {name: rtn(weight_of(linear), options.scheme) for name, linear in linears.items()}
    config = read_architecture(packed).config
    layout, state = layout_of(config, str(packed)), read_state(packed)
    if layout is None:
        raise UsageError(
            f"{packed}: not a packed checkpoint, so it has no scales",
            "give the output of `edgewright quantize`",
        )
    found = {
        name: layout.take(state, config["quantization_config"], name)
        for name in layout.names(state)
    }
    if missing := sorted(linears.keys() - found.keys()):
        raise UsageError(
            f"{packed}: {missing[0]} is not packed there",
            "quantize every linear layer of this student",
        )
    for name, linear in linears.items():
        _same_grid(options, found[name], weight_of(linear), f"{packed}: {name}")
    _same_rest(student.state_dict(), state, packed)
    return {name: _moved(found[name], weight_of(linear).device) for name, linear in linears.items()}


def _same_grid(options: QatOptions, packed: PackedLinear, weight: Tensor, where: str) -> None:
    if packed.integers.shape != weight.shape:
        raise UsageError(
            f"{where} is {list(packed.integers.shape)}, the student's {list(weight.shape)}",
            "quantize this very student",
        )
    has, asked = (packed.bits, packed.group_size, packed.sym), options.scheme
    if has != (asked.bits, asked.group(weight.shape[1]), asked.sym):
        told = f"{has[0]} bit, group {has[1]}, {'symmetric' if has[2] else 'asymmetric'}"
        raise UsageError(
            f"{where} has another grid than asked for: {told}",
            "ask for the same bits, group size and symmetry",
        )
    stands_for = packed.dequantize()
    if not torch.equal(pack(stands_for, packed).dequantize(), stands_for):
        raise UsageError(
            f"{where}: its groups are not consecutive channels",
            "quantize again with static act-order, which keeps them so",
        )


def _same_rest(student: Mapping[str, Tensor], packed: Mapping[str, Tensor], where: Path) -> None:
    """What is not packed must be the student's own: then the integers are too, and no scales were folded into norms."""
    for key, tensor in packed.items():
        if key not in student or not torch.equal(student[key].cpu().to(tensor.dtype), tensor):
            raise UsageError(
                f"{where}: `{key}` is not the student's, so its integers stand for other weights",
                "quantize this very student, or make the packed checkpoint itself the student",
            )


def _moved(packed: PackedLinear, device: torch.device) -> PackedLinear:
    return PackedLinear(
        packed.integers.to(device),
        packed.scales.to(device),
        packed.zeros.to(device),
        packed.bits,
        packed.group_size,
    )


class _FakeQuant(nn.Module):
    """The parametrization of one weight."""

    def __init__(self, start: PackedLinear) -> None:
        super().__init__()
        self.start = start
        self.scales, self.zeros = start.scales, start.zeros.float()

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scales, self.zeros, self.start.bits)


class QuantizedStudent:
    """A student whose linear layers compute with fake-quantized weights, from here until `packed` ends it.

    Args:
        student: the causal language model, changed in place; what is stored for its weights stays in floating point and learns.
        architecture: of the student.
        start: integers and grid of every linear layer, as `starting_integers` gives them; the weights start in their cells.
        centred: how far from their nearest borders to their centres.
    """

    def __init__(
        self,
        student: Any,
        architecture: Architecture,
        start: Mapping[str, PackedLinear],
        centred: float = 0.0,
    ) -> None:
        self.linears, self.start = decoder_linears(student, architecture), start
        for name, linear in self.linears.items():
            weight = weight_of(linear)
            weight.copy_(into_cells(weight, start[name], centred))
            parametrize.register_parametrization(linear, "weight", _FakeQuant(start[name]))

    @torch.no_grad()
    def restrain(self) -> None:
        """Bring weights that a step took out of the range of their grid back to its edge."""
        for name, linear in self.linears.items():
            grid, weight = self.start[name], self._stored(linear)
            low, high = grid_range(grid.scales, grid.zeros.float(), grid.bits)
            grouped = weight.view(*grid.scales.shape, -1)
            torch.clamp(grouped, low.unsqueeze(-1), high.unsqueeze(-1), out=grouped)

    def packed(self) -> dict[str, PackedLinear]:
        """The integers that the student computes with now, by full name; it computes in floating point from here on."""
        made = {
            name: pack(self._stored(linear), self.start[name])
            for name, linear in self.linears.items()
        }
        for linear in self.linears.values():
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)
        return made

    def told(self, packed: Mapping[str, PackedLinear]) -> str:
        """What to say of the integers that were learnt."""
        changed = sum(
            int((linear.integers != self.start[name].integers).sum())
            for name, linear in packed.items()
        )
        total = sum(linear.integers.numel() for linear in packed.values())
        scheme = next(iter(packed.values()))
        moved = f"{changed / total:.1%} of {total:,} integers are other than at the start"
        return f"{len(packed)} linear layers learnt in {scheme.bits} bit; {moved}"

    @staticmethod
    def _stored(linear: Any) -> Tensor:
        return linear.parametrizations.weight.original.detach()


def with_packed(
    state: Mapping[str, Tensor], packed: Mapping[str, PackedLinear]
) -> dict[str, Tensor]:
    """A state dict with the tensors of packed layers, in the GPTQ layout, in place of their weights."""
    kept = {
        key: tensor for key, tensor in state.items() if key.removesuffix(".weight") not in packed
    }
    for name, linear in packed.items():
        kept |= {
            f"{name}.{part}": tensor
            for part, tensor in LAYOUTS["gptq"].write(_moved(linear, torch.device("cpu"))).items()
        }
    return kept

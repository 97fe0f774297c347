"""Quantization-aware training (QAT): train with the weights that the packed integers stand for.

Every linear layer of the decoder layers computes with fake-quantized weights. Scales and zero
points stay those of the start: a packed checkpoint's, or those of rounding to nearest. After every
step, weights outside the range of their grid are moved back to its edge (Courbariaux et al. 2015,
section 2.4). Beyond the edge they would all round alike, and would need many steps to come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...checkpoints.config import read_architecture
from ...checkpoints.layouts import LAYOUTS, PackedLinear, layout_of
from ...checkpoints.layouts.gptq import Gptq
from ...checkpoints.tensors import read_state
from ...errors import UsageError
from ...models import Architecture, require_expressible, weight_of
from ..quantize.assignment import check_shapes
from ..quantize.gptq import rtn
from ..quantize.options import DAMP
from .fake_quant import fake_quantize, grid_range, move_into_cells, pack
from .linears import decoder_linears, to_device
from .options import QatOptions

__all__ = [
    "CENTRED",
    "FakeQuantizedStudent",
    "check_widths",
    "quantization_block",
    "replace_packed",
    "starting_integers",
]

CENTRED = 0.5
"""Share of the way to the centre of its cell that a packed checkpoint's weight is moved.

At the border of a cell the first steps would change its integer.
"""


def quantization_block(options: QatOptions) -> dict[str, Any]:
    """Return the `quantization_config` of the written checkpoint.

    Readers expect a damping factor, although no Hessian is damped here: it is that of `quantize`.
    """
    layout = LAYOUTS["gptq"]
    assert isinstance(layout, Gptq)
    return layout.config(options.scheme, DAMP)


def check_widths(options: QatOptions, architecture: Architecture, where: str) -> None:
    """Check, before anything is loaded, that the weights fit the grid and the layout.

    Args:
        options: the grid.
        architecture: of the student.
        where: starts the error messages.

    Raises:
        UsageError: the group size is not supported.
        Refused: it is a mixture of experts, or a width is no multiple of the group size or of the
            integers in a stored word.
    """
    require_expressible(architecture, "qat", where)
    shapes = {linear.name: linear.shape for linear in architecture.linear_counts()}
    check_shapes(
        {name: (options.scheme, shape) for name, shape in shapes.items()}, "--qat-group-size"
    )


def starting_integers(
    options: QatOptions, student: Any, architecture: Architecture, packed: Path | None
) -> dict[str, PackedLinear]:
    """Return the integers and grids that every linear layer starts with, by full name.

    They are on the student's device.

    Args:
        options: the grid.
        student: as loaded.
        architecture: of the student.
        packed: a packed checkpoint of this very student; None: round its weights to nearest, with
            the scales of least error.

    Raises:
        UsageError: the checkpoint is not packed, on another grid, or not this student's.
        Refused: its layout is not supported.
    """
    linears = decoder_linears(student, architecture)
    if packed is None:
        return {name: rtn(weight_of(linear), options.scheme) for name, linear in linears.items()}
    config = read_architecture(packed).config
    layout = layout_of(config, str(packed))
    state = read_state(packed)
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
        _check_grid(options, found[name], weight_of(linear), f"{packed}: {name}")
    _check_rest(student.state_dict(), state, packed)
    return {
        name: to_device(found[name], weight_of(linear).device) for name, linear in linears.items()
    }


def _check_grid(options: QatOptions, packed: PackedLinear, weight: Tensor, where: str) -> None:
    """Check that a packed layer has the shape of a weight and the grid that was asked for."""
    if packed.integers.shape != weight.shape:
        raise UsageError(
            f"{where} is {list(packed.integers.shape)}, the student's {list(weight.shape)}",
            "quantize this very student",
        )
    found = (packed.bits, packed.group_size, packed.sym)
    asked = options.scheme
    if found != (asked.bits, asked.group(weight.shape[1]), asked.sym):
        symmetry = "symmetric" if packed.sym else "asymmetric"
        raise UsageError(
            f"{where} has another grid than asked for: "
            f"{packed.bits} bit, group {packed.group_size}, {symmetry}",
            "ask for the same bits, group size and symmetry",
        )
    weights = packed.dequantize()
    if not torch.equal(pack(weights, packed).dequantize(), weights):
        raise UsageError(
            f"{where}: its groups are not consecutive channels",
            "quantize again with static act-order, which keeps them so",
        )


def _check_rest(student: Mapping[str, Tensor], packed: Mapping[str, Tensor], where: Path) -> None:
    """Check that all tensors that are not packed are equal to the student's.

    Then the integers are the student's too, and no scales were folded into norms.
    """
    for key, tensor in packed.items():
        if key not in student or not torch.equal(student[key].cpu().to(tensor.dtype), tensor):
            raise UsageError(
                f"{where}: `{key}` is not the student's, so the integers are of other weights",
                "quantize this very student, or make the packed checkpoint itself the student",
            )


class _FakeQuant(nn.Module):
    """The parametrization of one weight."""

    def __init__(self, start: PackedLinear) -> None:
        super().__init__()
        self.start = start
        self.scales = start.scales
        self.zeros = start.zeros.float()

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scales, self.zeros, self.start.bits)


class FakeQuantizedStudent:
    """A student whose linear layers compute with fake-quantized weights, until `finish` is called.

    Args:
        student: the causal language model, changed in place; its stored weights stay in floating
            point and are trained.
        architecture: of the student.
        start: integers and grid of every linear layer, from `starting_integers`; the weights are
            moved so that they round to these integers.
        centred: see `move_into_cells`.
    """

    def __init__(
        self,
        student: Any,
        architecture: Architecture,
        start: Mapping[str, PackedLinear],
        centred: float = 0.0,
    ) -> None:
        self.linears = decoder_linears(student, architecture)
        self.start = start
        for name, linear in self.linears.items():
            weight = weight_of(linear)
            weight.copy_(move_into_cells(weight, start[name], centred))
            parametrize.register_parametrization(linear, "weight", _FakeQuant(start[name]))

    @torch.no_grad()
    def clamp_to_grid(self) -> None:
        """Move weights that a step took out of the range of their grid back to its edge."""
        for name, linear in self.linears.items():
            grid = self.start[name]
            weight = self._stored(linear)
            low, high = grid_range(grid.scales, grid.zeros.float(), grid.bits)
            grouped = weight.view(*grid.scales.shape, -1)
            torch.clamp(grouped, low.unsqueeze(-1), high.unsqueeze(-1), out=grouped)

    def finish(self) -> dict[str, PackedLinear]:
        """End fake quantization; return the integers that the student computed with, by name.

        From here on the student computes in floating point.
        """
        packed = {
            name: pack(self._stored(linear), self.start[name])
            for name, linear in self.linears.items()
        }
        for linear in self.linears.values():
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)
        return packed

    def summary(self, packed: Mapping[str, PackedLinear]) -> str:
        """Return one line about the trained integers, as `finish` returned them."""
        changed = sum(
            int((linear.integers != self.start[name].integers).sum())
            for name, linear in packed.items()
        )
        total = sum(linear.integers.numel() for linear in packed.values())
        bits = next(iter(packed.values())).bits
        return (
            f"{len(packed)} linear layers trained in {bits} bit; "
            f"{changed / total:.1%} of {total:,} integers changed"
        )

    @staticmethod
    def _stored(linear: Any) -> Tensor:
        return linear.parametrizations.weight.original.detach()


def replace_packed(
    state: Mapping[str, Tensor], packed: Mapping[str, PackedLinear]
) -> dict[str, Tensor]:
    """Return a state dict with packed tensors, in the GPTQ layout, in place of their weights."""
    made = {
        key: tensor for key, tensor in state.items() if key.removesuffix(".weight") not in packed
    }
    for name, linear in packed.items():
        made |= {
            f"{name}.{part}": tensor
            for part, tensor in LAYOUTS["gptq"].write(to_device(linear, "cpu")).items()
        }
    return made

"""A recurrent cell with a data-dependent branch, which a plain trace loses.

The cell is the one that PyTorch's introduction to TorchScript made well known. ``MyDecisionGate``
has an ``if`` on the values of its input: ``torch.jit.trace`` keeps the side that the example took,
``torch.jit.script`` keeps both.

Example:
    >>> from ts_infer.models import decision_gate
    >>> cell = decision_gate.make()
    >>> new_h, _ = cell(*decision_gate.example_inputs())
    >>> new_h.shape
    torch.Size([3, 4])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "INPUT_NAMES",
    "OUTPUT_NAMES",
    "MyCell",
    "MyDecisionGate",
    "example_inputs",
    "export_spec",
    "make",
]

FEATURES = 4
INPUT_NAMES = ("x", "h")
OUTPUT_NAMES = ("output", "new_h")


class MyDecisionGate(nn.Module):
    """Passes its input through, or negates it when its sum is not positive."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` if ``x.sum() > 0``, else ``-x``; the shape is kept."""
        if x.sum() > 0:
            return x
        return -x


class MyCell(nn.Module):
    """A recurrent cell: ``tanh(gate(linear(x)) + h)``."""

    def __init__(self, features: int = FEATURES) -> None:
        """Makes a cell of ``features`` inputs and as many state values."""
        super().__init__()
        self.dg = MyDecisionGate()
        self.linear = nn.Linear(features, features)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Advances the cell by one step.

        Args:
            x: float [batch, features], the input.
            h: float [batch, features], the state.

        Returns:
            The output and the new state, both [batch, features] and equal.
        """
        new_h = torch.tanh(self.dg(self.linear(x)) + h)
        return new_h, new_h


def make(seed: int = 0) -> MyCell:
    """Returns a cell in eval mode; the same seed gives the same weights.

    The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MyCell().eval().requires_grad_(False)


def example_inputs(batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns ``(x, h)``, each float32 [batch, 4] with values in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, FEATURES, generator=generator),
        torch.rand(batch, FEATURES, generator=generator),
    )


def export_spec() -> dict[str, Any]:
    """Returns the keyword arguments with which ``ts_infer.export`` exports the cell."""
    batch = torch.export.Dim("batch", min=1, max=64)
    return {
        "module": make(),
        "example_inputs": example_inputs(),
        "method": "script",
        "dynamic_shapes": {name: {0: batch} for name in INPUT_NAMES},
        "name": "decision_gate",
        "output_names": list(OUTPUT_NAMES),
    }

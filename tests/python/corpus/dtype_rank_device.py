"""Branches on dtype and rank, and devices written into the graph."""
# mypy: ignore-errors

import torch
from torch import nn
from torch.export import Dim

from corpus.case import Case, rand


class DtypeBranch(nn.Module):
    """Computes half precision in float32."""

    def forward(self, x):
        if x.dtype == torch.float64:
            return x * 2
        return x.double() + 1


class IntegerDivision(nn.Module):
    def forward(self, x):
        if x.is_floating_point():
            return x / 2
        return x // 2


class MaskOfDtype(nn.Module):
    """A constant of the input's dtype."""

    def forward(self, x):
        return x + torch.ones(3, dtype=x.dtype)


class RankBranch(nn.Module):
    """Takes one sample or a batch."""

    def forward(self, x):
        if x.dim() == 1:
            return x.unsqueeze(0).softmax(1).squeeze(0)
        return x.softmax(1) * 2


class RankReduction(nn.Module):
    """Means over all dimensions but the first, by a Python list."""

    def forward(self, x):
        return x.mean(dim=list(range(1, x.dim())))


class ZerosOnDevice(nn.Module):
    """A first state on the input's device."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4, device=x.device)
        return self.cell(x, h)


class ArangeOnDevice(nn.Module):
    def forward(self, x):
        positions = torch.arange(x.shape[1], device=x.device)
        return x + positions


class TableToDevice(nn.Module):
    """A plain tensor that moves to its input."""

    def __init__(self):
        super().__init__()
        self.table = torch.arange(4.0)

    def forward(self, x):
        return x + self.table.to(x.device)


class FullLike(nn.Module):
    """Made from the input: follows its device and dtype."""

    def forward(self, x):
        return x + x.new_full((3,), 2.0) + torch.zeros_like(x)


DOUBLE = torch.float64
CASES = [
    Case(
        "dtype branch",
        DtypeBranch,
        (rand(3),),
        "right-or-refused",
        [(rand(3, seed=1).to(DOUBLE),), (rand(3, seed=2),)],
        "if on the dtype",
        codes=("dtypes-differ",),
    ),
    Case(
        "integer division",
        IntegerDivision,
        (rand(3),),
        "right-or-refused",
        [(torch.tensor([3, 4, 5]),), (rand(3, seed=2),)],
        "if on the kind of dtype",
        codes=("dtypes-differ",),
    ),
    Case(
        "mask of dtype",
        MaskOfDtype,
        (rand(3),),
        "right-or-refused",
        [(torch.tensor([3, 4, 5]),), (rand(3, seed=1).half(),)],
        "the input's dtype as a constant",
        codes=("dtypes-differ",),
    ),
    Case(
        "rank branch",
        RankBranch,
        (rand(3, 3),),
        "right-or-refused",
        [(rand(3, seed=1),), (rand(3, 3, seed=2),)],
        "if on the rank",
        codes=("ranks-differ",),
    ),
    Case(
        "rank reduction",
        RankReduction,
        (rand(2, 3),),
        "right-or-refused",
        [(rand(2, 3, 2, seed=1),), (rand(2, 3, seed=2),)],
        "a list made of the rank",
        codes=("ranks-differ",),
    ),
    Case(
        "zeros on device",
        ZerosOnDevice,
        (rand(2, 3),),
        "exported",
        [(rand(4, 3, seed=1),), (rand(1, 3, seed=2),)],
        "the device in the graph",
        {"x": {0: Dim("batch", min=1, max=4)}},
        trace_lies=False,
        meta=True,
    ),
    Case(
        "arange on device",
        ArangeOnDevice,
        (rand(2, 3),),
        "exported",
        [(rand(2, 5, seed=1),), (rand(2, 1, seed=2),)],
        "the device in the graph",
        {"x": {1: Dim("time", min=1, max=6)}},
        trace_lies=False,
        meta=True,
    ),
    Case(
        "table to device",
        TableToDevice,
        (rand(2, 4),),
        "exported",
        [(rand(2, 4, seed=1),)],
        "the device in the graph",
        trace_lies=False,
        meta=True,
    ),
    Case(
        "full like",
        FullLike,
        (rand(2, 3),),
        "exported",
        [(rand(2, 3, seed=1),)],
        meta=True,
    ),
]

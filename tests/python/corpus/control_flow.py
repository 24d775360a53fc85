"""Branches on values."""
# mypy: ignore-errors
# ruff: noqa: RET505

import torch
from torch import nn
from torch.export import Dim

from corpus.case import Case, rand


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        h = self.linear(x)
        if h.sum() > 0:  # <- lost
            return h
        else:
            return -h


class ThreeWays(nn.Module):
    def forward(self, x):
        level = x.mean()
        if level > 1:
            y = x - level
        elif level < -1:
            y = x * 0.5
        else:
            y = torch.tanh(x)
        return y


class RareBranch(nn.Module):
    """Rescales inputs that would overflow later: once in a million calls."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 2)

    def forward(self, x):
        peak = x.abs().max()
        if peak > 1e4:
            x = x / peak
        return self.proj(x)


class Ternary(nn.Module):
    def forward(self, x, y):
        best = x if x.norm() > y.norm() else y
        return best * 2


class BoolAnd(nn.Module):
    def forward(self, x, mask):
        if mask.any() and x.min() < 0:
            x = x.masked_fill(mask, 0.0)
        return x.sum(-1)


class NestedBranches(nn.Module):
    def forward(self, x, threshold):
        out = torch.zeros_like(x)
        if x.max() > threshold:
            out = out + 1
            if x.min() < -threshold:
                out = out - x
        return out


class EarlyExit(nn.Module):
    """Stops as soon as it is sure, as adaptive computation does."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        for _ in range(4):
            x = torch.tanh(self.step(x))
            if x.abs().max() < 0.2:
                return x
        return x * 10


class TryInverse(nn.Module):
    """A singular matrix takes another way."""

    def forward(self, x):
        try:
            return torch.linalg.inv(x)
        except RuntimeError:
            return torch.linalg.pinv(x)


class AssertsValues(nn.Module):
    def forward(self, x):
        assert (x >= 0).all(), "densities are not negative"
        return torch.sqrt(x)


class RaisesOnNan(nn.Module):
    def forward(self, x):
        if torch.isnan(x).any():
            raise ValueError("the input holds NaN")
        return x.clamp(min=0) + 1


class StringOption(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, x):
        if self.reduction == "mean":
            return x.mean(-1)
        elif self.reduction == "sum":
            return x.sum(-1)
        raise ValueError(self.reduction)


class IsInstance(nn.Module):
    """Takes one tensor or a list of them."""

    def forward(self, x):
        if isinstance(x, (list, tuple)):
            x = torch.stack(x)
        return x.flatten(1) + 1


class Experts(nn.Module):
    """Sends a sample to the expert that its router names."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        chosen = int(self.router(x.mean(0)).argmax())  # <- lost
        return self.experts[chosen](x)


class BestOf(nn.Module):
    """Python's max of two tensors is a branch too."""

    def forward(self, x, y):
        return max(x.sum(), y.sum()) * x


class StopGradientGate(nn.Module):
    """Written with torch.where: nothing to lose."""

    def forward(self, x):
        return torch.where(x.sum() > 0, x, -x)


CASES = [
    Case(
        "gate",
        Gate,
        (rand(2, 4),),
        "scripted",
        [(-rand(2, 4),), (rand(2, 4, seed=1),), (-rand(2, 4, seed=1),)],
        "if on a value",
    ),
    Case(
        "three ways",
        ThreeWays,
        (rand(3, 2),),
        "scripted",
        [(rand(3, 2) + 3,), (rand(3, 2) - 3,), (rand(5, 2) - 3,)],
        "if, elif and else on a value",
        {"x": {0: Dim("rows", min=1, max=8)}},
    ),
    Case(
        "rare branch",
        RareBranch,
        (rand(2, 4),),
        "scripted",
        [(rand(2, 4, scale=1e6),), (rand(2, 4),)],
        "a branch that random inputs never take",
    ),
    Case(
        "ternary",
        Ternary,
        (rand(3), rand(3, seed=1) * 5),
        "scripted",
        [(rand(3) * 5, rand(3, seed=1)), (rand(3), rand(3, seed=1) * 5)],
        "a conditional expression",
    ),
    Case(
        "bool and",
        BoolAnd,
        (rand(2, 3), torch.tensor([True, False, False])),
        "scripted",
        [
            (rand(2, 3), torch.zeros(3, dtype=torch.bool)),
            (rand(2, 3).abs(), torch.ones(3, dtype=torch.bool)),
        ],
        "and of two values",
    ),
    Case(
        "nested branches",
        NestedBranches,
        (rand(4), torch.tensor(0.1)),
        "scripted",
        [(rand(4), torch.tensor(9.0)), (rand(4).abs(), torch.tensor(0.1))],
        "an if in an if",
    ),
    Case(
        "early exit",
        EarlyExit,
        (rand(2, 4),),
        "scripted",
        [(rand(2, 4, scale=1e-3),), (rand(2, 4, scale=30, seed=2),), (rand(2, 4, scale=0.3),)],
        "return from inside a loop",
    ),
    Case(
        "try inverse",
        TryInverse,
        (rand(3, 3),),
        "refused",
        [(torch.zeros(3, 3),), (rand(3, 3, seed=1),)],
        "try and except",
        codes=("extremes-differ", "values-differ", "script-failed"),
    ),
    Case(
        "asserts values",
        AssertsValues,
        (rand(3).abs(),),
        "scripted",
        [(rand(3),), (rand(3, seed=1).abs(),)],
        "a check of values",
    ),
    Case(
        "raises on NaN",
        RaisesOnNan,
        (rand(3),),
        "scripted",
        [(torch.tensor([1.0, float("nan"), 2.0]),), (rand(3, seed=1),)],
        "a check that raises",
    ),
    Case(
        "string option",
        StringOption,
        (rand(2, 3),),
        "exported",
        [(rand(2, 3, seed=1),), (-rand(2, 3),)],
    ),
    Case("isinstance", IsInstance, (rand(2, 3, 2),), "exported", [(rand(2, 3, 2, seed=1),)]),
    Case(
        "experts",
        Experts,
        (rand(2, 4),),
        "refused",
        [(rand(2, 4, seed=s, scale=3),) for s in range(1, 6)],
        "a module chosen by a value",
        codes=("tracer-warning",),
    ),
    Case(
        "best of",
        BestOf,
        (rand(3), rand(3, seed=1)),
        "right-or-refused",
        [(rand(3).abs(), -rand(3).abs()), (-rand(3).abs(), rand(3).abs())],
        "Python's max of tensors",
        codes=("tracer-warning",),
    ),
    Case("where", StopGradientGate, (rand(3),), "exported", [(-rand(3),), (rand(3, seed=1),)]),
]

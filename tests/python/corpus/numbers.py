"""Numbers that leave torch: item, float, NumPy, Python's arithmetic; NaN."""
# mypy: ignore-errors

import numpy as np
import torch
from torch import nn

from corpus.case import Case, rand

NAN = float("nan")


class NanGuard(nn.Module):
    """Random inputs never show it."""

    def forward(self, x):
        if torch.isnan(x).any():
            x = torch.nan_to_num(x, nan=0.5)
        return x * 2


class InfGuard(nn.Module):
    def forward(self, x):
        if not torch.isfinite(x).all():
            return torch.zeros_like(x)
        return x - x.mean()


class ItemScale(nn.Module):
    def forward(self, x):
        peak = x.abs().max().item()
        return x / peak


class FloatOfTensor(nn.Module):
    def forward(self, x):
        offset = float(x.mean())
        return x - offset


class ItemThreshold(nn.Module):
    def forward(self, x):
        level = x.mean().item()
        if level > 0.5:
            return x - level
        return x + level


class ZeroDivisionGuard(nn.Module):
    """A norm of exactly zero."""

    def forward(self, x):
        n = x.norm()
        if n == 0:
            return torch.ones_like(x)
        return x / n


class Rounded(nn.Module):
    def forward(self, x):
        step = round(float(x.max()), 1)
        return torch.round(x / step) * step


class NumpySort(nn.Module):
    """NumPy computes what the example gave."""

    def forward(self, x):
        values = np.median(x.numpy(), axis=0)  # <- lost
        return x - torch.from_numpy(values)


class NumpyScalar(nn.Module):
    """One number from NumPy."""

    def forward(self, x):
        q = float(np.quantile(x.numpy(), 0.9))  # <- lost
        return x.clamp(max=q)


class NumpyOfShape(nn.Module):
    """NumPy on a size that never changes."""

    def forward(self, x):
        window = torch.from_numpy(np.hanning(5)).float()
        return x * window


class TableByName(nn.Module):
    """A module chosen by a name that a value makes."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({f"head{i}": nn.Linear(3, 2) for i in range(3)})

    def forward(self, x, task):
        return self.heads[f"head{task.item()}"](x)  # <- lost


class Clipped(nn.Module):
    """Two values of Python's min and max."""

    def forward(self, x):
        low = min(x.min().item(), 0.0)
        high = max(x.max().item(), 1.0)
        return (x - low) / (high - low)


class LogOfZero(nn.Module):
    """Exact zeros are replaced, which random inputs do not hold."""

    def forward(self, p):
        if (p == 0).any():
            p = p + 1e-6
        return p.log()


CASES = [
    Case(
        "NaN guard",
        NanGuard,
        (rand(3),),
        "scripted",
        [(torch.tensor([1.0, NAN, 2.0]),), (rand(3, seed=1),)],
        "a guard against NaN",
    ),
    Case(
        "inf guard",
        InfGuard,
        (rand(3),),
        "scripted",
        [(torch.tensor([1.0, float("inf"), 2.0]),), (rand(3, seed=1),)],
        "a guard against infinity",
    ),
    Case(
        "item scale",
        ItemScale,
        (rand(3),),
        "scripted",
        [(rand(3, seed=1),), (rand(3, seed=2) * 9,)],
        "item()",
    ),
    Case(
        "float of tensor",
        FloatOfTensor,
        (rand(3),),
        "scripted",
        [(rand(3, seed=1),), (rand(3, seed=2) * 9,)],
        "float(x)",
    ),
    Case(
        "item threshold",
        ItemThreshold,
        (rand(3),),
        "scripted",
        [(rand(3) + 5,), (rand(3) - 5,)],
        "if on an item",
    ),
    Case(
        "zero division guard",
        ZeroDivisionGuard,
        (rand(3),),
        "scripted",
        [(torch.zeros(3),), (rand(3, seed=1),)],
        "a guard against zero",
    ),
    Case(
        "rounded",
        Rounded,
        (rand(3).abs(),),
        "right-or-refused",
        [(rand(3, seed=1).abs() + 1,), (rand(3, seed=2).abs() + 3,)],
        "Python's round with digits",
        codes=("tracer-warning",),
    ),
    Case(
        "numpy",
        NumpySort,
        (rand(3, 2),),
        "refused",
        [(rand(3, 2, seed=1),), (rand(3, 2, seed=2),)],
        "NumPy",
        codes=("tracer-warning",),
    ),
    Case(
        "numpy scalar",
        NumpyScalar,
        (rand(5),),
        "refused",
        [(rand(5, seed=1),), (rand(5, seed=2),)],
        "NumPy",
        codes=("tracer-warning",),
    ),
    Case("numpy of shape", NumpyOfShape, (rand(5),), "exported", [(rand(5, seed=1),)]),
    Case(
        "table by name",
        TableByName,
        (rand(3), torch.tensor(1)),
        "refused",
        [(rand(3), torch.tensor(0)), (rand(3), torch.tensor(2))],
        "a name made of a value",
        codes=("tracer-warning", "values-differ", "dead-input", "graphs-differ"),
    ),
    Case(
        "clipped",
        Clipped,
        (rand(3),),
        "right-or-refused",
        [(rand(3) * 9,), (rand(3).abs() / 9,)],
        "Python's min and max of items",
        codes=("tracer-warning",),
    ),
    Case(
        "log of zero",
        LogOfZero,
        (rand(3).abs(),),
        "scripted",
        [(torch.tensor([0.0, 0.5, 0.25]),), (rand(3, seed=1).abs(),)],
        "a guard against exact zeros",
    ),
]

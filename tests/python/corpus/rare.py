"""Conditions that no probe is likely to meet: a refusal or a script is all that helps."""
# mypy: ignore-errors

import torch
from torch import nn
from torch.export import Dim

from corpus.case import Case, rand


class WarmUp(nn.Module):
    """Another answer from the eleventh call on, counted in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.zeros(()))

    def forward(self, x):
        self.step += 1
        if self.step > 10:
            return x * 2
        return x


class EveryTenth(nn.Module):
    """Another answer at every tenth call, counted in Python."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def forward(self, x):
        self.step += 1
        if self.step % 10 == 0:
            return torch.zeros_like(x)
        return x + 1


class Saturates(nn.Module):
    """Another answer once a plain tensor, changed in place, is large."""

    def __init__(self):
        super().__init__()
        self.total = torch.zeros(3)

    def forward(self, x):
        self.total += 1
        if self.total.sum() > 30:
            return -x
        return x


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x


class ReadsChild(nn.Module):
    """A branch on a buffer that a child changes."""

    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, x):
        x = self.counter(x)
        if self.counter.count > 10:
            return x * 2
        return x


class TorchCoin(nn.Module):
    """A branch on torch's random numbers."""

    def forward(self, x):
        if torch.rand(()) < 0.02:
            return x * 2
        return x


class OneSize(nn.Module):
    def forward(self, x):
        if x.shape[0] == 5:
            return x * 2
        return x + 1


class OneShape(nn.Module):
    def forward(self, x):
        if tuple(x.shape) == (5, 2):
            return x * 2
        return x + 1


class OneCount(nn.Module):
    def forward(self, x):
        if x.numel() in (10, 14):
            return x * 2
        return x + 1


class OneValue(nn.Module):
    def forward(self, x):
        if x[0] == 42:
            return x * 2
        return x + 1


class OneLength(nn.Module):
    """Seven maps are another thing."""

    def forward(self, maps):
        out = maps[0] + maps[-1]
        if len(maps) == 7:
            out = out * 2
        return out


class OptionalKey(nn.Module):
    """Uses the depth where there is one."""

    def forward(self, batch):
        x = batch["image"]
        if "depth" in batch:
            x = x + batch["depth"]
        return x * 2


class OptionalKeyByGet(nn.Module):
    def forward(self, batch):
        x = batch["image"]
        depth = batch.get("depth")
        if depth is not None:
            x = x + depth
        return x * 2


class TableBySize(nn.Module):
    """A size that chooses a module."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({str(n): nn.Linear(2, 2) for n in range(1, 10)})

    def forward(self, x):
        return self.heads[str(len(x))](x)


class NotFive(nn.Module):
    """A check of a size."""

    def forward(self, x):
        if x.shape[0] == 5:
            raise ValueError("expected anything but five rows")
        return x + 1


class RareCheck(nn.Module):
    """A check that only one value fails."""

    def forward(self, x):
        if (x == 42).any():
            raise ValueError("42 is reserved")
        return x + 1


ROWS = {"x": {0: Dim("rows", min=1, max=9)}}
SIZES = [(rand(n, 2, seed=n),) for n in (5, 7, 2, 9)]
V = [rand(3, seed=s) for s in range(7)]

CASES = [
    Case(
        "warm-up",
        WarmUp,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(13)],
        "a branch on a buffer that changes",
    ),
    Case(
        "every tenth",
        EveryTenth,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(13)],
        "a branch on a number that changes",
    ),
    Case(
        "saturates",
        Saturates,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(13)],
        "a branch on a plain tensor that changes",
    ),
    Case(
        "reads child",
        ReadsChild,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(13)],
        "a branch on a child's buffer that changes",
    ),
    Case(
        "torch coin",
        TorchCoin,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(20)],
        "a branch on torch's random numbers",
    ),
    Case("one size", OneSize, (rand(3, 2),), "scripted", SIZES, "one size of many", ROWS),
    Case("one shape", OneShape, (rand(3, 2),), "right-or-refused", SIZES, "one shape", ROWS),
    Case("one count", OneCount, (rand(3, 2),), "scripted", SIZES, "numel", ROWS),
    Case(
        "one value",
        OneValue,
        (rand(3),),
        "scripted",
        [(torch.tensor([42.0, 1.0, 2.0]),), (rand(3),)],
        "one value of all",
    ),
    Case(
        "rare check",
        RareCheck,
        (rand(3),),
        "scripted",
        [(torch.tensor([0.0, 42.0, 1.0]),), (rand(3),)],
        "a check of one value",
    ),
    Case(
        "one length",
        OneLength,
        ([V[0], V[1], V[2]],),
        "right-or-refused",
        [(V,), ([V[3]],)],
        "one length of a list",
    ),
    Case(
        "optional key",
        OptionalKey,
        ({"image": V[0]},),
        "right-or-refused",
        [({"image": V[1], "depth": V[2]},), ({"image": V[3]},)],
        "a key that may be there",
    ),
    Case(
        "optional key by get",
        OptionalKeyByGet,
        ({"image": V[0]},),
        "right-or-refused",
        [({"image": V[1], "depth": V[2]},), ({"image": V[3]},)],
        "a key that may be there",
    ),
    Case("table by size", TableBySize, (rand(3, 2),), "refused", SIZES, "a size as a name", ROWS),
    Case("not five", NotFive, (rand(3, 2),), "scripted", SIZES, "a check of one size", ROWS),
]

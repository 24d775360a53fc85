"""Sizes that Python reads."""
# mypy: ignore-errors

import math

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from corpus.case import Case, rand


class LenOfTensor(nn.Module):
    def forward(self, x):
        return x * torch.arange(len(x)).unsqueeze(1)


class IntOfSize(nn.Module):
    def forward(self, x):
        half = int(x.shape[0] / 2)
        return x[:half].sum(0) - x[half:].sum(0)


class PadToEven(nn.Module):
    """Pads odd lengths."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool1d(2)

    def forward(self, x):
        if x.shape[-1] % 2 == 1:
            x = functional.pad(x, (0, 1))
        return self.pool(x)


class PadToBlock(nn.Module):
    """Cuts a sequence into blocks of four, as local attention does."""

    def forward(self, x):
        length = x.shape[1]
        x = functional.pad(x, (0, -length % 4))
        blocks = x.reshape(x.shape[0], -1, 4)
        return blocks.cumsum(-1).reshape(x.shape[0], -1)[:, :length]


class SliceByLength(nn.Module):
    """Cuts the padding off."""

    def forward(self, x, lengths):
        longest = int(lengths.max())
        return x[:, :longest].sum(1)


class SliceByTensor(nn.Module):
    def forward(self, x, start):
        return x[start:].sum(0)


class TopFraction(nn.Module):
    def forward(self, x):
        k = max(1, int(0.5 * x.shape[0]))
        return x.topk(k, dim=0).values.mean(0)


class ScaledAttention(nn.Module):
    """Divides by the square root of the number of keys."""

    def forward(self, q, k):
        scale = 1 / math.sqrt(k.shape[0])
        return torch.softmax(q @ k.t() * scale, -1) @ k


class HeadDim(nn.Module):
    """Divides by the square root of a size that never changes."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        batch, time, _ = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, 2, 4).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) / 4**0.5, -1)
        return (attention @ v).transpose(1, 2).reshape(batch, time, 8)


class ShapeTensor(nn.Module):
    """A number that torch.tensor makes of a size."""

    def forward(self, x):
        return x.sum(0) / torch.tensor(x.shape[0])


class LongOrShort(nn.Module):
    """Long inputs take a cheaper way."""

    def forward(self, x):
        if x.shape[0] > 4:
            return x.cumsum(0)
        return torch.stack([x[: i + 1].logsumexp(0) for i in range(x.shape[0])])


class Positives(nn.Module):
    """A size that depends on values, which a trace keeps."""

    def forward(self, x):
        index = (x > 0).nonzero().squeeze(1)
        return x[index].cumsum(0)


class EmptyGuard(nn.Module):
    """Nothing found takes another way."""

    def forward(self, x):
        found = x[x > 1]
        if found.numel() == 0:
            return torch.zeros(())
        return found.max()


class Sorted(nn.Module):
    def forward(self, x):
        values, index = torch.sort(x, dim=-1, descending=True)
        return values[..., :2], index[..., :2]


class SortedByPython(nn.Module):
    """Python sorts, by comparing tensors."""

    def forward(self, x):
        rows = sorted((row for row in x), key=lambda row: row.sum().item())  # <- lost
        return torch.stack(rows)


class CausalMask(nn.Module):
    def forward(self, x):
        n = x.shape[0]
        mask = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
        return torch.softmax((x @ x.t()).masked_fill(mask, float("-inf")), -1) @ x


class UpsampleTo(nn.Module):
    def forward(self, x, like):
        return functional.interpolate(x, size=like.shape[-2:], mode="nearest")


class Repeats(nn.Module):
    """Repeats each row as often as a count says."""

    def forward(self, x, counts):
        return torch.repeat_interleave(x, counts, dim=0)


class FixedBatch(nn.Module):
    """A number of rows that somebody wrote down; eager fails elsewhere too."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.ones(2, 1))

    def forward(self, x):
        return x.view(2, 3) + self.offset


ROWS = {"x": {0: Dim("rows", min=1, max=9)}}
SIZES = (1, 2, 6, 9, 4)


def by_rows(*trailing):
    return [(rand(n, *trailing, seed=n),) for n in SIZES]


CASES = [
    Case("len of tensor", LenOfTensor, (rand(3, 2),), "scripted", by_rows(2), "len(x)", ROWS),
    Case("int of size", IntOfSize, (rand(4, 2),), "scripted", by_rows(2), "int(x.shape[0])", ROWS),
    Case(
        "pad to even",
        PadToEven,
        (rand(1, 2, 6),),
        "scripted",
        [(rand(1, 2, n, seed=n),) for n in (5, 2, 9)],
        "if on a size",
        {"x": {2: Dim("time", min=2, max=9)}},
    ),
    Case(
        "pad to block",
        PadToBlock,
        (rand(2, 6),),
        "exported",
        [(rand(2, n, seed=n),) for n in (1, 4, 9, 8)],
        "a size computed in Python",
        {"x": {1: Dim("time", min=1, max=9)}},
    ),
    Case(
        "slice by length",
        SliceByLength,
        (rand(2, 5, 3), torch.tensor([2, 4])),
        "scripted",
        [(rand(2, 5, 3), torch.tensor([5, 1])), (rand(2, 5, 3), torch.tensor([1, 1]))],
        "a slice by a value",
    ),
    Case(
        "slice by tensor",
        SliceByTensor,
        (rand(5, 3), torch.tensor(2)),
        "exported",
        [(rand(5, 3), torch.tensor(0)), (rand(5, 3), torch.tensor(4))],
    ),
    Case("top fraction", TopFraction, (rand(4, 2),), "scripted", by_rows(2), "k of a size", ROWS),
    Case(
        "scaled attention",
        ScaledAttention,
        (rand(2, 4), rand(3, 4, seed=1)),
        "scripted",
        [(rand(2, 4), rand(n, 4, seed=n)) for n in SIZES],
        "math.sqrt of a size",
        {"q": None, "k": {0: Dim("keys", min=1, max=9)}},
    ),
    Case(
        "head dim",
        HeadDim,
        (rand(2, 3, 8),),
        "exported",
        [(rand(1, 5, 8, seed=1),), (rand(4, 1, 8, seed=2),)],
        "",
        {"x": {0: Dim("batch", min=1, max=4), 1: Dim("time", min=1, max=8)}},
    ),
    Case("shape tensor", ShapeTensor, (rand(3, 2),), "exported", by_rows(2), "", ROWS),
    Case(
        "long or short",
        LongOrShort,
        (rand(3, 2),),
        "scripted",
        by_rows(2),
        "if on a size, at the far end of its range",
        ROWS,
    ),
    Case(
        "positives",
        Positives,
        (rand(5),),
        "exported",
        [(rand(5, seed=1),), (-rand(5).abs(),), (rand(8),)],
        "",
        {"x": {0: Dim("rows", min=1, max=9)}},
    ),
    Case(
        "empty guard",
        EmptyGuard,
        (torch.tensor([0.5, 1.5, 2.5]),),
        "scripted",
        [(torch.zeros(3),), (torch.tensor([3.0, 0.0, 1.0]),)],
        "a guard against nothing found",
    ),
    Case("sort", Sorted, (rand(2, 5),), "exported", [(rand(2, 5, seed=s),) for s in (1, 2)]),
    Case(
        "sorted by Python",
        SortedByPython,
        (rand(3, 2),),
        "refused",
        [(rand(3, 2, seed=s),) for s in (1, 2, 3)],
        "Python's sorted",
        codes=("tracer-warning", "graphs-differ", "values-differ"),
    ),
    Case("causal mask", CausalMask, (rand(3, 2),), "exported", by_rows(2), "", ROWS),
    Case(
        "upsample to",
        UpsampleTo,
        (rand(1, 2, 3, 3), rand(1, 2, 6, 5)),
        "exported",
        [(rand(1, 2, 4, 3), rand(1, 2, 8, 7)), (rand(1, 2, 5, 5), rand(1, 2, 5, 5))],
        "",
        {
            "x": {2: Dim("h", min=2, max=8), 3: Dim("w", min=2, max=8)},
            "like": {2: Dim("H", min=2, max=9), 3: Dim("W", min=2, max=9)},
        },
    ),
    Case(
        "repeats",
        Repeats,
        (rand(3, 2), torch.tensor([1, 2, 0])),
        "exported",
        [(rand(3, 2), torch.tensor([3, 0, 1])), (rand(3, 2), torch.tensor([0, 0, 0]))],
    ),
    Case("fixed batch", FixedBatch, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
]

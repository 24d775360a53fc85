"""Loops whose number of turns depends on sizes or values."""
# mypy: ignore-errors
# ruff: noqa: B905, PERF401

import torch
from torch import nn
from torch.export import Dim

from corpus.case import Case, rand

ROWS = Dim("rows", min=1, max=8)


class WhileNorm(nn.Module):
    """Halves until it is small; never ends on infinity."""

    def forward(self, x):
        while x.norm() > 1:
            x = x / 2
        return x


class WhileSmall(nn.Module):
    """Doubles until it is large; never ends on zeros."""

    def forward(self, x):
        while x.abs().sum() < 1:
            x = x * 2
        return x


class LoopOverRows(nn.Module):
    def forward(self, x):
        total = torch.zeros_like(x[0])
        for i in range(x.shape[0]):
            total = total * 0.5 + x[i]
        return total


class IterateTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        state = torch.zeros(3)
        for row in x:
            state = self.decay * state + row
        return state


class EnumerateTensor(nn.Module):
    def forward(self, x):
        total = torch.zeros(3)
        for i, row in enumerate(x):
            total = total + i * row
        return total


class Comprehension(nn.Module):
    def forward(self, x):
        rows = [torch.softmax(x[i], -1) for i in range(x.size(0))]
        return torch.stack(rows)


class UnrolledCell(nn.Module):
    """A recurrent cell over time steps."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        h = torch.zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            outs.append(h)
        return torch.stack(outs, 1)


class IntList(nn.Module):
    """Builds an index in Python."""

    def forward(self, x):
        index = []
        for i in range(x.shape[0]):
            index.append(i // 2)
        return x[torch.tensor(index)]


class Refine(nn.Module):
    """Repeats as often as an input says."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(3, 3)

    def forward(self, x, steps):
        for _ in range(int(steps)):
            x = x + torch.tanh(self.step(x))
        return x


class GreedyDecoder(nn.Module):
    """Decodes tokens until the end token, at most six."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, memory):
        token = torch.zeros(1, dtype=torch.long)
        tokens = []
        for _ in range(6):
            logits = self.head(self.embed(token) + memory)
            token = logits.argmax(-1)
            tokens.append(token)
            if (token == 4).all():
                break
        return torch.stack(tokens)


class LayersWithBreak(nn.Module):
    """Skips the layers that follow a confident one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
            if x.max() < 0.3:  # <- lost
                break
        return x


class ZippedLayers(nn.Module):
    """Enumerate and zip over modules: the same on every call."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))

    def forward(self, x):
        for i, (linear, norm) in enumerate(zip(self.linears, self.norms)):
            x = norm(linear(x))
            if i + 1 < len(self.linears):
                x = torch.relu(x)
        return x


class Bisection(nn.Module):
    """Finds the root of x + tanh(x) = y; two values steer the loop."""

    def forward(self, y):
        low = y.abs().max() * -2 - 1
        high = y.abs().max() * 2 + 1
        for _ in range(20):
            middle = (low + high) / 2
            if middle + torch.tanh(middle) > y.sum():
                high = middle
            else:
                low = middle
        return (low + high) / 2


def windows(x, length):
    for i in range(x.shape[0] - length + 1):  # <- lost
        yield x[i : i + length]


class SlidingMaximum(nn.Module):
    """Draws its windows from a generator."""

    def forward(self, x):
        return torch.stack([w.max() for w in windows(x, 3)])


def tree_sum(x):
    n = x.shape[0]
    if n == 1:
        return x[0]
    return torch.tanh(tree_sum(x[: n // 2]) + tree_sum(x[n // 2 :]))


class Tree(nn.Module):
    """Recursion over halves."""

    def forward(self, x):
        return tree_sum(x)


class LengthsToList(nn.Module):
    """Means over the valid part of each row, as packed sequences give it."""

    def forward(self, x, lengths):
        means = []
        for row, length in zip(x, lengths.tolist()):  # <- lost
            means.append(row[:length].mean())
        return torch.stack(means)


class Splits(nn.Module):
    def forward(self, x):
        carry = torch.zeros(2, 3)
        for part in x.split(2):
            carry = torch.tanh(carry + part)
        return carry


class CumulativeInPlace(nn.Module):
    """Writes rows of its own output."""

    def forward(self, x):
        out = torch.zeros_like(x)
        out[0] = x[0]
        for i in range(1, x.shape[0]):
            out[i] = 0.5 * out[i - 1] + x[i]
        return out


def rows(model, expect="scripted", width=3, name="", **options):
    """A case of one input whose rows are dynamic."""
    probes = [(rand(n, width, seed=n),) for n in (2, 5, 8, 1, 3)]
    trouble = options.pop("trouble", "a loop over the rows")
    return Case(
        name, model, (rand(3, width),), expect, probes, trouble, {"x": {0: ROWS}}, **options
    )


CASES = [
    Case(
        "while norm",
        WhileNorm,
        (rand(4, scale=4),),
        "scripted",
        [(rand(4, scale=64),), (rand(4, scale=0.1),)],
        "while on a value; never ends on infinity",
    ),
    Case(
        "while small",
        WhileSmall,
        (rand(4, scale=0.1),),
        "scripted",
        [(rand(4, scale=1e-3),), (rand(4, scale=9),)],
        "while on a value; never ends on zeros",
    ),
    rows(LoopOverRows, name="loop over rows"),
    rows(IterateTensor, name="iterate tensor", trouble="iteration over a tensor"),
    rows(EnumerateTensor, name="enumerate tensor", trouble="enumerate over a tensor"),
    rows(Comprehension, name="comprehension", trouble="a comprehension over the rows"),
    Case(
        "unrolled cell",
        UnrolledCell,
        (rand(2, 3, 3),),
        "scripted",
        [(rand(2, 5, 3, seed=1),), (rand(4, 1, 3, seed=2),), (rand(1, 3, 3),)],
        "a loop over time steps",
        {"x": {0: Dim("batch", min=1, max=4), 1: Dim("time", min=1, max=8)}},
    ),
    rows(
        IntList,
        "right-or-refused",
        name="list of ints",
        trouble="a list of ints that was not annotated",
        codes=("sizes-differ", "tracer-warning", "script-failed"),
    ),
    Case(
        "refine",
        Refine,
        (rand(2, 3), torch.tensor(2)),
        "scripted",
        [(rand(2, 3), torch.tensor(5)), (rand(2, 3), torch.tensor(0))],
        "range of a value",
    ),
    Case(
        "greedy decoder",
        GreedyDecoder,
        (rand(4),),
        "scripted",
        [(rand(4, seed=s, scale=3),) for s in range(1, 5)],
        "break on a value",
    ),
    Case(
        "layers with break",
        LayersWithBreak,
        (rand(2, 4),),
        "refused",
        [(rand(2, 4, scale=1e-3),), (rand(2, 4, scale=9, seed=1),), (rand(2, 4, seed=2),)],
        "break in a loop over modules",
        codes=("tracer-warning",),
    ),
    Case("zipped layers", ZippedLayers, (rand(2, 4),), "exported", [(rand(2, 4, seed=1),)]),
    Case(
        "bisection",
        Bisection,
        (rand(3),),
        "scripted",
        [(rand(3, seed=s),) for s in range(1, 4)],
        "if on a value, in a loop",
    ),
    Case(
        "generator",
        SlidingMaximum,
        (rand(5),),
        "refused",
        [(rand(n, seed=n),) for n in (3, 8, 5)],
        "a generator",
        {"x": {0: Dim("rows", min=3, max=8)}},
        codes=("sizes-differ", "graphs-differ"),
    ),
    rows(
        Tree,
        "refused",
        name="recursion",
        trouble="recursion over the rows",
        codes=("sizes-differ", "tracer-warning"),
    ),
    Case(
        "tolist",
        LengthsToList,
        (rand(2, 5), torch.tensor([2, 4])),
        "right-or-refused",
        [(rand(2, 5), torch.tensor([5, 1])), (rand(2, 5), torch.tensor([3, 3]))],
        "tolist",
        codes=("tracer-warning", "values-differ", "dead-input", "graphs-differ"),
    ),
    Case(
        "splits",
        Splits,
        (rand(4, 3),),
        "right-or-refused",
        [(rand(8, 3),), (rand(2, 3),), (rand(6, 3),)],
        "a loop over parts",
        {"x": {0: Dim("rows", min=2, max=8)}},
        codes=("sizes-differ",),
    ),
    rows(CumulativeInPlace, name="cumulative in place", trouble="a loop that writes rows"),
]

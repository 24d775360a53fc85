"""What a module remembers between calls."""
# mypy: ignore-errors
# ruff: noqa: B006

import torch
from torch import nn
from torch.export import Dim

from corpus.case import Case, rand


class CallCounter(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, x):
        self.count += 1
        return x * self.count


class HiddenAttribute(nn.Module):
    """Keeps its hidden state in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.hidden = torch.zeros(2, 4)

    def forward(self, x):
        self.hidden = self.cell(x, self.hidden)
        return self.hidden


class PlainTensorInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.total = torch.zeros(3)

    def forward(self, x):
        self.total += x.sum(0)
        return x + self.total


class BufferInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.zeros(3))

    def forward(self, x):
        self.running.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.running


class BufferReassigned(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.zeros(3))

    def forward(self, x):
        self.running = 0.9 * self.running + 0.1 * x.mean(0)
        return x - self.running


class NoneCache(nn.Module):
    """Remembers the first frame."""

    def __init__(self):
        super().__init__()
        self.first = None

    def forward(self, x):
        if self.first is None:
            self.first = x
        return x - self.first


class KeyValueCache(nn.Module):
    """Attends to all that it has seen."""

    def __init__(self):
        super().__init__()
        self.past = []

    def forward(self, x):
        self.past.append(x)
        keys = torch.stack(self.past)
        return torch.softmax(keys @ x, 0) @ keys


class LengthCache(nn.Module):
    """Makes its positions again when the length changes, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.length = 0
        self.positions = torch.zeros(0)

    def forward(self, x):
        if self.length != x.shape[0]:
            self.length = x.shape[0]
            self.positions = torch.arange(x.shape[0]).float() / 10
        return x + torch.sin(self.positions)


class GrowingTable(nn.Module):
    """Makes its table longer when an input is longer than any before."""

    def __init__(self):
        super().__init__()
        self.table = torch.arange(4).float()

    def forward(self, x):
        if x.shape[0] > self.table.shape[0]:
            self.table = torch.arange(x.shape[0]).float()
        return x * self.table[: x.shape[0]]


class DictMemo(nn.Module):
    def __init__(self):
        super().__init__()
        self.memo = {}

    def forward(self, x):
        n = len(x)
        if n not in self.memo:
            self.memo[n] = torch.linspace(0, 1, n)
        return x * self.memo[n]


def make_warm(model):
    """Someone tried the model before the export."""

    def make():
        module = model()
        module(torch.zeros(4))
        return module

    return make


class WrittenOnly(nn.Module):
    """Keeps its attention for a plot; forward never reads it."""

    def __init__(self):
        super().__init__()
        self.last_attention = None

    def forward(self, x):
        attention = torch.softmax(x @ x.transpose(-1, -2), -1)
        self.last_attention = attention.detach()
        return attention @ x


calls = 0


class GlobalCounter(nn.Module):
    def __init__(self):
        super().__init__()
        global calls
        calls = 0

    def forward(self, x):
        global calls
        calls += 1
        return x + calls


def make_closure():
    seen = {"calls": 0}

    def advance():
        seen["calls"] += 1
        return seen["calls"]

    class Closure(nn.Module):
        def forward(self, x):
            return x + advance()

    return Closure()


class MutableDefault(nn.Module):
    """The default is one list for all calls."""

    def __init__(self):
        super().__init__()
        self.forward.__func__.__defaults__[0].clear()

    def forward(self, x, history=[]):
        history.append(x)
        return torch.stack(history).mean(0)


class InitialisedByData(nn.Module):
    """ActNorm: takes its scale from the first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(3))
        self.ready = False

    def forward(self, x):
        if not self.ready:
            self.scale.copy_(1 / (x.std(0) + 1e-3))
            self.ready = True
        return x * self.scale


class Alternating(nn.Module):
    """A Python flag that flips."""

    def __init__(self):
        super().__init__()
        self.flip = False

    def forward(self, x):
        self.flip = not self.flip
        return -x if self.flip else x


class RingBuffer(nn.Module):
    """The mean of the last three inputs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ring", torch.zeros(3, 2))
        self.at = 0

    def forward(self, x):
        self.ring[self.at] = x
        self.at = (self.at + 1) % 3
        return self.ring.mean(0)


def sequence(*shape):
    return [(rand(*shape, seed=s),) for s in range(1, 5)]


LENGTHS = [(rand(n, seed=n),) for n in (2, 6, 3, 6)]
LENGTH = {"x": {0: Dim("length", min=1, max=8)}}
LOST = ("state-lost", "python-state", "example-differs", "graphs-differ")

CASES = [
    Case("call counter", CallCounter, (rand(3),), "scripted", sequence(3), "a number that grows"),
    Case(
        "hidden attribute",
        HiddenAttribute,
        (rand(2, 3),),
        "scripted",
        sequence(2, 3),
        "a tensor attribute set anew",
    ),
    Case(
        "plain tensor in place",
        PlainTensorInPlace,
        (rand(2, 3),),
        "exported",
        sequence(2, 3),
        "a plain tensor attribute mutated in place",
        trace_lies=True,  # nobody puts back what the traced run added
    ),
    Case("buffer in place", BufferInPlace, (rand(2, 3),), "exported", sequence(2, 3)),
    Case(
        "buffer reassigned",
        BufferReassigned,
        (rand(2, 3),),
        "scripted",
        sequence(2, 3),
        "a buffer set anew",
    ),
    Case(
        "none cache",
        NoneCache,
        (rand(3),),
        "refused",
        sequence(3),
        "a cache that starts as None",
        codes=LOST,
    ),
    Case(
        "key value cache",
        KeyValueCache,
        (rand(3),),
        "right-or-refused",
        sequence(3),
        "a list that grows",
        codes=LOST,
    ),
    Case(
        "length cache",
        LengthCache,
        (rand(4),),
        "exported",
        LENGTHS,
        "a cache by length, empty when traced",
        LENGTH,
    ),
    Case(
        "warm length cache",
        make_warm(LengthCache),
        (rand(4),),
        "scripted",
        LENGTHS,
        "a cache by length that holds the example's",
        LENGTH,
    ),
    Case(
        "growing table",
        GrowingTable,
        (rand(3),),
        "scripted",
        LENGTHS,
        "a table that grows",
        LENGTH,
    ),
    Case(
        "dict memo",
        DictMemo,
        (rand(4),),
        "right-or-refused",
        LENGTHS,
        "a memo by length",
        LENGTH,
        codes=("sizes-differ", "tracer-warning", *LOST),
    ),
    Case("written only", WrittenOnly, (rand(2, 3),), "exported", sequence(2, 3)),
    Case(
        "global counter",
        GlobalCounter,
        (rand(3),),
        "refused",
        sequence(3),
        "a global variable",
        codes=LOST,
    ),
    Case(
        "closure",
        make_closure,
        (rand(3),),
        "refused",
        sequence(3),
        "state in a closure",
        codes=LOST,
    ),
    Case(
        "mutable default",
        MutableDefault,
        (rand(3),),
        "refused",
        sequence(3),
        "state in a default value",
        codes=LOST,
    ),
    Case(
        "initialised by data",
        InitialisedByData,
        (rand(4, 3),),
        "scripted",
        sequence(4, 3),
        "the first call is another one",
    ),
    Case("alternating", Alternating, (rand(3),), "scripted", sequence(3), "a flag that flips"),
    Case("ring buffer", RingBuffer, (rand(2),), "scripted", sequence(2), "a place that moves"),
]

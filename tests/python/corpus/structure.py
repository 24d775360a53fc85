"""Lists, dicts, tuples, options and optional arguments, in and out."""
# mypy: ignore-errors
# ruff: noqa: B905

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from corpus.case import Case, rand


class SumOfDict(nn.Module):
    """The keys of the example are not the only ones."""

    def forward(self, features):
        total = torch.zeros(3)
        for value in features.values():
            total = total * 0.5 + value
        return total


class DictItems(nn.Module):
    def forward(self, features):
        total = torch.zeros(3)
        for name, value in features.items():
            if name == "noise":
                continue
            total = total + value
        return total


class SumOfList(nn.Module):
    """As many scales as the caller has."""

    def forward(self, maps):
        total = torch.zeros(3)
        for m in maps:
            total = torch.tanh(total + m)
        return total


class ZipOfLists(nn.Module):
    def forward(self, xs, weights):
        total = torch.zeros(3)
        for x, w in zip(xs, weights):
            total = total + w * x
        return total


class StackList(nn.Module):
    """No loop in sight, but the length is there."""

    def forward(self, xs):
        return torch.stack(xs).mean(0)


class FixedKeys(nn.Module):
    """Keys that forward names."""

    def forward(self, batch):
        return batch["image"].mean() + batch["depth"].sum(-1)


class DictOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.boxes, self.scores = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return {"boxes": self.boxes(x), "scores": self.scores(x).sigmoid()}


class MixedDictOutput(nn.Module):
    """A tensor beside a list of tensors: a Union to TorchScript."""

    def forward(self, x):
        return {"logits": x * 2, "auxiliary": [x + 1, x + 2]}


class NestedOutput(nn.Module):
    def forward(self, x):
        return x + 1, (x * 2, [x - 1, x - 2])


class Detection(NamedTuple):
    boxes: Tensor
    scores: Tensor


class NamedOutput(nn.Module):
    def forward(self, x):
        return Detection(boxes=x * 2, scores=x.sum(-1))


class OptionalMask(nn.Module):
    def forward(self, x, mask=None):
        if mask is not None:
            x = x.masked_fill(mask, 0.0)
        return x.sum(-1)


class Times(nn.Module):
    """A number as an argument, without an annotation."""

    def forward(self, x, times=1):
        for _ in range(times):
            x = torch.tanh(x) + 1
        return x


class Options(nn.Module):
    """A flag as an argument."""

    def forward(self, x, normalize=False):
        if normalize:
            x = x / x.norm()
        return x + 1


class Variadic(nn.Module):
    def forward(self, *xs):
        return torch.cat(xs, -1)


class PassesOptions(nn.Module):
    """Keyword arguments from a dict of its own."""

    def __init__(self):
        super().__init__()
        self.options = {"dim": -1, "keepdim": True}

    def forward(self, x):
        return x - x.mean(**self.options)


class ReturnsNone(nn.Module):
    def __init__(self):
        super().__init__()
        self.auxiliary = None

    def forward(self, x):
        return x * 2, self.auxiliary


class RowsAsList(nn.Module):
    """As many outputs as rows."""

    def forward(self, x):
        return [row * 2 for row in x]


class KeywordOnly(nn.Module):
    def forward(self, x, *, scale):
        return x * scale


class SwappedNames(nn.Module):
    """Called by name in another order than forward's."""

    def forward(self, a, b):
        return a - 2 * b


class DeadInput(nn.Module):
    """The lengths steer a slice only."""

    def forward(self, x, lengths):
        return x[: int(lengths.sum())].sum(0)


class CountsAndTensor(nn.Module):
    """A Python number beside a tensor."""

    def forward(self, x):
        return x.sum(0), x.shape[0]


class Concatenated(nn.Module):
    """Keys in sorted order."""

    def forward(self, features):
        return torch.cat([features[k] for k in sorted(features)], -1)


V = [rand(3, seed=s) for s in range(6)]
DICT_CODES = (
    "structure-differs",
    "sizes-differ",
    "values-differ",
    "graphs-differ",
    "lengths-differ",
    "trace-failed",
)

CASES = [
    Case(
        "sum of dict",
        SumOfDict,
        ({"a": V[0], "b": V[1]},),
        "scripted",
        [({"a": V[2], "b": V[3], "c": V[4]},), ({"b": V[1]},), ({"x": V[5], "a": V[0]},)],
        "a loop over a dict's values",
    ),
    Case(
        "dict items",
        DictItems,
        ({"a": V[0], "noise": V[1]},),
        "scripted",
        [({"a": V[2], "b": V[3], "noise": V[4]},), ({"b": V[1]},)],
        "a loop over a dict's items",
    ),
    Case(
        "sum of list",
        SumOfList,
        ([V[0], V[1]],),
        "scripted",
        [([V[2], V[3], V[4]],), ([V[5]],), ([],)],
        "a loop over a list",
    ),
    Case(
        "zip of lists",
        ZipOfLists,
        ([V[0], V[1]], [V[2], V[3]]),
        "scripted",
        [([V[2]], [V[3]]), ([V[0], V[1], V[2]], [V[3], V[4], V[5]])],
        "zip over lists",
    ),
    Case(
        "stack list",
        StackList,
        ([V[0], V[1]],),
        "scripted",
        [([V[2], V[3], V[4]],), ([V[5]],)],
        "a list's length",
    ),
    Case(
        "fixed keys",
        FixedKeys,
        ({"image": rand(2, 3), "depth": V[1]},),
        "exported",
        [({"image": rand(2, 3, seed=1), "depth": V[2]},), ({"depth": V[3], "image": rand(2, 3)},)],
    ),
    Case("dict output", DictOutput, (rand(2, 4),), "exported", [(rand(2, 4, seed=1),)]),
    Case(
        "mixed dict output",
        MixedDictOutput,
        (V[0],),
        "right-or-refused",
        [(V[1],)],
        "a dict of mixed values",
        codes=("trace-failed", "script-failed"),
    ),
    Case("nested output", NestedOutput, (V[0],), "exported", [(V[1],)]),
    Case("named output", NamedOutput, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
    Case("optional left out", OptionalMask, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
    Case(
        "optional given",
        OptionalMask,
        (rand(2, 3), torch.tensor([True, False, True])),
        "exported",
        [(rand(2, 3), torch.tensor([False, False, True]))],
    ),
    Case(
        "optional by name",
        OptionalMask,
        {"x": rand(2, 3), "mask": torch.tensor([True, False, True])},
        "exported",
        [{"x": rand(2, 3, seed=1), "mask": torch.tensor([False, False, True])}],
    ),
    Case(
        "number argument",
        Times,
        (V[0], 2),
        "scripted",
        [(V[0], 5), (V[1], 0), (V[2], 1)],
        "a number as an argument",
    ),
    Case(
        "flag argument",
        Options,
        (V[0], True),
        "scripted",
        [(V[0], False), (V[1], True)],
        "a flag as an argument",
    ),
    Case(
        "variadic",
        Variadic,
        (V[0], V[1]),
        "right-or-refused",
        [(V[2], V[3])],
        codes=("trace-failed", "script-failed"),
        trace_lies=False,
    ),
    Case("passes options", PassesOptions, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
    Case(
        "returns None",
        ReturnsNone,
        (V[0],),
        "right-or-refused",
        [(V[1],)],
        "None among the outputs",
        codes=("trace-failed", "structure-differs"),
    ),
    Case(
        "rows as list",
        RowsAsList,
        (rand(3, 2),),
        "right-or-refused",
        [(rand(5, 2, seed=1),), (rand(1, 2, seed=2),)],
        "as many outputs as rows",
        {"x": {0: Dim("rows", min=1, max=6)}},
        codes=("sizes-differ", "tracer-warning"),
    ),
    Case(
        "keyword only",
        KeywordOnly,
        {"x": V[0], "scale": V[1]},
        "right-or-refused",
        [{"x": V[2], "scale": V[3]}],
        "a keyword-only argument",
        codes=("trace-failed",),
    ),
    Case(
        "swapped names",
        SwappedNames,
        {"b": V[0], "a": V[1]},
        "exported",
        [{"b": V[2], "a": V[3]}, {"a": V[2], "b": V[3]}],
    ),
    Case(
        "dead input",
        DeadInput,
        (rand(6, 2), torch.tensor([1, 2])),
        "scripted",
        [(rand(6, 2), torch.tensor([4, 2])), (rand(6, 2), torch.tensor([0, 1]))],
        "an input that reaches no output",
    ),
    Case(
        "number output",
        CountsAndTensor,
        (rand(3, 2),),
        "scripted",
        [(rand(5, 2, seed=1),), (rand(1, 2, seed=2),)],
        "a Python number among the outputs",
        {"x": {0: Dim("rows", min=1, max=6)}},
    ),
    Case(
        "sorted keys",
        Concatenated,
        ({"a": V[0], "b": V[1]},),
        "right-or-refused",
        [({"a": V[2], "b": V[3], "c": V[4]},), ({"b": V[1], "a": V[0]},)],
        "sorted keys of a dict",
        codes=DICT_CODES,
    ),
]

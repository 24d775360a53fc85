"""Flags, numbers, strings and None as arguments: a branch behind one that scripting changes."""
# mypy: ignore-errors

import functools
from typing import Optional

import torch
from torch import Tensor, nn

from corpus.case import Case, rand


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)

    return wrapper


@doubled
def raised(x):
    return x + 1


class Flag(nn.Module):
    def forward(self, x, flag: bool):
        if flag:  # <- lost
            return raised(x)
        return x


class Count(nn.Module):
    def forward(self, x, count: int):
        if count == 40:  # <- lost
            return raised(x)
        return x * count


class Factor(nn.Module):
    def forward(self, x, factor: float):
        if factor < 0:  # <- lost
            return raised(x)
        return x * factor


class Mode(nn.Module):
    def forward(self, x, mode: str):
        if mode == "plain":  # <- lost
            return x
        if mode == "raised":
            return raised(x)
        raise ValueError("expected plain or raised")


class Autocast(nn.Module):
    @torch.autocast("cpu")
    def squared(self, x):
        return x @ x

    def forward(self, x, fast: bool):
        if fast:  # <- lost
            return self.squared(x)
        return x @ x


class Masked(nn.Module):
    def forward(self, x, mask: Optional[Tensor]):  # noqa: UP045, torch.jit reads it
        if mask is None:  # <- lost
            return x
        return raised(x) * mask


class TwoFlags(nn.Module):
    def forward(self, x, a: bool, b: bool):
        if a and b:  # <- lost
            return raised(x)
        return x


class InAList(nn.Module):
    def forward(self, x, steps: list[int]):
        for step in steps:
            x = x * step
            if step == 0:  # <- lost
                x = x + raised(x)
        return x


class Length(nn.Module):
    """TorchScript counts bytes."""

    def forward(self, x, word: str):
        return x * len(word)


class Cut(nn.Module):
    """TorchScript cuts bytes."""

    def forward(self, x, word: str):
        return x, word[::-1]


class Kept(nn.Module):
    """Loses nothing, whatever the arguments are."""

    def forward(self, x, flag: bool, count: int, mode: str, mask: Optional[Tensor] = None):  # noqa: UP045
        for _ in range(count):
            x = x + 1
        if mode == "half":
            x = x / 2
        elif mode != "whole":
            raise ValueError("expected half or whole")
        if mask is not None:
            x = x * mask
        return -x if flag else x


X = rand(3)
LOST = "a branch that the example does not take lost a decorator"
BYTES = "strings are bytes"


def lost(name, model, example, other, trouble=LOST, codes=("values-differ",)):
    return Case(name, model, example, "refused", [example, other], trouble, None, codes)


CASES = [
    lost("a flag's branch", Flag, (X, False), (X, True)),
    lost("a count's branch", Count, (X, 1), (X, 40)),
    lost("a factor's branch", Factor, (X, 1.5), (X, -1.5)),
    lost("a mode's branch", Mode, (X, "plain"), (X, "raised")),
    lost(
        "a flag's autocast",
        Autocast,
        (rand(3, 3), False),
        (rand(3, 3), True),
        codes=("structure-differs",),
    ),
    lost("None's branch", Masked, (X, None), (X, X)),
    lost("two flags' branch", TwoFlags, (X, False, False), (X, True, True)),
    lost("a branch in a list", InAList, (X, [1, 2]), (X, [1, 0])),
    lost("a string's length", Length, (X, "Normandy"), (X, "Normanðy"), BYTES),
    lost("a string cut", Cut, (X, "Normandy"), (X, "Normanðy"), BYTES),
    Case(
        "arguments that are no tensors",
        Kept,
        (X, False, 2, "half"),
        "scripted",
        [
            (X, True, 0, "whole"),
            (X, False, 5, "half", X),
            (X, True, 1, "quarter"),
            (X, False, 2, "half", None),
        ],
        "a trace takes tensors only",
    ),
]

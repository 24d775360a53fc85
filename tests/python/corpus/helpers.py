"""Trouble outside forward: helper functions, decorators, base classes, deep submodules, hooks."""
# mypy: ignore-errors

import functools

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from corpus.case import Case, rand


def normalize(x, limit=1.0):
    if x.norm() > limit:
        x = x / x.norm()
    return x


class HelperFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(normalize(x))


class HelperMethod(nn.Module):
    def forward(self, x):
        return self._flip(x) + self._flip(-x * 2)

    def _flip(self, x):
        if x[0] > 0:
            return x
        return x * -3


class StaticHelper(nn.Module):
    @staticmethod
    def choose(x):
        if x.sum() > 0:
            return x * 2
        return x * 3

    def forward(self, x):
        return self.choose(x)


class Innermost(nn.Module):
    def forward(self, x):
        if x.mean() > 0:
            return x * 2
        return x - 1


class Middle(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(4), Innermost()

    def forward(self, x, **unused):
        return self.gate(self.norm(x) + x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Middle()

    def forward(self, x, options=None):
        options = options or {}
        return functional.gelu(self.block(x, **options))


class ThreeDeep(nn.Module):
    """Only the innermost of three branches; the others do what only a trace can take."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = Outer(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.encoder(x, {"verbose": True}))


class DeepLoop(nn.Module):
    """Two branching children in a list."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Middle() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class SharedChild(nn.Module):
    """One child called twice, on other shapes."""

    def __init__(self):
        super().__init__()
        self.gate = Innermost()

    def forward(self, x):
        return self.gate(x) + self.gate(x.sum(0) - 3)


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


class DecoratedForward(nn.Module):
    """TorchScript reads the source below the decorator, and would lose the doubling."""

    @doubled
    def forward(self, x):
        if x.sum() > 0:
            return x
        return x - 1


class DecoratedHelper(nn.Module):
    @doubled
    def shift(self, x):
        if x.sum() > 0:
            return x
        return x - 1

    def forward(self, x):
        return self.shift(x) + 1


class DecoratedPlain(nn.Module):
    """Nothing but a decorator, which a trace keeps."""

    @doubled
    def forward(self, x):
        return x + 1


class NoGrad(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def transform(self, x):
        return x

    def forward(self, x):
        return self.linear(self.transform(x))


class OverridesHook(Base):
    """The base class's forward, the subclass's branch."""

    def transform(self, x):
        if x.max() > 1:
            return x / x.max()
        return x


class CallsSuper(Base):
    def forward(self, x):
        y = super().forward(x)
        if y.sum() > 0:
            return y
        return -y


class WithProperty(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(rand(3))

    @property
    def scale(self):
        return self.weight.abs().max()

    def forward(self, x):
        return x * self.scale


ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}


class Dispatch(nn.Module):
    """A lambda, a partial and a function from a dict: the same on every call."""

    def __init__(self):
        super().__init__()
        self.pre = lambda x: x * 2
        self.norm = functools.partial(functional.layer_norm, normalized_shape=(3,))
        self.name = "tanh"

    def forward(self, x):
        return ACTIVATIONS[self.name](self.norm(self.pre(x)))


def make_threshold(limit):
    def threshold(x):
        if x.sum() > limit:
            return x
        return torch.zeros_like(x)

    return threshold


class ClosureBranch(nn.Module):
    """A branch in a closure over a number."""

    def __init__(self):
        super().__init__()
        self.threshold = make_threshold(1.5)

    def forward(self, x):
        return self.threshold(x)


class LambdaBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = lambda x: x if x.sum() > 0 else -x

    def forward(self, x):
        return self.act(x) * 2


class HookedGate(nn.Module):
    """A forward hook doubles what the gate returns."""

    def __init__(self):
        super().__init__()
        self.gate = Innermost()
        self.gate.register_forward_hook(lambda module, args, output: 2 * output)

    def forward(self, x):
        return self.gate(x)


class HookedLinear(nn.Module):
    """A hook without control flow, which a trace keeps."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.linear.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x):
        return self.linear(x)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class StraightThrough(nn.Module):
    def forward(self, x):
        return Straight.apply(x) + 1


class PatchedForward(nn.Module):
    """An instance whose forward was replaced."""

    def __init__(self):
        super().__init__()
        self.forward = self.other

    def forward(self, x):
        return x * 100

    def other(self, x):
        if x.sum() > 0:
            return x
        return -x


class Cropper:
    """A plain object with a number that matters."""

    def __init__(self, size):
        self.size = size

    def __call__(self, x):
        return x[: self.size] if len(x) > self.size else x


class PlainObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.crop = Cropper(4)

    def forward(self, x):
        return self.crop(x).sum(0)


SIGNS = [(rand(3).abs(),), (-rand(3).abs(),), (rand(3, seed=1) * 4,)]
ROWS = {"x": {0: Dim("rows", min=1, max=8)}}
WRONG = ("tracer-warning", "values-differ", "graphs-differ")

CASES = [
    Case("helper function", HelperFunction, (rand(3) * 4,), "scripted", [(rand(3) / 9,), *SIGNS]),
    Case("helper method", HelperMethod, (rand(3),), "scripted", SIGNS),
    Case("static helper", StaticHelper, (rand(3),), "scripted", SIGNS),
    Case(
        "three deep",
        ThreeDeep,
        (rand(2, 4).abs(),),
        "scripted",
        [(-rand(2, 4).abs(),), (rand(2, 4, seed=1).abs(),)],
        "a branch three modules down",
    ),
    Case(
        "deep loop",
        DeepLoop,
        (rand(2, 4).abs(),),
        "scripted",
        [(-rand(2, 4).abs(),), (rand(2, 4, seed=1) * 3,)],
        "branches in a list of modules",
    ),
    Case(
        "shared child",
        SharedChild,
        (rand(2, 4).abs(),),
        "scripted",
        [(-rand(2, 4).abs(),), (rand(2, 4).abs() + 9,)],
        "a branching child called twice",
    ),
    Case(
        "decorated forward",
        DecoratedForward,
        (rand(3).abs(),),
        "right-or-refused",
        SIGNS,
        "a decorator that scripting would lose",
    ),
    Case(
        "decorated helper",
        DecoratedHelper,
        (rand(3).abs(),),
        "right-or-refused",
        SIGNS,
        "a decorated helper that scripting would lose",
    ),
    Case("decorated plain", DecoratedPlain, (rand(3),), "exported", SIGNS),
    Case("no grad", NoGrad, (rand(3).abs(),), "right-or-refused", SIGNS, "a decorator of torch"),
    Case("overrides hook", OverridesHook, (rand(3),), "scripted", [(rand(3) * 9,), *SIGNS]),
    Case("calls super", CallsSuper, (rand(3),), "right-or-refused", [*SIGNS, (rand(3) * 9,)]),
    Case("property", WithProperty, (rand(3),), "exported", SIGNS),
    Case("dispatch", Dispatch, (rand(3),), "exported", SIGNS),
    Case("closure branch", ClosureBranch, (rand(3).abs() + 1,), "right-or-refused", SIGNS),
    Case("lambda branch", LambdaBranch, (rand(3).abs(),), "right-or-refused", SIGNS),
    Case("hooked gate", HookedGate, (rand(3).abs(),), "right-or-refused", SIGNS),
    Case("hooked linear", HookedLinear, (rand(3),), "exported", SIGNS),
    Case(
        "autograd function",
        StraightThrough,
        (rand(3),),
        "exported",
        SIGNS,
        "an autograd.Function, which a plain trace cannot save",
        trace_lies=True,
    ),
    Case("patched forward", PatchedForward, (rand(3).abs(),), "right-or-refused", SIGNS),
    Case(
        "plain object",
        PlainObject,
        (rand(3, 2),),
        "refused",
        [(rand(n, 2, seed=n),) for n in (6, 2, 8)],
        "a branch in a plain object",
        ROWS,
        codes=("sizes-differ", "tracer-warning"),
    ),
]

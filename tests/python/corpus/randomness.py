"""Random numbers: torch's, Python's, NumPy's; dropout and batch norm that never stop training."""
# mypy: ignore-errors

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from corpus.case import Case, rand


class TorchNoise(nn.Module):
    """torch's generator: the exported model draws too."""

    def forward(self, x):
        return x + torch.randn(x.shape) * 0.1


class Sampler(nn.Module):
    def forward(self, logits):
        return torch.multinomial(torch.softmax(logits, -1), 1)


class PythonRandom(nn.Module):
    def forward(self, x):
        return x + random.random()  # <- lost


class PythonCoin(nn.Module):
    def forward(self, x):
        if random.random() < 0.5:  # <- lost
            return x
        return -x


class NumpyRandom(nn.Module):
    def forward(self, x):
        return x * float(np.random.uniform(1, 2))  # <- lost


class NumpyGenerator(nn.Module):
    """A generator of its own."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        return x + float(self.rng.normal())


class LayerDrop(nn.Module):
    """Skips a layer at random in training only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        if self.training and random.random() < 0.5:
            return x
        return self.linear(x)


class DropoutAlways(nn.Module):
    """F.dropout without training=."""

    def forward(self, x):
        return functional.dropout(x, 0.5)  # <- lost


class DropoutInEval(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return functional.dropout(self.dropout(x), 0.5, self.training)


class BatchNormAlways(nn.Module):
    """Batch statistics at inference."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x):
        return functional.batch_norm(x, self.mean, self.var, training=True)  # <- lost


class Augment(nn.Module):
    """Shuffles channels in an order that Python draws."""

    def forward(self, x):
        order = list(range(3))
        random.shuffle(order)  # <- lost
        return x[:, order]


CALLS = [(rand(4, 3, seed=s),) for s in (1, 2, 3)]
VECTORS = [(rand(3, seed=s),) for s in (1, 2, 3)]
RANDOM = ("python-random",)

CASES = [
    Case("torch noise", TorchNoise, (rand(4, 3),), "exported", CALLS),
    Case("sampler", Sampler, (rand(4, 3),), "exported", CALLS),
    Case(
        "python random",
        PythonRandom,
        (rand(3),),
        "refused",
        VECTORS,
        "Python's random",
        codes=RANDOM,
    ),
    Case(
        "python coin",
        PythonCoin,
        (rand(3),),
        "refused",
        VECTORS,
        "a branch on Python's random",
        codes=RANDOM,
    ),
    Case(
        "numpy random",
        NumpyRandom,
        (rand(3),),
        "refused",
        VECTORS,
        "NumPy's random",
        codes=RANDOM,
    ),
    Case(
        "numpy generator",
        NumpyGenerator,
        (rand(3),),
        "refused",
        VECTORS,
        "a NumPy generator",
        codes=("python-random", "python-state", "state-lost", "example-differs"),
    ),
    Case("layer drop", LayerDrop, (rand(3),), "exported", VECTORS),
    Case(
        "dropout always",
        DropoutAlways,
        (rand(3),),
        "refused",
        VECTORS,
        "F.dropout without training=",
        codes=("train-flag",),
        trace_lies=False,
    ),
    Case("dropout in eval", DropoutInEval, (rand(3),), "exported", VECTORS),
    Case(
        "batch norm always",
        BatchNormAlways,
        (rand(4, 3),),
        "refused",
        CALLS,
        "F.batch_norm with training=True",
        codes=("train-flag",),
        trace_lies=False,
    ),
    Case(
        "shuffle",
        Augment,
        (rand(4, 3),),
        "refused",
        CALLS,
        "random.shuffle",
        codes=RANDOM,
    ),
]

"""Forward writes into its own input."""
# mypy: ignore-errors

from torch import nn

from corpus.case import Case, rand


class ZeroesFirst(nn.Module):
    def forward(self, x):
        x[:, 0] = 0  # <- lost
        return x * 2


class AddsInPlace(nn.Module):
    def forward(self, x, y):
        x += y  # <- lost
        return x.relu()


class ViewInPlace(nn.Module):
    """Through a view."""

    def forward(self, x):
        flat = x.view(-1)
        flat.clamp_(min=0)  # <- lost
        return x.sum()


CALLS = [(rand(2, 3, seed=s),) for s in (1, 2)]
CASES = [
    Case(
        name,
        model,
        inputs,
        "refused",
        probes,
        "a write into the caller's tensor",
        codes=("input-mutated",),
        trace_lies=False,
    )
    for name, model, inputs, probes in [
        ("zeroes first", ZeroesFirst, (rand(2, 3),), CALLS),
        ("adds in place", AddsInPlace, (rand(3), rand(3, seed=1)), [(rand(3), rand(3, seed=2))]),
        ("view in place", ViewInPlace, (rand(2, 3),), CALLS),
    ]
]

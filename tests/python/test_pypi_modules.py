"""Modules that people install: each export is right on held-out inputs, or refused, and says why.

They are in pypi.txt, with the versions that this was tried with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from corpus.case import Case, rand
from corpus.checks import check_export, mistake
from torch import Tensor, nn
from torch.export import Dim

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# pytorch-msssim says so where an image is smaller than its window.
pytestmark = pytest.mark.filterwarnings("ignore:Skipping Gaussian Smoothing")

TIME = Dim("time", min=2, max=20)


@dataclass(frozen=True)
class Package:
    """A package that may be missing: how to install it, and how to import it."""

    requirement: str
    module: str

    def load(self) -> Any:
        """The package's module; skips where it is not installed."""
        return pytest.importorskip(self.module, reason=f"pip install {self.requirement}")


def in_module(package: Package, make: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: make(package.load())


CONFORMER = Package("conformer==0.3.2", "conformer")
CRF = Package("pytorch-crf==0.7.2", "torchcrf")
ENTMAX = Package("entmax==1.3", "entmax")
NYSTROM = Package("nystrom-attention==0.0.14", "nystrom_attention")
ROTARY = Package("rotary-embedding-torch==0.9.1", "rotary_embedding_torch")
SSIM = Package("pytorch-msssim==1.0.0", "pytorch_msssim")
TCN = Package("pytorch-tcn==1.2.3", "pytorch_tcn")
TORCHDIFFEQ = Package("torchdiffeq==0.2.5", "torchdiffeq")


class RotaryScores(nn.Module):
    """Scores of queries and keys that know where they are."""

    def __init__(self, package: Any) -> None:
        super().__init__()
        self.rotary = package.RotaryEmbedding(dim=4, cache_max_seq_len=16)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        q = self.rotary.rotate_queries_or_keys(q)
        k = self.rotary.rotate_queries_or_keys(k)
        return q @ k.transpose(-1, -2)


class Decoder(nn.Module):
    """The most likely tags, as lists of Python numbers."""

    def __init__(self, package: Any) -> None:
        super().__init__()
        self.crf = package.CRF(4)

    def forward(self, emissions: Tensor, mask: Tensor) -> Any:
        return self.crf.decode(emissions, mask)


class Stream(nn.Module):
    """A network that hears a sound piece by piece."""

    def __init__(self, package: Any) -> None:
        super().__init__()
        self.tcn = package.TCN(num_inputs=3, num_channels=[4, 4], kernel_size=2)

    def forward(self, x: Tensor) -> Any:
        return self.tcn(x, inference=True)


class Flow(nn.Module):
    """The end of an ordinary differential equation."""

    times: Tensor

    def __init__(self, package: Any, method: str) -> None:
        super().__init__()
        self.field = nn.Linear(2, 2)
        self.solve = package.odeint
        self.method = method
        self.register_buffer("times", torch.linspace(0, 1, 3))

    def speed(self, t: Tensor, y: Tensor) -> Tensor:
        return 3 * torch.tanh(self.field(y))

    def forward(self, y: Tensor) -> Any:
        return self.solve(self.speed, y, self.times, method=self.method)[-1]


def tags(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed))


def tagged(time: int) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([time, (time + 1) // 2])
    mask = torch.arange(time).unsqueeze(1) < lengths
    return rand(time, 2, 4, seed=time), tags(time, 2, seed=time), mask


def queries_and_keys(time: int) -> tuple[Tensor, Tensor]:
    return rand(1, 2, time, 4), rand(1, 2, time, 4, seed=1)


def images(height: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return (
        rand(1, 1, height, 8, seed=seed).sigmoid(),
        rand(1, 1, height, 8, seed=seed + 1).sigmoid(),
    )


CASES = [
    Case(
        "conformer",
        in_module(
            CONFORMER,
            lambda p: p.ConformerBlock(dim=8, dim_head=4, heads=2, ff_mult=2, conv_kernel_size=3),
        ),
        (rand(2, 5, 8),),
        "exported",
        [(rand(2, 9, 8, seed=1),), (rand(2, 2, 8, seed=2),), (rand(2, 20, 8, seed=3),)],
        "einops' strings, positions relative to a size",
        {"x": {1: TIME}},
    ),
    Case(
        "temporal convolution",
        in_module(TCN, lambda p: p.TCN(num_inputs=3, num_channels=[4, 4], kernel_size=2)),
        (rand(1, 3, 6),),
        "exported",
        [(rand(1, 3, 9, seed=1),), (rand(1, 3, 2, seed=2),)],
        "flags and optional arguments",
        {"x": {2: TIME}},
    ),
    Case(
        "temporal convolution, piece by piece",
        in_module(TCN, Stream),
        (rand(1, 3, 2),),
        "refused",
        [(rand(1, 3, 2, seed=s),) for s in range(4)],
        "buffers that forward sets anew",
        codes=("tracer-warning", "state-lost"),
    ),
    Case(
        "rotary embedding",
        in_module(ROTARY, RotaryScores),
        queries_and_keys(5),
        "refused",
        [queries_and_keys(n) for n in (3, 9, 20, 5)],
        "a cache by length, in a buffer and a number",
        {"q": {2: TIME}, "k": {2: TIME}},
        codes=("tracer-warning", "sizes-differ", "state-lost"),
    ),
    Case(
        "Nystrom attention",
        in_module(
            NYSTROM, lambda p: p.NystromAttention(dim=8, dim_head=4, heads=2, num_landmarks=4)
        ),
        (rand(1, 8, 8),),
        "refused",
        [(rand(1, n, 8, seed=n),) for n in (8, 12, 9, 3)],
        "padding to a multiple of the landmarks, and a step by size",
        {"x": {1: TIME}},
        codes=("tracer-warning", "sizes-differ"),
    ),
    Case(
        "structural similarity",
        in_module(
            SSIM, lambda p: p.SSIM(data_range=1.0, channel=1, win_size=5, size_average=False)
        ),
        images(8),
        "refused",
        [images(12, 1), images(4, 2), images(8, 3)],
        "images smaller than the window take another way",
        {"X": {2: TIME}, "Y": {2: TIME}},
        codes=("tracer-warning", "sizes-differ"),
    ),
    Case(
        "likelihood of tags",
        in_module(CRF, lambda p: p.CRF(4)),
        tagged(5),
        "refused",
        [tagged(n) for n in (5, 3, 8)],
        "a loop over time, checks that raise",
        {"emissions": {0: TIME}, "tags": {0: TIME}, "mask": {0: TIME}},
        codes=("tracer-warning", "sizes-differ", "graphs-differ"),
    ),
    Case(
        "decoded tags",
        in_module(CRF, Decoder),
        (rand(5, 2, 4), tagged(5)[2]),
        "refused",
        [(rand(5, 2, 4, seed=1), tagged(5)[2])],
        "lists of Python numbers",
        codes=("trace-failed",),
    ),
    Case(
        "sparse softmax",
        in_module(ENTMAX, lambda p: p.Entmax15(dim=-1)),
        (rand(2, 5),),
        "exported",
        [(rand(2, 5, seed=1),)],
        "an autograd.Function",
    ),
    Case(
        "adaptive solver",
        in_module(TORCHDIFFEQ, lambda p: Flow(p, "dopri5")),
        (rand(2, 2),),
        "refused",
        [(rand(2, 2, seed=1, scale=30),)],
        "a loop until the error is small",
        codes=("tracer-warning",),
    ),
    Case(
        "solver with fixed steps",
        in_module(TORCHDIFFEQ, lambda p: Flow(p, "rk4")),
        (rand(2, 2),),
        "exported",
        [(rand(2, 2, seed=1),), (rand(2, 2, seed=2, scale=30),)],
        "branches on the times, which are a constant buffer: nothing is lost",
    ),
]


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES])
def test_export_is_right_or_refused(case: Case, tmp_path: Path) -> None:
    assert mistake(case, case.build) is None  # and skips where the package is missing
    check_export(case, tmp_path / "model.pt")

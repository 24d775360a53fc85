"""Files that were damaged on their way: refused, or as good as they were."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch
from archives import Affine, archive_bytes
from torch import Tensor, nn

import ts_infer
from ts_infer import ModelLoadError, runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLIPS = 2000
TRUNCATIONS = 500


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.words = {"a": [1, 2], "b": [3]}

    def forward(self, x: Tensor, key: str = "a") -> Tensor:
        if bool(x.sum() > 0):
            y: Tensor = self.linear(x)
            return y + float(self.words[key][0])
        return x


def affine(_: Path) -> bytes:
    return archive_bytes(Affine())


def branches(_: Path) -> bytes:
    torch.manual_seed(0)
    return archive_bytes(Branches())


def exported(folder: Path) -> bytes:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    ts_infer.export(module, torch.ones(2, 3), folder / "model.pt", audit="fast")
    return (folder / "model.pt").read_bytes()


@pytest.mark.parametrize("make", [affine, branches, exported])
def test_a_flipped_bit_is_refused_or_changes_nothing(
    make: Callable[[Path], bytes], tmp_path: Path
) -> None:
    intact = make(tmp_path)
    x = torch.tensor([[1.0, -2.0, 4.0]] * 2)
    expected = runtime.load(intact, warmup="off")(x)
    choose = random.Random(1)
    harmless = 0
    for _ in range(FLIPS):
        place, bit = choose.randrange(len(intact)), choose.randrange(8)
        damaged = bytearray(intact)
        damaged[place] ^= 1 << bit
        try:
            model = runtime.load(bytes(damaged), warmup="off")
        except ModelLoadError:
            continue
        harmless += 1
        assert torch.equal(model(x), expected), f"bit {bit} of byte {place}"
    # Times of files, padding between records.
    assert harmless < FLIPS / 2


@pytest.mark.parametrize("make", [affine, branches, exported])
def test_what_was_cut_short_is_refused(make: Callable[[Path], bytes], tmp_path: Path) -> None:
    intact = make(tmp_path)
    choose = random.Random(2)
    for size in {choose.randrange(len(intact)) for _ in range(TRUNCATIONS)} | {0, len(intact) - 1}:
        with pytest.raises(ModelLoadError, match=r"expected a TorchScript archive|damaged"):
            runtime.load(intact[:size])


def test_a_file_that_was_cut_short_is_refused_by_its_path(tmp_path: Path) -> None:
    intact = archive_bytes(Affine())
    path = tmp_path / "model.pt"
    for size in range(0, len(intact), len(intact) // 20):
        path.write_bytes(intact[:size])
        with pytest.raises(ModelLoadError, match=r"model\.pt: .*"):
            runtime.load(path)

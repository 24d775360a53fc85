"""Weights are used where the file is mapped: what that saves, and that nothing else changes."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import archive_bytes, jit_load
from torch import Tensor, nn

from ts_infer import runtime

SaveModel = Callable[..., Path]

# Bytes of this process, and of a file's mapping in it: one column of /proc/self/smaps.
MEMORY = """
import sys
def anonymous():
    rollup = open("/proc/self/smaps_rollup").read().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))
def of_file(path, column):
    total, inside = 0, False
    for line in open("/proc/self/smaps"):
        key, *rest = line.split()
        if not key.endswith(":"):
            inside = line.rstrip().endswith(path)
        elif inside and key == column + ":":
            total += 1024 * int(rest[0])
    return total
"""


class Layers(nn.Module):
    """Linear layers of 4 MiB each, all different: 32 MiB."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class History(nn.Module):
    """Writes into a buffer of 64 KiB: the n-th call returns the sum of the inputs so far."""

    past: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(16, 1024))

    def forward(self, x: Tensor) -> Tensor:
        self.past.add_(x)
        return self.past.sum(dim=0)

    @torch.jit.export
    def reset(self) -> None:
        self.past.zero_()


class Restored(nn.Module):
    """Computes with its weight while it is read: libtorch runs __setstate__ in between."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.arange(4096, dtype=torch.float32)
        self.doubled = 2 * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.doubled = 2 * state[0]
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight + self.doubled


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_mapped(model: Any) -> bool:
    return any("weights mapped from the file" in text for text in model.info().decisions)


def rewritten(source: Path, target: Path, *, compression: int, shift: int = 0) -> Path:
    """The same members in another zip file, `shift` bytes off the alignment that it has."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            name_end = new.fp.tell() + 30 + len(name.encode())  # type: ignore[union-attr]
            padding = (shift - name_end - 4) % 64
            info.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
            new.writestr(info, old.read(name))
    return target


def in_process(script: str, *arguments: object) -> Any:
    """What a fresh process prints, as JSON."""
    command = [sys.executable, "-W", "ignore", "-c", MEMORY + script, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("optimize", [False, True])
def test_result_is_that_of_copied_weights(save_model: SaveModel, optimize: bool) -> None:
    path = save_model(Layers())
    x = torch.randn(3, 1024)
    mapped = runtime.load(path, device="cpu", optimize=optimize)
    copied = runtime.load(path, device="cpu", optimize=optimize, map_weights=False)
    assert is_mapped(mapped)
    assert not is_mapped(copied)
    assert torch.equal(mapped(x), copied(x))


def test_loading_takes_little_memory(save_model: SaveModel) -> None:
    path = save_model(Layers())
    weights = runtime.read_model_info(path).weight_bytes
    mapped, second, copied = in_process(
        """
import json, torch
from ts_infer import runtime
def grown(**options):
    before = anonymous()
    model = runtime.load(sys.argv[1], device="cpu", optimize=False, warmup="off", **options)
    model(torch.ones(1, 1024))
    return anonymous() - before, model
first, second, copied = grown(), grown(), grown(map_weights=False)
print(json.dumps([first[0], second[0], copied[0]]))
""",
        path,
    )
    assert weights >= 32 << 20
    assert mapped < weights / 4
    assert second < weights / 4
    assert copied > weights * 3 / 4


def test_processes_share_the_weights(save_model: SaveModel) -> None:
    path = save_model(Layers())
    weights = runtime.read_model_info(path).weight_bytes
    here = runtime.load(path, device="cpu", optimize=False)
    here(torch.ones(1, 1024))
    resident, proportional, dirty = in_process(
        """
import json, torch
from ts_infer import runtime
model = runtime.load(sys.argv[1], device="cpu", optimize=False)
model(torch.ones(1, 1024))
print(json.dumps([of_file(sys.argv[1], what) for what in ("Rss", "Pss", "Private_Dirty")]))
""",
        path,
    )
    assert resident > weights * 3 / 4
    assert proportional < resident * 3 / 4
    assert dirty < weights / 20


def test_what_a_model_writes_is_its_own(save_model: SaveModel) -> None:
    path = save_model(History())
    before = sha256(path)
    x = torch.ones(1024)
    first = runtime.load(path, device="cpu")
    second = runtime.load(path, device="cpu")
    assert is_mapped(first)
    assert first(x)[0] == 16
    assert first(x)[0] == 32
    clone = first.clone()
    assert clone(x)[0] == 48
    assert first(x)[0] == 48
    assert second(x)[0] == 16
    first.run_method("reset")
    assert first(x)[0] == 16
    assert clone(x)[0] == 64
    assert sha256(path) == before


@pytest.mark.parametrize("optimize", [False, True])
def test_code_that_runs_while_the_model_is_read(save_model: SaveModel, optimize: bool) -> None:
    path = save_model(Restored())
    allowed = ["__setstate__"]
    model = runtime.load(path, device="cpu", optimize=optimize, allow_operators=allowed)
    assert is_mapped(model)
    x = torch.ones(4096)
    assert torch.equal(model(x), jit_load(str(path))(x))
    assert torch.equal(model(x), 1 + 3 * torch.arange(4096))


def test_file_may_be_replaced_by_a_rename_and_removed(save_model: SaveModel) -> None:
    path = save_model(Layers())
    x = torch.randn(3, 1024)
    expected = jit_load(str(path))(x)
    model = runtime.load(path, device="cpu", optimize=False)
    other = path.with_name("other.pt")
    other.write_bytes(archive_bytes(History()))
    other.replace(path)
    torch.testing.assert_close(model(x), expected)
    path.unlink()
    torch.testing.assert_close(model.clone()(x), expected)


def test_compressed_weights_are_copied(save_model: SaveModel, tmp_path: Path) -> None:
    source = save_model(Layers())
    x = torch.randn(3, 1024)
    expected = runtime.load(source, device="cpu")(x)
    for compression, shift, mapped in (
        (zipfile.ZIP_DEFLATED, 0, False),
        (zipfile.ZIP_STORED, 4, False),
        (zipfile.ZIP_STORED, 0, True),
    ):
        path = rewritten(source, tmp_path / "again.pt", compression=compression, shift=shift)
        model = runtime.load(path, device="cpu")
        assert is_mapped(model) == mapped
        assert torch.equal(model(x), expected)


def test_contents_are_copied(save_model: SaveModel) -> None:
    bytes_ = bytearray(save_model(Layers()).read_bytes())
    model = runtime.load(bytes_, device="cpu")
    x = torch.randn(3, 1024)
    expected = model(x)
    bytes_[:] = bytes(len(bytes_))
    assert not is_mapped(model)
    assert torch.equal(model(x), expected)


def test_binary_maps_unless_told(save_model: SaveModel, binary: str) -> None:
    path = save_model(Layers())
    for flags, mapped in (([], True), (["--no-map-weights"], False)):
        command = [binary, "run", str(path), "--device", "cpu", "--quiet", "--json", "-", *flags]
        command += ["--shape", "x=2x1024"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        document = json.loads(out)
        assert document["options"]["map_weights"] == mapped
        decisions = " ".join(document["model"]["decisions"])
        assert ("weights mapped from the file" in decisions) == mapped

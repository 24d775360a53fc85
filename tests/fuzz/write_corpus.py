"""Writes the seeds of the fuzzers: small files of every kind that each of them reads.

python tests/fuzz/write_corpus.py

They are in tests/data/fuzz, a folder for each fuzzer, beside the inputs that once showed a defect
(crash-…), which stay.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer.models import decision_gate

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/data/fuzz"
sys.path.insert(0, str(ROOT / "tests/python"))

from archives import Affine, Counter, Pair, archive_bytes  # noqa: E402

PICKLE_START, PICKLE_END = b"\x80\x02", b"."
MANIFEST = "extra/ts_infer/manifest.json"


class Containers(nn.Module):
    """Every kind of value in a pickle, and much of the language."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0).reshape(2, 2))
        self.register_buffer("view", torch.arange(9)[1:7:2])
        self.names = {"a": 1, "b": 2}
        self.sizes = [1, 2, 3]
        self.pair = (1.5, "text")
        self.nothing: Tensor | None = None
        self.flag = True

    def forward(self, xs: list[Tensor], by_name: dict[str, Tensor]) -> tuple[Tensor, list[int]]:
        total = self.weight[0] @ self.weight
        for i, x in enumerate(xs):
            if i % 2 == 0 and x.numel() > self.sizes[0]:
                total = total + x.sum() * self.pair[0]
            elif self.nothing is None:
                total = total - x[0:1].mean()
        while bool(total.sum() > 100.0):
            total = total / 2
        assert len(by_name) > 0, self.pair[1]
        for name in by_name:
            total = total + by_name[name].sum() * self.names.get(name, 3)
        return total, [len(xs), total.dim() if len(xs) > 0 else -1]


def write(fuzzer: str, name: str, content: bytes) -> None:
    """A seed of the fuzzer."""
    folder = CORPUS / fuzzer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def members(archive: bytes) -> dict[str, bytes]:
    """Of a zip file, by the names inside its folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def exported(folder: Path) -> bytes:
    """With a manifest and a golden sample."""
    path = folder / "gate.pt"
    batch = Dim("batch", min=1, max=4)
    ts_infer.export(
        decision_gate.make(),
        decision_gate.example_inputs(),
        path,
        output_names=["output", "new_h"],
        dynamic_shapes={"x": {0: batch}, "h": {0: batch}},
        audit="fast",
    )
    return path.read_bytes()


def write_archives(gate: bytes) -> None:
    """Whole files; what is in them for the fuzzers that go deeper."""
    archives = {
        "affine": archive_bytes(Affine()),
        "counter": archive_bytes(Counter()),
        "pair": archive_bytes(Pair()),
        "containers": archive_bytes(Containers()),
        "gate": gate,
    }
    for name, archive in archives.items():
        write("archive", f"{name}.pt", archive)
        for member, content in members(archive).items():
            for chosen, suffix in enumerate(("data.pkl", "constants.pkl", ".py", ".debug_pkl")):
                if member.endswith(suffix):
                    kind = ("data", "constants", "code", "debug")[chosen]
                    write("model", f"{name}-{kind}", bytes([chosen]) + content)
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as file:
        file.writestr("package/data/aotinductor/model/model.wrapper.so", b"\x7fELF")
        file.writestr("package/extra/ts_infer/manifest.json", members(gate)[MANIFEST])
    write("archive", "package.pt2", package.getvalue())


def write_manifests(gate: bytes) -> None:
    """A whole one, what packages and custom operators need, and leaves of a dict."""
    manifest = members(gate)[MANIFEST]
    write("manifest", "gate.json", manifest)
    document = json.loads(manifest)
    tensor = {"name": "x", "type": "Tensor", "dtype": "float32", "shape": [None, 3]}
    document.update(
        method="aotinductor",
        compiled={
            "device": "cpu",
            "result": {"tuple": ["tensor", {"dict": {"a": "tensor"}}, {"list": []}]},
        },
        inputs=[{**tensor, "shape": [{"name": "n", "min": 2, "max": None}, 3]}, tensor],
        state=["cell.count"],
        libraries=[{"file": "libops.so", "operators": ["my::op"], "classes": ["my.Class"]}],
    )
    write("manifest", "package.json", json.dumps(document).encode())
    shape = [{"name": "n", "min": 1, "max": 4}]
    leaves = [{**tensor, "name": name, "shape": shape} for name in ("x.a", "x.b")]
    document["inputs"] = [{"name": "x", "type": "Dict[str, Tensor]", "leaves": leaves}]
    write("manifest", "containers.json", json.dumps(document).encode())


def write_goldens(gate: bytes) -> None:
    """What torch.save pickles, without the start and the end that the fuzzer adds."""
    pickle = members(members(gate)["extra/ts_infer/golden.pt"])["data.pkl"]
    buffer = io.BytesIO()
    values = [None, True, 2**40, -1, 1.5, 1j, "text", (1, [2], {"a": torch.ones(2)})]
    calls = [{"inputs": [torch.arange(6.0).reshape(2, 3).T], "outputs": values}]
    torch.save({"calls": calls}, buffer)
    for name, content in (("gate", pickle), ("values", members(buffer.getvalue())["data.pkl"])):
        assert content.startswith(PICKLE_START)
        assert content.endswith(PICKLE_END)
        write("golden", name, content[len(PICKLE_START) : -len(PICKLE_END)])


def write_arrays() -> None:
    """Every dtype, both orders, all ranks, and the versions of the format."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "scalar": np.array(1.5),
        "empty": np.zeros((0, 3), np.uint8),
        "bool": np.array([True, False]),
        "half": np.zeros(3, np.float16),
        "complex": np.ones((1, 1, 2), np.complex128),
        "big_endian": np.arange(3, dtype=">i4"),
        "structured": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")]),
    }
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        write("npy", f"{name}.npy", buffer.getvalue())
    for version in ((2, 0), (3, 0)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, arrays["float32"], version=version)
        write("npy", f"version_{version[0]}.npy", buffer.getvalue())


def write_command_lines() -> None:
    """An argument a line."""
    lines = (
        "run model.pt --input x=x.npy --shape h=1x4 --output-dir out --iterations 3 --quiet",
        "run model.pt --device cuda:1 --executor legacy --intra-op-threads 2 --no-optimize",
        "run model.pt --warmup full --warmup-budget 1.5 --seed 7 --json -",
        "run -- model.pt",
        "bench model.pt --concurrency 2 --skip 0 --duration 0.5 --log-calls",
        "bench model.pt --rate 100 --precision bf16 --disable-pass linear --graphs",
        "bench model.pt --sweep --duration=60",
        "coldstart model.pt --calls 5 --shape x=1x3x224x224 --child constant",
        "verify model.pt --sha256 " + 64 * "a",
        "inspect model.pt --code --limit members=10 --limit nesting=5",
        "env --json env.json",
        "verify model.pt --allow-operator aten::save --library libops.so --no-map-weights",
        "run --help",
        "--version",
        "export model",
        "rnu model.pt --itertions 3",
    )
    for number, line in enumerate(lines):
        write("command_line", f"{number:02}", "\n".join(line.split()).encode())


def main() -> None:
    """Writes them all."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        gate = exported(Path(folder))
    write_archives(gate)
    write_manifests(gate)
    write_goldens(gate)
    write_arrays()
    write_command_lines()


if __name__ == "__main__":
    main()

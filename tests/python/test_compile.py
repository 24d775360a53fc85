"""AOTInductor packages: made by `ts_infer.compile`, run by the runtime."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import Counter, Pair
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer.__main__ import main
from ts_infer._export import package as compiling
from ts_infer._export import shapes
from ts_infer._export.arguments import Example

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler, and g++ is not here"
)


class Network(nn.Module):
    """A perceptron with a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Nested(nn.Module):
    """Two inputs of one length, a nested result."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        return a + b, {"z": [a * 2], "a": [b.sum(0), a @ b.t()]}


class Loop(nn.Module):
    """As often as the values say."""

    def forward(self, x: Tensor) -> Tensor:
        i = 0
        while i < int(x.sum()):
            x = x - 1
            i += 1
        return x


class InDict(nn.Module):
    """Its tensor comes in a dict."""

    def forward(self, parts: dict[str, Tensor]) -> Tensor:
        return parts["x"] * 2


class Scaled(nn.Module):
    """Has an input that is no tensor."""

    def forward(self, x: Tensor, by: float) -> Tensor:
        return x * by


class Writes(nn.Module):
    """Writes into its second input, by way of a view."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        y[0].add_(1)
        return x + y


class Counting(nn.Module):
    """Counts its calls, and gives what Doubled gives."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x * 2


class Doubled(nn.Module):
    """Twice its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Picky(nn.Module):
    """One row is another rank; no column is refused."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.squeeze(0) * 2, x.amax(1)


class Neighbours(nn.Module):
    """Differences of neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        return x[1:] - x[:-1]


class Reflected(nn.Module):
    """Takes four rows or more."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x.t().unsqueeze(0), [3, 3], mode="reflect")


class Short(nn.Module):
    """Something else from eleven rows on."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.shape[0] > 10 else x * 2


class Three(nn.Module):
    """Takes three rows, and gives them back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(3, 4)


class Even(nn.Module):
    """Takes an even number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 2, 4).sum(1)


class Filtered(nn.Module):
    """Branches on how many values there are of a kind, which torch.export cannot."""

    def forward(self, x: Tensor) -> Tensor:
        y = x[x > 0]
        return y.sum() if y.shape[0] > 3 else x.sum()


def archive(module: nn.Module, inputs: Any, shapes: Any, path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    ts_infer.export(
        module.eval(), inputs, path, dynamic_shapes=shapes, **{"audit": "fast", **options}
    )
    return path


def rows(low: int = 1, high: int = 50) -> Any:
    return Dim("rows", min=low, max=high)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A module and its package."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    module = Network()
    path = archive(module, (torch.randn(3, 4),), {"x": {0: rows()}}, folder / "network.pt")
    assert main(["compile", str(path)]) == 0
    return module, folder / "network.pt2"


def manifest_of(package: Path) -> dict[str, Any]:
    with zipfile.ZipFile(package) as file:
        name = next(n for n in file.namelist() if n.endswith("extra/ts_infer/manifest.json"))
        return dict(json.loads(file.read(name)))


def rewritten(package: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The package with every member changed, or left out where the change is None."""
    with zipfile.ZipFile(package) as whole, zipfile.ZipFile(target, "w") as part:
        for name in whole.namelist():
            data = change(name, whole.read(name))
            if data is not None:
                part.writestr(name, data)
    return target


def test_gives_what_the_module_gives_at_every_size(network: tuple[Network, Path]) -> None:
    module, package = network
    model = runtime.load(package)
    info = model.info()
    assert (info.executor, info.device, info.stateful) == ("aotinductor", "cpu", False)
    with torch.inference_mode():
        for rows in (1, 2, 3, 17, 50):
            x = torch.randn(rows, 4)
            torch.testing.assert_close(model(x), module(x))
            torch.testing.assert_close(model(x=x.numpy()), module(x))
        apart = torch.randn(4, 9).t()
        torch.testing.assert_close(model(apart), module(apart))
        shifted = torch.randn(21)[1:].view(5, 4)
        torch.testing.assert_close(model(shifted), module(shifted))


def test_inputs_are_checked_before_the_package_sees_them(network: tuple[Network, Path]) -> None:
    model = runtime.load(network[1])
    for wrong, what in (
        (torch.randn(51, 4), "at most 50"),
        (torch.randn(0, 4), "expected 1 or more"),
        (torch.randn(3, 5), "expected 4, got 5"),
        (torch.randn(4), "rank: expected 2, got 1"),
        (torch.randn(3, 4).double(), "expected float32"),
    ):
        with pytest.raises(ts_infer.InputError, match=what):
            model(wrong)
    assert model(torch.randn(3, 4)).shape == (3, 3)


def test_threads_and_clones_share_a_package(network: tuple[Network, Path]) -> None:
    module, package = network
    model = runtime.load(package)
    inputs = [torch.randn(1 + i % 50, 4) for i in range(60)]
    with torch.inference_mode():
        expected = [module(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool, torch.inference_mode():
        for which in (model, model.clone()):
            for ours, eager in zip(pool.map(which, inputs), expected, strict=True):
                torch.testing.assert_close(ours, eager)


def test_a_result_stays_with_its_owner(network: tuple[Network, Path]) -> None:
    model = runtime.load(network[1])
    x = torch.randn(3, 4)
    first = model(x)
    kept = first.clone()
    model(x + 1)
    del model
    first += 0
    torch.testing.assert_close(first, kept)


def test_verify_inspect_and_the_binary_take_it(
    network: tuple[Network, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    package = network[1]
    assert runtime.verify(package).ok
    info = runtime.read_model_info(package)
    assert (info.method, info.methods) == ("aotinductor", ["forward"])
    assert (info.code, info.operators, info.devices) == ({}, [], ["cpu"])
    command = ["python", "-m", "ts_infer"]
    run = [*command, "run", str(package), "--shape", "x=7x4", "--iterations", "2"]
    assert subprocess.run(run, check=False, timeout=120).returncode == 0
    assert "7x3" in capfd.readouterr().out
    inspect = [*command, "inspect", str(package)]
    assert subprocess.run(inspect, check=False, timeout=120).returncode == 0
    shown = capfd.readouterr().out
    assert "operators: not known, a package's code is native" in shown
    assert "restricted  not known" in shown
    assert main(["audit", str(package)]) == main(["compile", str(package)]) == 3
    assert capfd.readouterr().err.count("got an AOTInductor package") == 2


def test_the_manifest_says_what_it_is_compiled_for(network: tuple[Network, Path]) -> None:
    document = manifest_of(network[1])
    assert document["compiled"] == {"device": "cpu", "result": "tensor"}
    assert document["inputs"][0]["shape"] == [{"name": "rows", "min": 1, "max": 50}, 4]
    assert document["methods"] == ["forward"]


def test_nested_results_by_way_of_torch_export(tmp_path: Path) -> None:
    length = rows(2, 9)
    module = Nested()
    path = archive(
        module,
        (torch.randn(3, 4), torch.randn(3, 4)),
        {"a": {0: length}, "b": {0: length}},
        tmp_path / "nested.pt",
    )
    report = ts_infer.compile(path, tmp_path / "other.pt2", module)
    assert report.route == "torch.export"
    assert "rows=9" in report.compared
    model = runtime.load(tmp_path / "other.pt2")
    a, b = torch.randn(7, 4), torch.randn(7, 4)
    total, rest = model(a, b)
    expected_total, expected_rest = module(a, b)
    torch.testing.assert_close(total, expected_total)
    assert list(rest) == list(expected_rest)
    torch.testing.assert_close(rest, expected_rest)
    with pytest.raises(ts_infer.InputError, match="rows"):
        model(a, b[:3])


def test_a_loop_over_values_is_refused_with_its_line(tmp_path: Path) -> None:
    path = archive(Loop(), (torch.tensor([1.0, 2.0]),), None, tmp_path / "loop.pt")
    with pytest.raises(ts_infer.ExportError, match=r"(?s)prim::Loop.*while i < int\(x\.sum\(\)\)"):
        ts_infer.compile(path)
    assert [file.name for file in tmp_path.iterdir()] == ["loop.pt"]


@pytest.mark.parametrize(
    ("module", "inputs", "what"),
    [
        (Counter(), (torch.zeros(2),), "expected a model without state, got one that changes"),
        (Scaled(), (torch.zeros(2), 2.0), "the input by: expected a Tensor, got float"),
        (InDict(), ({"x": torch.zeros(2)},), "the input parts: expected a Tensor, got Dict"),
    ],
    ids=["state", "number", "dict"],
)
def test_what_a_package_cannot_hold_is_refused(
    module: nn.Module, inputs: Any, what: str, tmp_path: Path
) -> None:
    path = archive(module, inputs, None, tmp_path / "model.pt", audit="off")
    with pytest.raises(ts_infer.CompileError, match=what) as caught:
        ts_infer.compile(path)
    report = caught.value.report
    assert report is not None
    assert not report.ok
    assert re.match(what, report.refusal)
    assert report.path == str(tmp_path / "model.pt2")
    assert f"refused: {report.refusal}" in str(report)


def test_an_archive_without_a_manifest_is_refused(
    save_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(save_model(Network())), "--json", "-"]) == 6
    output = capsys.readouterr()
    assert output.err.startswith("ts_infer: [compile] model: ")
    assert "without a manifest" in output.err
    document = json.loads(output.out)
    assert (document["command"], document["ok"]) == ("compile", False)
    assert "without a manifest" in document["refusal"]
    assert document["machine"]["cpu"]


@pytest.mark.parametrize("way", ["archive", "relative", "symlink", "hardlink", "default"])
def test_the_archive_is_not_overwritten(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(Doubled(), (torch.randn(3, 4),), None, tmp_path / "model.pt2", audit="off")
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.pt2"
    if way == "symlink":
        other.symlink_to(path)
    elif way == "hardlink":
        other.hardlink_to(path)
    targets = {"archive": [str(path)], "relative": ["./model.pt2"], "default": []}
    target = targets.get(way, [str(other)])
    assert main(["compile", str(path), *(["-o", *target] if target else [])]) == 6
    error = capsys.readouterr().err
    assert error.startswith("ts_infer: [compile] model: the package would replace the archive: ")
    assert "torch.export" not in error
    assert path.read_bytes() == before


def test_a_missing_compiler_is_found_out_at_once(tmp_path: Path) -> None:
    path = archive(Doubled(), (torch.randn(3, 4),), None, tmp_path / "model.pt", audit="off")
    done = subprocess.run(
        [sys.executable, "-m", "ts_infer", "compile", str(path)],
        env={**os.environ, "CXX": "/nowhere/c++"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 6
    assert done.stderr == (
        "ts_infer: [compile] model: there is no C++ compiler: expected g++, or what CXX names, "
        "got nothing that runs as /nowhere/c++; install g++, or set CXX\n"
    )


@pytest.mark.parametrize("source", [False, True], ids=["TorchScript", "torch.export"])
def test_a_model_that_writes_into_an_input_is_refused(source: bool, tmp_path: Path) -> None:
    inputs = (torch.randn(3, 4), torch.randn(3, 4))
    path = archive(Writes(), inputs, None, tmp_path / "model.pt", allow=["input-mutated"])
    with pytest.raises(ts_infer.ExportError, match=r"the input y: expected.*writes into it"):
        ts_infer.compile(path, None, Writes().eval() if source else None)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_state_that_the_manifest_does_not_name_is_refused(tmp_path: Path) -> None:
    path = archive(Doubled(), (torch.randn(3, 4),), None, tmp_path / "model.pt", audit="off")
    with pytest.raises(ts_infer.ExportError, match=r"expected a model without state.*calls"):
        ts_infer.compile(path, None, Counting().eval())


@pytest.mark.parametrize(
    ("module", "low", "expected"),
    [
        (Network(), 0, (0, 50)),
        (Network(), 1, (1, 50)),
        (Reflected(), 1, (4, 50)),
        (Short(), 1, (1, 10)),
        (Neighbours(), 0, (3, 50)),
    ],
    ids=["from 0", "from 1", "as torch finds", "up to a branch", "neighbours"],
)
def test_a_range_is_what_the_program_takes(
    module: nn.Module, low: int, expected: tuple[int, int]
) -> None:
    example = Example(("x",), (torch.randn(6, 4),), by_keyword=False)
    declared = shapes.parse({"x": {0: rows(low)}}, example)
    program, dynamic = compiling._export(module.eval(), example, declared)
    assert (dynamic.dims["rows"].min, dynamic.dims["rows"].max) == expected
    (found,) = program.range_constraints.values()
    assert (max(found.lower, low), found.upper) == expected


@pytest.mark.parametrize(
    ("module", "inputs", "dims", "what"),
    [
        (Three(), (3,), ("rows",), r"of rows \[1, 50\].*specialized it to be a constant \(3\);"),
        (Even(), (4,), ("rows",), r"of rows \[1, 50\].*generated guard \(\(4\*rows\) % 8\) == 0;"),
        (Pair(), (3, 3), ("rows", "more"), "The values of more and rows must always be equal;"),
    ],
    ids=["constant", "divisible", "equal"],
)
def test_a_range_that_torch_does_not_take_is_refused_in_a_sentence(
    module: nn.Module, inputs: Any, dims: Any, what: str, tmp_path: Path
) -> None:
    tensors = tuple(torch.randn(size, 4) for size in inputs)
    ranges = tuple({0: Dim(name, min=1, max=50)} for name in dims)
    path = archive(module, tensors, ranges, tmp_path / "model.pt", audit="off", method="script")
    with pytest.raises(ts_infer.ExportError, match=what) as raised:
        ts_infer.compile(path)
    assert "\n" not in str(raised.value)
    assert "L[" not in str(raised.value)


def test_sizes_that_come_out_otherwise_are_left_out_and_the_report_says_what_was_not_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = archive(
        Picky(),
        (torch.randn(3, 4),),
        {"x": {0: rows(), 1: Dim("columns", min=0, max=2**22)}},
        tmp_path / "model.pt",
        audit="off",
        method="script",
        warmup_shapes=[{"x": [7, 9]}, {"x": [1, 9]}],
    )
    capfd.readouterr()
    left_out = (
        "left out, it would not be what the archive gives: at rows=1, columns=4: the output[0]: "
        "expected shape [4], got [1, 4]"
    )
    with caplog.at_level(logging.INFO, "ts_infer.compile"):
        report = ts_infer.compile(path)
    assert capfd.readouterr() == ("", "")
    assert [record.message.removeprefix("compiling model.pt: ") for record in caplog.records] == [
        "torch.export",
        "AOTInductor, 10 s to minutes",
        "comparing",
        left_out,
        "torch.export",
        "AOTInductor, 10 s to minutes",
        "comparing",
    ]
    notes = "\n".join(report.notes)
    assert "rows is compiled for [2, 50], the archive takes [1, 50]" in notes
    assert "columns is compiled" not in notes
    assert "rows=3, columns=0: not compared, the archive refuses it: " in notes
    assert "columns=4194304 was not checked" in notes
    document = manifest_of(tmp_path / "model.pt2")
    assert document["inputs"][0]["shape"] == [
        {"name": "rows", "min": 2, "max": 50},
        {"name": "columns", "min": 0, "max": 2**22},
    ]
    assert document["warmup_shapes"][0] == {"x": [7, 9]}
    assert {"x": [1, 9]} not in document["warmup_shapes"]
    assert {"x": [50, 2**22]} in document["warmup_shapes"]
    model = runtime.load(tmp_path / "model.pt2", warmup="off")
    x = torch.randn(5, 11)
    torch.testing.assert_close(model(x), Picky()(x))


def test_another_module_than_the_archives_is_refused(tmp_path: Path) -> None:
    path = archive(Doubled(), (torch.randn(3, 4),), None, tmp_path / "model.pt", audit="off")
    with pytest.raises(
        ts_infer.CompileError, match="what the archive gives at the example: the out"
    ) as caught:
        ts_infer.compile(path, None, Three().eval())
    assert caught.value.report is not None
    assert caught.value.report.route == "torch.export"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_the_command_says_where_it_is_and_keeps_torchs_graphs_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = archive(
        Filtered(), (torch.randn(3, 4),), None, tmp_path / "model.pt", audit="off", method="script"
    )
    monkeypatch.syspath_prepend(Path(__file__).parent)
    module = "test_compile:filtered"
    assert main(["compile", str(path), "--module", module]) == 6
    out, error = capfd.readouterr()
    assert out == ""
    first, second = error.splitlines()
    assert first == "compiling model.pt: torch.export"
    assert second.startswith("ts_infer: [compile] model: torch.export refuses it: GuardOnData")


def filtered() -> tuple[nn.Module, tuple[Tensor]]:
    """A factory for --module."""
    return Filtered().eval(), (torch.randn(3, 4),)


def test_a_package_that_says_nothing_about_its_inputs_is_refused(
    network: tuple[Network, Path], tmp_path: Path
) -> None:
    bare = rewritten(
        network[1], tmp_path / "bare.pt2", lambda name, data: None if "/extra/" in name else data
    )
    with pytest.raises(ts_infer.ModelLoadError, match="ts_infer compile"):
        runtime.load(bare)


def test_a_package_for_another_processor_is_refused(
    network: tuple[Network, Path], tmp_path: Path
) -> None:
    def elsewhere(name: str, data: bytes) -> bytes:
        if not name.endswith("_metadata.json"):
            return data
        return json.dumps(json.loads(data) | {"AOTI_MACHINE": "aarch64"}).encode()

    other = rewritten(network[1], tmp_path / "other.pt2", elsewhere)
    with pytest.raises(ts_infer.ModelLoadError, match="expected a processor with aarch64"):
        runtime.load(other)


def test_a_program_of_torch_export_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(Network().eval(), (torch.randn(3, 4),), strict=False)
    path = tmp_path / "program.pt2"
    torch.export.save(program, path)
    with pytest.raises(ts_infer.ModelLoadError, match=r"torch\.export program"):
        runtime.load(path)


def test_a_damaged_package_is_refused(network: tuple[Network, Path], tmp_path: Path) -> None:
    data = bytearray(network[1].read_bytes())
    at = data.find(b"\x7fELF") + 5000
    data[at] ^= 1
    (tmp_path / "damaged.pt2").write_bytes(data)
    with pytest.raises(ts_infer.ModelLoadError, match="CRC-32"):
        runtime.load(tmp_path / "damaged.pt2")
    with pytest.raises(ts_infer.ModelLoadError, match="in memory"):
        runtime.load(io.BytesIO(network[1].read_bytes()).getvalue())

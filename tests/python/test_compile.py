"""AOTInductor packages: made by `ts_infer.compile`, run by the runtime."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import Counter
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


class Scaled(nn.Module):
    """Has an input that is no tensor."""

    def forward(self, x: Tensor, by: float) -> Tensor:
        return x * by


def archive(module: nn.Module, inputs: Any, shapes: Any, path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    ts_infer.export(
        module.eval(), inputs, path, dynamic_shapes=shapes, audit=options.pop("audit", "fast")
    )
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A module and its package."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    module = Network()
    rows = Dim("rows", min=1, max=50)
    path = archive(module, (torch.randn(3, 4),), {"x": {0: rows}}, folder / "network.pt")
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
    command = ["python", "-m", "ts_infer"]
    run = [*command, "run", str(package), "--shape", "x=7x4", "--iterations", "2"]
    assert subprocess.run(run, check=False, timeout=120).returncode == 0
    assert "7x3" in capfd.readouterr().out


def test_the_manifest_says_what_it_is_compiled_for(network: tuple[Network, Path]) -> None:
    document = manifest_of(network[1])
    assert document["compiled"] == {"device": "cpu", "result": "tensor"}
    assert document["inputs"][0]["shape"] == [{"name": "rows", "min": 1, "max": 50}, 4]
    assert document["methods"] == ["forward"]


def test_nested_results_by_way_of_torch_export(tmp_path: Path) -> None:
    rows = Dim("rows", min=2, max=9)
    module = Nested()
    path = archive(
        module,
        (torch.randn(3, 4), torch.randn(3, 4)),
        {"a": {0: rows}, "b": {0: rows}},
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
    ],
    ids=["state", "number"],
)
def test_what_a_package_cannot_hold_is_refused(
    module: nn.Module, inputs: Any, what: str, tmp_path: Path
) -> None:
    path = archive(module, inputs, None, tmp_path / "model.pt", audit="off")
    with pytest.raises(ts_infer.ExportError, match=what):
        ts_infer.compile(path)


def test_an_archive_without_a_manifest_is_refused(
    save_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(save_model(Network()))]) == 6
    assert "without a manifest" in capsys.readouterr().err


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

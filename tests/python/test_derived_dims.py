"""Derived dims: sizes that are a factor times a dim, `32 * Dim("h")`, from export to the check."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import archive_bytes
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer._export import arguments, shapes

if TYPE_CHECKING:
    from pathlib import Path


class UNet(nn.Module):
    """Halves an image twice and doubles it twice: its skips fit only multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList([nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)])
        self.up = nn.ModuleList([nn.Conv2d(8, 4, 3, 1, 1), nn.Conv2d(5, 1, 3, 1, 1)])

    def forward(self, image: Tensor, weights: Tensor) -> dict[str, Tensor]:
        skips = []
        x = image
        for layer in self.down:
            skips.append(x)
            x = layer(x).relu()
        code = x * weights
        for layer in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0)
            x = layer(torch.cat([x, skips.pop()], 1))
        return {"image": x, "code": code}


def inputs(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    image = torch.randn(1, 1, 4 * height, 4 * width, generator=generator)
    return image, torch.randn(height, width, generator=generator)


H, W = Dim("h", min=1, max=6), Dim("w", min=1, max=6)
SHAPES = {"image": {2: 4 * H, 3: 4 * W}, "weights": {0: H, 1: W}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("derived") / "unet.pt"
    report = ts_infer.export(UNet().eval(), inputs(2, 3), path, dynamic_shapes=SHAPES)
    assert not report.findings
    assert report.method == "trace"
    return path


def test_every_multiple_is_right(archive: Path) -> None:
    model, module = runtime.load(archive, device="cpu"), UNet().eval()
    for height, width in ((1, 1), (2, 3), (6, 5)):
        given = inputs(height, width)
        with torch.no_grad():
            torch.testing.assert_close(model(*given), module(*given))


def test_signature_shows_factors_of_inputs_and_outputs(archive: Path) -> None:
    signature = runtime.load(archive).signature
    image = signature.inputs[0]
    assert image.shape is not None
    height = image.shape[2]
    assert (height.name, height.min, height.max) == ("h", 4, 24)
    assert (height.factor, height.offset) == (4, 0)
    assert repr(height) == "<Dim 4*h=4..24>"
    texts = [str(spec) for spec in (*signature.inputs, *signature.outputs)]
    assert texts == [
        "image: float32[1, 1, 4*h=4..24, 4*w=4..24]",
        "weights: float32[h=1..6, w=1..6]",
        "image: float32[1, 1, 4*h=4..24, 4*w=4..24]",
        "code: float32[1, 4, h=1..6, w=1..6]",
    ]


@pytest.mark.parametrize(
    ("image", "weights", "text"),
    [
        ([10, 12], [2, 3], r"dimension 2: expected 4 or more and at most 24, in steps of 4 \(h\)"),
        ([28, 12], [7, 3], r"dimension 2: expected 4 or more and at most 24, in steps of 4 \(h\)"),
        ([8, 12], [2, 4], r'"weights": dimension 1: expected 3, as "w" is elsewhere .*, got 4'),
    ],
)
def test_other_sizes_are_refused(
    image: list[int], weights: list[int], text: str, archive: Path
) -> None:
    with pytest.raises(ts_infer.InputError, match=text):
        runtime.load(archive)(torch.zeros(1, 1, *image), torch.zeros(weights))


@pytest.mark.parametrize(
    ("shape", "image", "weights"),
    [("image=1x1x16x8", "1x1x16x8", "4x2"), ("weights=5x6", "1x1x20x24", "5x6")],
)
def test_binary_draws_sizes_that_fit(shape: str, image: str, weights: str, archive: Path) -> None:
    command = ["ts_infer", "run", str(archive), "--shape", shape]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"input image is random: float32 {image}" in run.stderr
    assert f"input weights is random: float32 {weights}" in run.stderr


@pytest.mark.slow
def test_coldstart_draws_sizes_that_fit(archive: Path) -> None:
    command = ["ts_infer", "coldstart", str(archive), "--calls", "3"]
    subprocess.run(command, capture_output=True, check=True)


def test_archive_is_audited_at_its_own_sizes(archive: Path) -> None:
    report = ts_infer.audit(archive, audit="full")
    assert report.ok
    sizes = next(probe for probe in report.probes if probe.name == "sizes")
    assert sizes.outcome == "passed"


@pytest.mark.slow
def test_compiled_package_takes_the_multiples(archive: Path, tmp_path: Path) -> None:
    package = tmp_path / "unet.pt2"
    ts_infer.compile(archive, package)
    model, module = runtime.load(package), UNet().eval()
    for height, width in ((2, 3), (6, 5)):
        given = inputs(height, width)
        with torch.no_grad():
            torch.testing.assert_close(model(*given), module(*given))
    with pytest.raises(ts_infer.InputError, match="in steps of 4"):
        model(torch.zeros(1, 1, 10, 12), torch.zeros(2, 3))


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(0, 3, 2).mean(1)


def test_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "windows.pt"
    odd = {"x": {0: 2 * Dim("windows", min=1, max=9) + 1}}
    ts_infer.export(Windows().eval(), torch.randn(7), path, dynamic_shapes=odd)
    model = runtime.load(path)
    assert str(model.signature.inputs[0]) == "x: float32[2*windows+1=3..19]"
    assert str(model.signature.outputs[0]) == "output_0: float32[windows=1..9]"
    assert model(torch.ones(11)).shape == (5,)
    with pytest.raises(ts_infer.InputError, match="in steps of 2"):
        model(torch.ones(10))


def dims(spec: Any, *sizes: int) -> shapes.DynamicShapes:
    values = torch.zeros(sizes)
    example = arguments.bind(nn.Identity(), values)
    return shapes.parse({"input": spec}, example)


def test_dims_without_a_limit() -> None:
    parsed = dims({0: 3 * Dim("n")}, 6)
    assert parsed.dims["n"] == shapes.DynamicDim("n", 0, None, 2)
    assert parsed.places == {(0,): {0: shapes.Axis("n", 3)}}


@pytest.mark.parametrize(
    ("spec", "sizes", "text"),
    [
        (
            {0: 4 * Dim("n", max=8)},
            (6,),
            r"a size of 4\*n with n within \[0, 8\], got 6",
        ),
        ({0: 4 * Dim("n", max=8)}, (36,), r"a size of 4\*n with n within \[0, 8\], got 36"),
        ({0: Dim("n"), 1: 2 * Dim("n") - 1}, (3, 7), "the one size of Dim 'n', 5 as before, got 7"),
    ],
)
def test_an_example_that_does_not_fit(spec: Any, sizes: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dims(spec, *sizes)


def test_warmup_shapes_are_multiples(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dynamic_shapes": {"x": {0: 2 * Dim("n", min=1, max=9) + 1}}}
    given = Windows().eval(), torch.randn(7), tmp_path / "windows.pt"
    with pytest.raises(ValueError, match=r"expected a size of 2\*n \+ 1 with n within \[1, 9\]"):
        ts_infer.export(*given, warmup_shapes=[{"x": [8]}], **options)
    ts_infer.export(*given, warmup_shapes=[{"x": [9]}], **options)
    assert runtime.load(given[2])(torch.ones(9)).shape == (4,)


def manifest_with(dim: dict[str, Any]) -> dict[str, Any]:
    inputs = [{"name": "x", "dtype": "float32", "shape": [dim]}]
    return {"schema": 1, "name": "windows", "inputs": inputs}


@pytest.mark.parametrize("factor", [0, -1, 2.5])
def test_a_manifest_with_another_factor(factor: float) -> None:
    dim = {"name": "n", "min": 1, "max": 8, "factor": factor}
    manifest = {
        "schema": 1,
        "name": "m",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [dim]}],
    }
    with pytest.raises(ts_infer.ModelLoadError, match="its manifest is not of schema 1"):
        runtime.load(archive_bytes(Windows(), manifest))


def test_a_manifest_with_numbers_at_the_limit() -> None:
    dim = {"name": "n", "min": 1, "max": None, "factor": 2**62, "offset": -(2**63)}
    manifest = {
        "schema": 1,
        "name": "m",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [dim]}],
    }
    model = runtime.load(archive_bytes(Windows(), manifest), warmup="off")
    with pytest.raises(ts_infer.InputError, match="expected 1 or more"):
        model(torch.ones(5))

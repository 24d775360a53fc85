"""Products in reduced precision: only where asked for, with the error in info()."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import script
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import RunBinary


class Linears(nn.Module):
    """Linears; the inputs of the last are odd in number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(38, 21)
        self.last = nn.Linear(21, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(functional.relu(self.first(x)))
        return y


class Convolutions(nn.Module):
    """Convolutions with stride, dilation, groups, odd channels; a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 42, 3, padding=1, stride=2)
        self.c = nn.Conv2d(42, 42, 3, padding=2, dilation=2)
        self.d = nn.Conv2d(42, 36, 1, groups=3)
        self.e = nn.ConvTranspose2d(36, 7, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.b(functional.relu(self.a(x))))
        z: Tensor = self.e(self.d(functional.relu(self.c(y))))
        return z


class Between(nn.Module):
    """Convolutions whose outputs convolutions read: by a sum, pooling and a list, and one not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(32, 6, 1)
        self.odd = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = functional.relu(self.first(x))
        z = functional.relu(self.second(y) + y)
        small = functional.max_pool2d(torch.cat([y, z], 1), 2)
        third = self.third(small)
        return self.odd(third[:, :3]), self.third(small)


class Counting(nn.Module):
    """A linear, and how often it was called."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.add_(1)
        return self.linear(x), self.calls.clone()


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().double()


def by_hand(module: nn.Module, x: Tensor) -> Tensor:
    """What eager gives where layers of even or few inputs round them and their weights."""
    wide = type(module)().double()
    wide.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    for layer in wide.children():
        assert isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
        inputs = layer.weight.shape[int(not isinstance(layer, nn.ConvTranspose2d))]
        few = isinstance(layer, nn.Conv2d) and layer.kernel_size[1] > 1 and inputs < 4
        if few or inputs % 2 == 0:
            layer.weight.data = rounded(layer.weight)
            layer.register_forward_pre_hook(lambda _, args: (rounded(args[0]),))
    result: Tensor = wide(x.double()).float()
    return result


@pytest.fixture(scope="module")
def linears(tmp_path_factory: pytest.TempPathFactory) -> tuple[Linears, Path]:
    torch.manual_seed(0)
    module = Linears().eval()
    path = tmp_path_factory.mktemp("precision") / "linears.pt"
    rows = Dim("rows", min=1, max=70)
    ts_infer.export(
        module, (torch.randn(3, 38),), path, dynamic_shapes={"x": {0: rows}}, audit="fast"
    )
    return module, path


def decision(model: runtime.Model, start: str) -> str:
    return next(text for text in model.info().decisions if text.startswith(start))


def load_bf16(path: Path) -> runtime.Model:
    model = runtime.load(path, precision="bf16")
    if model.info().precision == "fp32":
        assert "AVX512_BF16" in decision(model, "precision fp32, not bf16")
        pytest.skip("this processor has no AVX512_BF16: the model runs in fp32, and says so")
    return model


def test_linears_multiply_rounded_numbers(linears: tuple[Linears, Path]) -> None:
    module, path = linears
    model = load_bf16(path)
    assert decision(model, "precision bf16") == "precision bf16: 2 products"
    with torch.inference_mode():
        for rows in (1, 2, 3, 4, 5, 64, 67):
            x = torch.randn(rows, 38)
            torch.testing.assert_close(model(x), by_hand(module, x), rtol=1e-5, atol=2e-6)
            torch.testing.assert_close(model(x), module(x), rtol=0.05, atol=0.05)


def test_convolutions_multiply_rounded_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Convolutions().eval()
    script(module).save(tmp_path / "model.pt")
    model = load_bf16(tmp_path / "model.pt")
    with torch.inference_mode():
        for height, width in ((1, 1), (9, 14), (33, 20)):
            x = torch.randn(2, 3, height, width)
            expected = by_hand(module, x)
            # One step of rounding between layers may fall on the other side.
            torch.testing.assert_close(model(x), expected, rtol=1e-2, atol=2e-3)
            different = ((model(x) - expected).abs() > 1e-5).double().mean()
            assert different < 0.5
            assert (model(x) - module(x)).abs().max() > 1e-4


def test_what_only_such_convolutions_read_is_rounded_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Between().eval()
    script(module).save(tmp_path / "model.pt")
    model = load_bf16(tmp_path / "model.pt")

    def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
        assert layer.bias is not None
        return functional.conv2d(
            rounded(x), rounded(layer.weight), layer.bias.double(), padding=layer.padding
        )

    with torch.inference_mode():
        for height, width in ((2, 2), (9, 14), (33, 20)):
            x = torch.randn(2, 4, height, width)
            y = rounded(functional.relu(convolve(module.first, x)))
            z = functional.relu(convolve(module.second, y) + y)
            small = functional.max_pool2d(torch.cat([y, z], 1), 2)
            third = convolve(module.third, small).float()
            odd, ours = model(x)
            torch.testing.assert_close(ours, third, rtol=1e-3, atol=2e-3)
            assert ((ours - third).abs() > 1e-5).double().mean() < 0.1
            torch.testing.assert_close(odd, module.odd(ours[:, :3]), rtol=1e-5, atol=1e-5)


def test_the_error_against_the_golden_sample_is_in_info(linears: tuple[Linears, Path]) -> None:
    path = linears[1]
    timings: list[object] = []
    assert runtime.load(path).info().precision == "fp32"
    assert runtime.load(path).info().precision_error is None
    load_bf16(path)
    model = runtime.load(path, precision="bf16", warmup="off", on_timing=timings.append)
    error = model.info().precision_error
    assert error is not None
    assert 1e-5 < error < 0.02
    assert f"{error:.4g}"[:4] in decision(model, "precision bf16: the golden")
    assert model.stats().count == 0
    assert not timings
    assert "measure precision" in [step.name for step in model.info().load_steps]
    # The file's tolerance is for fp32: verify says that these outputs are not those.
    assert runtime.verify(path).ok
    assert not runtime.verify(path, precision="bf16").ok


def test_without_a_golden_sample_the_error_is_unknown(tmp_path: Path) -> None:
    script(Linears().eval()).save(tmp_path / "model.pt")
    model = load_bf16(tmp_path / "model.pt")
    assert model.info().precision_error is None
    assert decision(model, "the error of precision bf16 is not known")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": "fp16"}, "on the host"),
        ({"precision": "bf16", "executor": "legacy"}, "the executor legacy"),
        ({"precision": "bf16", "disabled_passes": ["linear"]}, "product|AVX512"),
    ],
    ids=["fp16", "legacy", "disabled"],
)
def test_what_cannot_be_had_stays_in_fp32_and_info_says_why(
    options: dict[str, Any], why: str, linears: tuple[Linears, Path]
) -> None:
    module, path = linears
    model = runtime.load(path, **options)
    assert model.info().precision == "fp32"
    assert model.info().precision_error is None
    assert re.search(why, decision(model, "precision fp32, not"))
    x = torch.randn(4, 38)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x), rtol=1e-5, atol=1e-6)


def test_measuring_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "counting.pt"
    ts_infer.export(Counting().eval(), (torch.ones(1, 4),), path, audit="off")
    model = load_bf16(path)
    assert model.info().stateful
    assert model.info().precision_error is not None
    counts = [model(torch.ones(1, 4))[1].item() for _ in range(2)]
    assert counts == [1, 2]
    assert model.clone()(torch.ones(1, 4))[1].item() == 3


def test_an_unknown_precision_is_refused(linears: tuple[Linears, Path]) -> None:
    with pytest.raises(ts_infer.ModelLoadError, match='expected fp32 or bf16 or fp16, got "int8"'):
        runtime.load(linears[1], precision="int8")


def test_the_binary_takes_it(linears: tuple[Linears, Path], ts_infer: RunBinary) -> None:
    load_bf16(linears[1])
    done = ts_infer("run", linears[1], "--precision", "bf16", "--json", "-")
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert model["precision"] == "bf16"
    assert 0 < model["precision_error"] < 0.02


@pytest.mark.parametrize("command", ["run", "bench", "verify"])
def test_the_terminal_says_what_came_of_it(
    linears: tuple[Linears, Path], ts_infer: RunBinary, command: str
) -> None:
    more = ["--duration", 0.05] if command == "bench" else []
    done = ts_infer(command, linears[1], *more, "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ts_infer: \S+: precision fp32, not fp16: ", done.stderr, re.MULTILINE)
    assert re.search(r"^\S+ on cpu, executor prepared, precision fp32, ", done.stdout)
    plain = ts_infer(command, linears[1], *more)
    assert ", precision" not in plain.stdout
    assert "precision fp32" not in plain.stderr


def test_the_terminal_says_that_it_was_taken(
    linears: tuple[Linears, Path], ts_infer: RunBinary
) -> None:
    load_bf16(linears[1])
    done = ts_infer("run", linears[1], "--precision", "bf16")
    assert "executor prepared, precision bf16, 1 call" in done.stdout
    assert re.search(r"^ts_infer: \S+: precision bf16: \d+ products$", done.stderr, re.MULTILINE)

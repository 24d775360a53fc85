"""Convolutions run by own kernels, channels last, and give what eager gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import intra_op_threads, uses_own_kernels
from torch import Tensor, nn
from torch.nn import functional

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from conftest import SaveModel


def check(model: runtime.Model, module: nn.Module, *inputs: Tensor) -> None:
    with torch.inference_mode():
        ours, eager = model(*inputs), module(*inputs)
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert ours.is_contiguous() == eager.is_contiguous()


def check_all(model: runtime.Model, module: nn.Module, *inputs: Tensor | int) -> None:
    """Several outputs, each in torch's own layout."""
    with torch.inference_mode():
        for ours, eager in zip(model(*inputs), module(*inputs), strict=True):
            torch.testing.assert_close(ours, eager)
            assert ours.stride() == eager.stride()


def with_statistics(module: nn.Module) -> nn.Module:
    """Gives batch norms statistics as training would."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.GELU(), nn.SiLU()], ids=str)
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options"),
    [
        (1, 1, 1, {}),
        (3, 24, 7, {"stride": 2, "padding": 3}),
        (3, 5, (3, 1), {"padding": (1, 0)}),
        (1, 17, (1, 5), {"stride": (1, 3), "padding": (0, 4)}),
        (20, 33, 3, {"padding": 1, "bias": False}),
        (20, 16, 3, {"dilation": 2}),
        (3, 16, 3, {"dilation": (1, 2), "padding": 2}),
        (37, 70, 1, {"stride": 2}),
        (4, 4, 2, {"stride": 2}),
        (350, 70, 3, {"padding": 1}),  # the weights of 64 outputs are more than a cache holds
        (4, 8, 3, {"padding": 7}),  # pixels that see zeros only
        (16, 64, (3, 2), {"padding": (2, 1), "stride": (2, 1), "dilation": (2, 1)}),
        (24, 40, 3, {"groups": 2, "padding": 1}),
        (32, 16, (1, 3), {"groups": 4, "stride": 2, "bias": False}),
        (35, 35, 3, {"groups": 35, "padding": 1}),
        (48, 48, (5, 3), {"groups": 48, "padding": 2, "stride": (1, 2), "dilation": (1, 2)}),
    ],
)
def test_equals_eager_at_every_size(
    channels: int,
    outputs: int,
    kernel: int | tuple[int, int],
    options: dict[str, Any],
    activation: nn.Module | None,
    save_model: SaveModel,
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, outputs, kernel, **options)]
    module = nn.Sequential(*layers, *([activation] if activation else []))
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "1 convolution")
    for images, height, width in ((1, 8, 8), (1, 9, 31), (3, 12, 11), (2, 30, 40)):
        x = torch.randn(images, channels, height, width)
        check(model, module, x)
        check(model, module, x[:1].squeeze(0))  # without a batch
        with torch.inference_mode():
            together = x.contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(model(together), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options"),
    [
        (1, 1, 1, {}),
        (20, 33, 2, {"stride": 2}),
        (6, 16, 3, {"stride": 2, "padding": 1, "output_padding": 1}),
        (6, 5, 4, {"stride": 2, "padding": 1, "bias": False}),
        (3, 18, (3, 2), {"stride": (1, 3), "padding": (1, 0)}),  # a phase that no place reaches
        (8, 8, 3, {"stride": 3, "dilation": 2, "padding": 2}),
        (8, 8, (5, 4), {"stride": (4, 2), "dilation": (2, 3), "output_padding": (1, 0)}),
        (16, 16, 3, {"padding": 1, "dilation": 2}),
    ],
)
def test_transposed_equals_eager_at_every_size(
    channels: int,
    outputs: int,
    kernel: int | tuple[int, int],
    options: dict[str, Any],
    save_model: SaveModel,
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(channels, outputs, kernel, **options), nn.ReLU())
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "1 convolution")
    for images, height, width in ((1, 1, 2), (1, 8, 8), (2, 9, 31), (3, 30, 1)):
        x = torch.randn(images, channels, height, width)
        check(model, module, x)
        check(model, module, x[:1].squeeze(0))


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel", "options"),
    [
        (8, 8, 5, {"groups": 8, "padding": 2}),
        (1, 8, 5, {}),
        (40, 24, 3, {"padding": 1, "stride": 2}),
        (16, 16, 4, {"dilation": 3, "padding": 6}),
        (5, 20, 1, {"bias": False}),
    ],
)
def test_one_dimension_equals_eager(
    channels: int, outputs: int, kernel: int, options: dict[str, Any], save_model: SaveModel
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(channels, outputs, kernel, **options), nn.ReLU())
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "1 convolution")
    for images, length in ((1, 10), (4, 33), (2, 200)):
        check(model, module, torch.randn(images, channels, length))


def test_one_dimension_transposed_equals_eager(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ConvTranspose1d(8, 6, 5, stride=3, padding=1))
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "2 convolutions")
    for images, length in ((1, 10), (4, 33)):
        check(model, module, torch.randn(images, 4, length))


class UNet(nn.Module):
    """Down and up again, beside what was there before; one of the lists is also looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.below = nn.Conv2d(16, 20, 3, padding=1, stride=2)
        self.up = nn.ConvTranspose2d(20, 16, 2, stride=2)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.last = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = functional.relu(self.first(x))
        both = torch.cat([y, self.up(functional.relu(self.below(y)))], dim=1)
        parts = [y, y + 1]
        aside = torch.cat(parts, dim=2).flatten()
        return self.last(functional.relu(self.deep(both))), aside, parts[1]


def test_a_u_net_equals_eager(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = UNet()
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "5 convolutions")
    for height, width in ((8, 8), (30, 44)):
        x = torch.randn(2, 3, height, width)
        check_all(model, module, x)


class Block(nn.Module):
    """The block of a residual network."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm(self.first(x)), inplace=True)
        y = self.second_norm(self.second(y))
        y += x
        return functional.relu(y, inplace=True)


def test_a_residual_networks_block_equals_eager(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = with_statistics(
        nn.Sequential(
            nn.Conv2d(3, 24, 7, stride=2, padding=3),
            nn.MaxPool2d(3, stride=2, padding=1),
            Block(),
            Block(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 10),
        )
    )
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "5 convolutions, 1 linear")
    for height, width in ((32, 32), (47, 65)):
        check(model, module, torch.randn(2, 3, height, width))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("channels", "outputs", "size"), [(64, 256, 14), (32, 32, 56)])
def test_is_shared_by_the_threads(
    channels: int, outputs: int, size: int, threads: int, save_model: SaveModel
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU())
    model = runtime.load(save_model(module))
    with intra_op_threads(threads):
        check(model, module, torch.randn(1, channels, size, size))


class Sums(nn.Module):
    """Adds what broadcasts, itself, and a number; writes to what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor, add: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        broadcast = functional.relu(self.conv(x) + add)
        y = self.other(x)
        twice = y + y
        x = x * 2
        z = self.conv(x)
        x.add_(1)
        late = z + x
        y.mul_(3)
        return broadcast, twice, late, y


def test_sums_of_every_kind_equal_eager(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = Sums()
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "convolutions")
    x = torch.randn(1, 4, 5, 6)
    for shape in ((1, 4, 5, 6), (4, 1, 1), (6,), (3, 4, 5, 6), (1, 1, 5, 6)):
        add = torch.randn(shape)
        with torch.inference_mode():
            for ours, eager in zip(model(x, add), module(x, add), strict=True):
                torch.testing.assert_close(ours, eager)


class Views(nn.Module):
    """Looks at convolutions' outputs in ways that need torch's own layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor, often: int) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.sigmoid(self.conv(x))
        flat = y.view(y.size(0), -1)
        for _ in range(often):
            y = functional.silu(y) + 1
        patches = functional.unfold(y, 2)
        return flat, patches, torch.cat([y, y * 2], 1).view(-1)


def test_what_needs_torchs_layout_gets_it(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = Views()
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "1 convolution")
    x = torch.randn(2, 3, 9, 7)
    check_all(model, module, x, 3)


class Scaled(nn.Module):
    """Computes with numbers beside the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 3)

    def forward(self, x: Tensor, rate: int) -> Tensor:
        if rate % 2 == 0:
            rate = rate * 3 - 1
        scaled: Tensor = self.conv(x) * (rate / 4 + 0.5)
        return scaled


def test_sums_of_numbers_stay_numbers(save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = Scaled()
    model = runtime.load(save_model(module))
    assert uses_own_kernels(model, "1 convolution")
    x = torch.randn(1, 2, 9)
    for rate in (3, 8):
        with torch.inference_mode():
            torch.testing.assert_close(model(x, rate), module(x, rate))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_propagates_nan_and_infinity(value: float, save_model: SaveModel) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU())
    model = runtime.load(save_model(module))
    x = torch.randn(1, 2, 6, 6)
    x[0, 1, 3, 3] = value
    check(model, module, x)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 8, 3, groups=2),
        nn.Conv3d(4, 8, 3),
        nn.Conv2d(4, 8, 3, padding="same"),
        nn.Conv2d(4, 8, 3).double(),
    ],
    ids=str,
)
def test_the_rest_stays_with_torch_and_equals_eager(
    module: nn.Module, save_model: SaveModel
) -> None:
    torch.manual_seed(0)
    model = runtime.load(save_model(nn.Sequential(module)))
    sizes = (2, 4, 6, 7, 8) if isinstance(module, nn.Conv3d) else (2, 4, 6, 7)
    x = torch.randn(sizes, dtype=next(module.parameters()).dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), module(x))


def test_refuses_as_torch_does(save_model: SaveModel) -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3))
    model = runtime.load(save_model(module))
    for sizes in ((1, 3, 9, 9), (1, 4, 2, 9), (9, 9)):
        with pytest.raises(ts_infer.ExecutionError):
            model(torch.randn(sizes))
    check(model, module, torch.randn(0, 4, 9, 9))
    check(model, module, torch.randn(1, 4, 3, 3))

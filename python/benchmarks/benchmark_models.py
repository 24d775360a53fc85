"""The models that first_calls.py measures: how each is exported, and inputs of many sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim

from ts_infer.models import densetnt

if TYPE_CHECKING:
    from collections.abc import Callable

Sizes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Benchmark:
    """A model, its dynamic dimensions, and inputs of any sizes of them."""

    spec: dict[str, Any]  # keyword arguments of ts_infer.export
    ranges: dict[str, tuple[int, int]]  # of the dynamic dimensions; empty: nothing is dynamic
    inputs: Callable[[Sizes, int], tuple[Tensor, ...]]  # for one size a range, and a seed

    def draw(self, count: int) -> list[Sizes]:
        """Returns sizes that all differ, each evenly distributed over its range by ratio."""
        rng = random.Random(0)
        drawn: dict[Sizes, None] = {}
        while len(drawn) < count:
            sizes = tuple(
                min(high, int(low * ((high + 1) / low) ** rng.random()))
                for low, high in self.ranges.values()
            )
            drawn.setdefault(sizes)
        return list(drawn)

    def smallest(self) -> Sizes:
        """Returns the lower ends of the ranges."""
        return tuple(low for low, _ in self.ranges.values())

    def middle(self) -> Sizes:
        """Returns the sizes half way, by ratio, between the ends of the ranges."""
        return tuple(round((low * high) ** 0.5) for low, high in self.ranges.values())


def _dims(ranges: dict[str, tuple[int, int]]) -> list[Any]:
    return [Dim(name, min=low, max=high) for name, (low, high) in ranges.items()]


def seeded(module: Callable[[], nn.Module]) -> nn.Module:
    """Returns a module with weights that are the same each time, ready for inference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module().eval().requires_grad_(False)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_densetnt() -> Benchmark:
    """Returns DenseTNT on generated scenes, cut or repeated to P polylines of V vectors.

    The range is smaller than that of its own export, whose largest calls take a second.
    """
    ranges = {"polylines": (2, 64), "vectors": (2, 20)}
    polylines, vectors = _dims(ranges)

    def inputs(sizes: Sizes, seed: int) -> tuple[Tensor, ...]:
        scene = densetnt.scene_to_inputs(densetnt.generate_scene(seed))
        count, length = scene["vector_mask"].shape
        rows = torch.linspace(0, count - 1, sizes[0]).round().long()  # agents and lanes alike
        columns = torch.arange(sizes[1]).clamp(max=length - 1)
        data, mask, *kinds = (scene[name][rows] for name in densetnt.INPUT_NAMES)
        return data[:, columns].contiguous(), mask[:, columns].contiguous(), *kinds

    shapes = {
        "vector_data": {0: polylines, 1: vectors},
        "vector_mask": {0: polylines, 1: vectors},
        "traj_polyline_mask": {0: polylines},
        "map_polyline_mask": {0: polylines},
    }
    example = inputs((48, 16), 0)
    spec = {**densetnt.export_spec(), "example_inputs": example, "dynamic_shapes": shapes}
    return Benchmark(spec, ranges, inputs)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.block = nn.Sequential(
            *self._convolution(channels, width, 1, 1),
            nn.ReLU(),
            *self._convolution(width, width, 3, stride),
            nn.ReLU(),
            *self._convolution(width, out, 1, 1),
        )
        same = channels == out and stride == 1
        self.shortcut = nn.Sequential(
            *([] if same else self._convolution(channels, out, 1, stride))
        )

    @staticmethod
    def _convolution(channels: int, out: int, size: int, stride: int) -> list[nn.Module]:
        padding = size // 2
        return [
            nn.Conv2d(channels, out, size, stride, padding, bias=False),
            nn.BatchNorm2d(out),
        ]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.block(x) + self.shortcut(x))


def _resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            layers.append(_Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def make_resnet50() -> Benchmark:
    """Returns ResNet-50 on one small image of dynamic height and width."""
    ranges = {"height": (40, 96), "width": (40, 96)}
    height, width = _dims(ranges)
    spec = {
        "module": seeded(_resnet50),
        "example_inputs": (_normal((1, 3, 64, 80), 0),),
        "dynamic_shapes": {"input": {2: height, 3: width}},
    }
    return Benchmark(spec, ranges, lambda sizes, seed: (_normal((1, 3, *sizes), seed),))


def make_encoder() -> Benchmark:
    """Returns a transformer's encoder: 6 layers of 384, one sequence of dynamic length."""
    ranges = {"length": (16, 128)}
    (length,) = _dims(ranges)

    def module() -> nn.Module:
        # Not nn.TransformerEncoder, whose layers begin as copies: freezing merges equal weights.
        return nn.Sequential(
            *(
                nn.TransformerEncoderLayer(384, 6, 1536, activation="gelu", batch_first=True)
                for _ in range(6)
            )
        )

    spec = {
        "module": seeded(module),
        "example_inputs": (_normal((1, 40, 384), 0),),
        "dynamic_shapes": {"input": {1: length}},
    }
    return Benchmark(spec, ranges, lambda sizes, seed: (_normal((1, *sizes, 384), seed),))


class _LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 128, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(x)[0][:, -1])
        return result


def make_lstm() -> Benchmark:
    """Returns an LSTM of 128 on one sequence of dynamic length."""
    ranges = {"length": (8, 96)}
    (length,) = _dims(ranges)
    spec = {
        "module": seeded(_LSTM),
        "example_inputs": (_normal((1, 20, 64), 0),),
        "dynamic_shapes": {"x": {1: length}},
    }
    return Benchmark(spec, ranges, lambda sizes, seed: (_normal((1, *sizes, 64), seed),))


def make_mlp() -> Benchmark:
    """Returns an MLP 4 -> 64 -> 4, with nothing dynamic."""
    spec = {
        "module": seeded(
            lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4)),
        ),
        "example_inputs": (_normal((1, 4), 0),),
    }
    return Benchmark(spec, {}, lambda _, seed: (_normal((1, 4), seed),))


MODELS: dict[str, Callable[[], Benchmark]] = {
    "densetnt": make_densetnt,
    "resnet50": make_resnet50,
    "encoder": make_encoder,
    "lstm": make_lstm,
    "mlp": make_mlp,
}

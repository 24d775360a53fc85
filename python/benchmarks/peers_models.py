"""The models that peers.py measures, each with the inputs of its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchmark_models  # type: ignore[import-not-found]  # it lies beside this file
import torch
from torch import Tensor, nn
from torch.nn import functional

from ts_infer.models import densetnt

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 8  # inputs of a model whose sizes change
SAMPLE_RATE = 16000
CHUNK = 512  # samples


@dataclass(frozen=True)
class PeerModel:
    """A model, and the arguments of its calls in their order.

    Attributes:
        spec: Keyword arguments of ts_infer.export; empty where the files are shipped.
        inputs: The arguments of each call: tensors, and Python integers.
        files: Files that come with the model, by the name of the artefact that they are.
    """

    spec: dict[str, Any]
    inputs: list[tuple[Any, ...]]
    files: dict[str, Path] = field(default_factory=dict)


class DenseTNTCore(nn.Module):
    """DenseTNT's layers without what depends on the values: every goal is given, none is chosen.

    The first `agents` polylines are agents and the others lanes, and no lane is left out.
    """

    def __init__(self, agents: int) -> None:
        super().__init__()
        self.agents = agents
        self.whole = densetnt.make()

    def forward(
        self, vector_data: Tensor, vector_mask: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the trajectories to the best goals, and the score of every goal.

        Args:
            vector_data: float32 [P, V, 128].
            vector_mask: bool [P, V].
            points: float32 [G, 2], the goals.
        """
        model = self.whole
        states = model.sub_graph(vector_data, vector_mask)
        agents, lanes = states[: self.agents], states[self.agents :]
        seeing = lanes + model.lane_from_agent(lanes, torch.cat([lanes, agents[:1]]))
        context = torch.cat([agents, seeing])
        target = model.global_graph(context, context)[:1]
        scores = model.goal_scorer(points, target, context, lanes)
        ends = points[torch.topk(scores, model.config.modes)[1]]
        return model._trajectories(ends, target, context), scores


def _densetnt() -> PeerModel:
    scenes = [densetnt.scene_to_inputs(densetnt.generate_scene(seed)) for seed in range(CALLS)]
    inputs = [tuple(scene[name] for name in densetnt.INPUT_NAMES) for scene in scenes]
    return PeerModel(densetnt.export_spec(), inputs)


def _densetnt_core() -> PeerModel:
    scene = densetnt.scene_to_inputs(densetnt.default_scene())
    goals = densetnt.Prediction(*densetnt.make()(**scene)).goals.detach()
    module = DenseTNTCore(int(scene["traj_polyline_mask"].sum())).eval().requires_grad_(False)
    inputs = (scene["vector_data"], scene["vector_mask"], goals)
    return PeerModel({"module": module, "example_inputs": inputs}, [inputs])


class _UNet(nn.Module):
    """Segmentation: three levels down, three up, with what the levels below lost put beside."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.down = nn.ModuleList(self._level(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * b, b, 2, stride=2) for b in widths[-2:0:-1])
        self.merge = nn.ModuleList(self._level(2 * b, b) for b in widths[-2:0:-1])
        self.head = nn.Conv2d(widths[1], 4, 1)

    @staticmethod
    def _level(channels: int, width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        beside = []
        x = image
        for i, level in enumerate(self.down):
            x = level(x if i == 0 else functional.max_pool2d(x, 2))
            beside.append(x)
        for up, merge, other in zip(self.up, self.merge, beside[-2::-1], strict=True):
            x = merge(torch.cat([other, up(x)], dim=1))
        y: Tensor = self.head(x)
        return y


class _DecoderLayer(nn.Module):
    """As language models have it: RMS norms, causal attention, a gated unit of SiLU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 3 * width, bias=False)
        self.rise = nn.Linear(width, 3 * width, bias=False)
        self.fall = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        shape = (rows, length, self.heads, width // self.heads)
        parts = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        y = self.norm_2(x)
        z: Tensor = x + self.fall(functional.silu(self.gate(y)) * self.rise(y))
        return z


def _unet() -> PeerModel:
    image = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    return PeerModel(
        {"module": benchmark_models.seeded(_UNet), "example_inputs": (image,)}, [(image,)]
    )


def _decoder() -> PeerModel:
    module = benchmark_models.seeded(
        lambda: nn.Sequential(*(_DecoderLayer(512, 8) for _ in range(6)))
    )
    prompt = torch.randn(1, 64, 512, generator=torch.Generator().manual_seed(0))
    return PeerModel({"module": module, "example_inputs": (prompt,)}, [(prompt,)])


def _fixed(make: Callable[[], Any], sizes: tuple[int, ...]) -> PeerModel:
    benchmark = make()
    inputs = [benchmark.inputs(sizes, seed) for seed in range(2)]
    return PeerModel(
        {"module": benchmark.spec["module"], "example_inputs": inputs[0]},
        inputs,
    )


def _changing(make: Callable[[], Any]) -> PeerModel:
    benchmark = make()
    return PeerModel(
        benchmark.spec,
        [benchmark.inputs(sizes, seed) for seed, sizes in enumerate(benchmark.draw(CALLS))],
    )


def _silero() -> PeerModel:
    found = find_spec("silero_vad")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("silero-vad is not installed")
    folder = Path(found.origin).parent / "data"
    time = torch.arange(CALLS * CHUNK) / SAMPLE_RATE
    tone = torch.stack([torch.sin(2 * torch.pi * 140 * k * time) / k for k in range(1, 20)]).sum(0)
    chunks = (0.1 * tone).reshape(CALLS, 1, CHUNK)
    return PeerModel(
        {},
        [(chunk, SAMPLE_RATE) for chunk in chunks],
        {
            "archive.pt": folder / "silero_vad.jit",
            "model.onnx": folder / "silero_vad.onnx",
            "openvino.onnx": folder / "silero_vad_openvino_16k.onnx",
        },
    )


_make = benchmark_models
MODELS: dict[str, Callable[[], PeerModel]] = {
    "densetnt": _densetnt,
    "densetnt-core": _densetnt_core,
    "resnet50": partial(_fixed, _make.make_resnet50, (224, 224)),
    "encoder": partial(_fixed, _make.make_encoder, (128,)),
    "encoder-lengths": partial(_changing, _make.make_encoder),
    "mlp": partial(_fixed, _make.make_mlp, ()),
    "lstm": partial(_fixed, _make.make_lstm, (20,)),
    "lstm-lengths": partial(_changing, _make.make_lstm),
    "silero": _silero,
    "unet": _unet,
    "decoder": _decoder,
}

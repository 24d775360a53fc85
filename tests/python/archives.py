"""Modules that the tests save as TorchScript archives, and how."""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def quiet_torch_jit() -> Iterator[None]:
    """Without torch's notice that torch.jit is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
        yield


def script(module: Any) -> Any:
    with quiet_torch_jit():
        return torch.jit.script(module.eval() if isinstance(module, nn.Module) else module)


def jit_load(source: Any) -> Any:
    """The module as stock torch loads it: what the runtime is compared with."""
    with quiet_torch_jit():
        return torch.jit.load(source)  # type: ignore[no-untyped-call]


def uses_own_kernels(model: Any, what: str) -> bool:
    """Whether a model's load decided to run so many operators by own kernels: "1 linear"."""
    return any("own kernels" in text and what in text for text in model.info().decisions)


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def archive_bytes(module: nn.Module, manifest: dict[str, Any] | None = None) -> bytes:
    """A module scripted and saved, with a manifest where one is given."""
    extra = {} if manifest is None else {"ts_infer/manifest.json": json.dumps(manifest)}
    buffer = io.BytesIO()
    with quiet_torch_jit():
        torch.jit.save(script(module), buffer, _extra_files=extra)
    return buffer.getvalue()


class Affine(nn.Module):
    """y = scale * x + shift; the shift has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor, scale: float = 2.0, shift: int = 1) -> Tensor:
        return x * self.weight * scale + shift


class Pair(nn.Module):
    """Two tensors in, their sum out."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Counter(nn.Module):
    """Stateful: the n-th call returns x + n."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.count

    @torch.jit.export
    def reset(self, to: float = 0.0) -> None:
        self.count.fill_(to)

    @torch.jit.export
    def current(self) -> Tensor:
        return self.count


class Steps(nn.Module):
    """Stateful, and as slow as it is told to be."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor, steps: int) -> Tensor:
        self.count.add_(1)
        for _ in range(steps):
            x = torch.sin(x)
        return self.count + x * 0

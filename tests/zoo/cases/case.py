"""One module of the zoo: how a user of its package would export it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn


@dataclass
class Model:
    """A module, and what it is called with.

    Attributes:
        module: The module, in eval mode.
        inputs: A tuple of arguments, or a dict of keyword arguments.
        dynamic_shapes: As `ts_infer.export` takes it.
        others: More inputs, of other sizes and values, that nothing but the comparison sees.
        options: More arguments of `ts_infer.export`.
        grad: Whether the module takes gradients in forward.
    """

    module: nn.Module
    inputs: Any
    dynamic_shapes: Any = None
    others: list[Any] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    grad: bool = False


@dataclass(frozen=True)
class Case:
    """A module of a package.

    Attributes:
        name: Package and module, "timm/resnet18".
        make: Makes it; imports the package.
        refused: Why it is rightly refused, checked by hand; "" where it exports.
    """

    name: str
    make: Callable[[], Model]
    refused: str = ""


def along(
    module: nn.Module,
    sizes: Sequence[int],
    dim: Any,
    others: Sequence[int],
    axis: int = 0,
    draw: Callable[..., Tensor] | None = None,
) -> Model:
    """A module of one tensor, one axis of which has other sizes too."""
    draw = draw or normal

    def at(size: int) -> Tensor:
        changed = list(sizes)
        changed[axis] = size
        return draw(*changed, seed=size)

    return Model(module.eval(), (draw(*sizes),), ({axis: dim},), [(at(size),) for size in others])


def normal(*sizes: int, seed: int = 0) -> Tensor:
    """Normally distributed values, the same at each call."""
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed))


def uniform(*sizes: int, seed: int = 0) -> Tensor:
    """Values from 0 to 1, such as an image's."""
    return torch.rand(sizes, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *sizes: int, seed: int = 0) -> Tensor:
    """Whole numbers below `high`, such as a sentence's tokens."""
    return torch.randint(0, high, sizes, generator=torch.Generator().manual_seed(seed))

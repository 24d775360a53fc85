"""Whether modules are called with gradients, as those have to be that take some in forward."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = ("auto", "on", "off")

_enabled = False


@contextmanager
def enabled(on: bool) -> Iterator[None]:
    """Within the block, call modules with gradients, or without."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def turn_on() -> None:
    """Call modules with gradients up to the end of the block of `enabled`."""
    global _enabled
    _enabled = True


def are_enabled() -> bool:
    """Whether modules are called with gradients."""
    return _enabled


def grad_mode() -> Any:
    """The context that a module, or what was exported of it, is called in."""
    return torch.enable_grad() if _enabled else torch.no_grad()


def are_missing(failure: str) -> bool:
    """Whether a failure of a module says that it takes gradients and there were none."""
    return "does not require grad and does not have a grad_fn" in failure

"""Watching what tracing takes out of tensors into Python, and whether it depends on sizes only."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.scan import is_random
from ts_infer._export.source import is_user_file

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator

_jit: Any = torch.jit  # not annotated upstream
_C: Any = torch._C

# What turns a tensor into something of Python's.
_NUMBERS = ("__bool__", "__int__", "__index__", "__float__", "__complex__", "item", "tolist")
_LENGTHS = ("__iter__", "__len__")

# What of a tensor does not depend on its elements.
_PROPERTIES = frozenset(
    {"aten::size", "aten::dim", "aten::numel", "prim::shape", "prim::device", "prim::dtype"}
)


@dataclass(frozen=True)
class Conversion:
    """One value that left the graph.

    Attributes:
        file: The user's file.
        line: The line of it that ran.
        by_size: Whether it depends on sizes alone, not on elements.
        value: What Python got.
    """

    file: str
    line: int
    by_size: bool
    value: Any


@contextmanager
def watch_conversions(stateful: bool) -> Iterator[list[Conversion]]:
    """Note every conversion of a traced tensor in a block.

    Args:
        stateful: Whether calls change tensors of the module: then a tensor that the trace takes
            for a constant may be state.

    Yields:
        The conversions of the block so far.
    """
    found: list[Conversion] = []
    originals = {name: getattr(torch.Tensor, name) for name in (*_NUMBERS, *_LENGTHS)}
    for name, original in originals.items():
        setattr(torch.Tensor, name, _watching(original, name in _LENGTHS, stateful, found))
    try:
        yield found
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


def _watching(
    original: Callable[..., Any], is_length: bool, stateful: bool, found: list[Conversion]
) -> Callable[..., Any]:
    def convert(self: torch.Tensor, *args: Any) -> Any:
        result = original(self, *args)
        if _jit.is_tracing():
            frame = _user_frame()
            if frame is not None:
                value = self.shape[:1] if is_length else result
                by_size = is_length or _depends_on_sizes_only(self, stateful)
                file, line = frame.f_code.co_filename, frame.f_lineno
                found.append(Conversion(file, line, by_size, repr(value)))
        return result

    return convert


def _user_frame() -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and not is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _depends_on_sizes_only(tensor: torch.Tensor, stateful: bool) -> bool:
    try:
        left = [_C._get_value_trace(tensor)]
    except RuntimeError:
        return False
    seen = set()
    while left:
        value = left.pop()
        if value.debugName() in seen:
            continue
        seen.add(value.debugName())
        node = value.node()
        if node.kind() in _PROPERTIES:
            continue
        if node.kind() in ("prim::Param", "prim::GetAttr") or is_random(node.kind()):
            return False
        if stateful and node.kind() == "prim::Constant" and value.type().kind() != "IntType":
            return False
        left += node.inputs()
    return True

"""Comparing two results: structure, dtypes, shapes and values.

Tolerances, as |expected - actual| <= atol + rtol * |expected| for each element: those of
`torch.testing` where they are wide enough, wider where freezing may fold and reorder sums (a
batch norm folded into a convolution). Integers, booleans, strings and None must be equal; NaN
equals NaN, and an infinity equals itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ts_infer._export.arguments import Path

# dtype: (rtol, atol)
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (1.6e-2, 1e-2),
    torch.float32: (1e-4, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (1e-4, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}


@dataclass(frozen=True)
class Difference:
    """How one leaf differs: where, whether in structure or in value, and how."""

    where: str
    structural: bool
    text: str


@dataclass
class Comparison:
    """The first difference of two results, and the largest absolute difference."""

    difference: Difference | None = None
    max_abs_diff: float | None = None

    def note(self, difference: Difference | None, max_abs_diff: float | None) -> None:
        """Add the comparison of one leaf."""
        self.difference = self.difference or difference
        if max_abs_diff is not None:
            self.max_abs_diff = max(self.max_abs_diff or 0.0, max_abs_diff)


def leaves(value: Any, path: Path = (), named: bool = False) -> Iterator[tuple[Path, Any]]:
    """Yield the leaves of nested tuples, lists and dicts, depth-first.

    Args:
        value: The value.
        path: Path of `value` itself.
        named: Whether the fields of named tuples appear by name in a path, not by index.

    Yields:
        Each leaf with its path: indices, keys and field names.
    """
    if isinstance(value, (tuple, list)):
        keys = getattr(value, "_fields", None) if named else None
        for key, item in zip(keys or range(len(value)), value, strict=True):
            yield from leaves(item, (*path, key), named)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, key), named)
    else:
        yield path, value


def compare(expected: Any, actual: Any) -> Comparison:
    """Compare what the exported model returned with what the module returned.

    A named tuple and a tuple of the same values are equal: a trace of torch's forgets field names.

    Args:
        expected: The module's result.
        actual: The exported model's result.

    Returns:
        The comparison.
    """
    result = Comparison()
    _compare(expected, actual, "the output", result)
    return result


# How many times as far as the module's own results move another way to round may go: as the
# largest movement, and as the median of those that move at all.
_LARGEST_FACTOR = 4
_TYPICAL_FACTOR = 16


def is_rounding(expected: Any, actual: Any, rounded: list[Any], *, typical: bool = False) -> bool:
    """Whether two results differ by no more than the module's own do when it rounds otherwise.

    Where numbers cancel, or a mask of -1e4 is added to scores, another order of sums shows in every
    digit, and tolerances for each element do not tell.

    Args:
        expected: The module's result.
        actual: The exported model's result, of the same structure and shapes.
        rounded: Results of the module in float64, or with inputs and weights that were moved by
            their last place.
        typical: Measure by elements that move as most do, not by those that move the furthest,
            which may have come to another side of a threshold.

    Returns:
        Whether every tensor of `actual` is within 4 times the largest movement of that tensor; with
        `typical` whether it is of floating point, and within 16 times the median movement.
    """
    moved = [[leaf for _, leaf in leaves(result)] for result in rounded]
    pairs = list(zip(leaves(expected), leaves(actual), strict=True))
    if any(len(result) != len(pairs) for result in moved):
        return False
    for i, ((_, left), (_, right)) in enumerate(pairs):
        difference = compare(left, right).difference
        if difference is None:
            continue
        if difference.structural or not isinstance(left, torch.Tensor):
            return False
        results = [result[i] for result in moved]
        if any(r.shape != left.shape for r in results):
            continue  # even how many there are hangs on the last place
        if right.shape != left.shape:
            return False
        if typical and left.dtype not in TOLERANCES:
            return False
        rtol, atol = TOLERANCES.get(left.dtype, (0.0, 0.0))
        atol += _reach([(r.double() - left.double()).abs() for r in results], typical)
        if not torch.allclose(right.double(), left.double(), rtol=rtol, atol=atol):
            return False
    return True


def _reach(movements: list[torch.Tensor], typical: bool) -> float:
    furthest = torch.stack(movements).amax(0)
    if not typical:
        return _LARGEST_FACTOR * float(furthest.max())
    moving = furthest[furthest > 0]
    return _TYPICAL_FACTOR * float(moving.median()) if moving.numel() else 0.0


def _compare(expected: Any, actual: Any, where: str, result: Comparison) -> None:
    for kind in (tuple, list):
        if isinstance(expected, kind) and isinstance(actual, kind):
            if len(expected) != len(actual):
                text = f"expected {len(expected)} values, got {len(actual)}"
                result.note(Difference(where, True, text), None)
                return
            for i, (left, right) in enumerate(zip(expected, actual, strict=True)):
                _compare(left, right, f"{where}[{i}]", result)
            return
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if list(expected) != list(actual):
            text = f"expected the keys {list(expected)}, got {list(actual)}"
            result.note(Difference(where, True, text), None)
            return
        for key in expected:
            _compare(expected[key], actual[key], f"{where}[{key!r}]", result)
        return
    if isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor):
        _compare_tensors(expected, actual, where, result)
        return
    if type(expected) is not type(actual):
        text = f"expected {_describe(expected)}, got {_describe(actual)}"
        result.note(Difference(where, True, text), None)
        return
    if isinstance(expected, (float, complex)):
        left, right = (torch.tensor(v, dtype=torch.complex128) for v in (expected, actual))
        _compare_tensors(left, right, where, result)
    elif expected != actual:
        result.note(Difference(where, False, f"expected {expected!r}, got {actual!r}"), None)


def _compare_tensors(
    expected: torch.Tensor, actual: torch.Tensor, where: str, result: Comparison
) -> None:
    if expected.dtype != actual.dtype or expected.device != actual.device:
        text = f"expected {_describe(expected)}, got {_describe(actual)}"
        result.note(Difference(where, True, text), None)
        return
    if expected.shape != actual.shape:
        text = f"expected shape {list(expected.shape)}, got {list(actual.shape)}"
        result.note(Difference(where, False, text), None)
        return
    left, right = (
        t.detach().to_dense() if t.layout != torch.strided else t.detach()
        for t in (expected, actual)
    )
    if expected.dtype not in TOLERANCES:
        wrong = left != right
        result.note(_value_difference(wrong, left, right, where), _largest(wrong, left, right))
        return
    rtol, atol = TOLERANCES[expected.dtype]
    wide = torch.complex128 if left.is_complex() else torch.float64
    if left.device.type == "mps":
        left, right = left.cpu(), right.cpu()
    left, right = left.to(wide), right.to(wide)
    wrong = ~torch.isclose(right, left, rtol=rtol, atol=atol, equal_nan=True)
    result.note(_value_difference(wrong, left, right, where), _largest(wrong, left, right))


def _largest(wrong: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> float:
    if left.numel() == 0:
        return 0.0
    if not (left.is_floating_point() or left.is_complex()):
        left, right = left.double(), right.double()  # unsigned integers would wrap around
    difference = (left - right).abs().double()
    # NaN here comes from NaN or infinity on a side: wrong means on one side only.
    difference = torch.where(
        difference.isnan(),
        torch.where(wrong, torch.full_like(difference, math.inf), torch.zeros_like(difference)),
        difference,
    )
    return float(difference.max())


def _value_difference(
    wrong: torch.Tensor, left: torch.Tensor, right: torch.Tensor, where: str
) -> Difference | None:
    count = int(wrong.sum())
    if not count:
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    text = (
        f"{count} of {wrong.numel()} elements differ by up to "
        f"{_largest(wrong, left, right):.3g}; at {list(index)} expected {_number(left[index])}, "
        f"got {_number(right[index])}"
    )
    return Difference(where, False, text)


def _number(element: torch.Tensor) -> str:
    value = element.item()
    return f"{value:.6g}" if isinstance(value, (float, complex)) else repr(value)


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} on {value.device}"
    return "None" if value is None else type(value).__name__

"""Other inputs for a module, made from the example: values, extremes, sizes, ranks, dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ts_infer._export.arguments import Example, Path, map_tensors, tensors_of
from ts_infer._export.shapes import MAX_CHECK_ELEMENTS, DynamicShapes

_Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Variant:
    """Inputs that differ from the example in one way.

    Attributes:
        label: What is different, for people.
        make: Makes the values, fresh at each call, one per name.
        sizes: The sizes of the dynamic dims; empty for the example's own.
        given: What binds the values where other arguments are given than the example's.
    """

    label: str
    make: Callable[[], tuple[Any, ...]]
    sizes: tuple[tuple[str, int], ...] = ()
    given: Example | None = None


def example(given: Example) -> Variant:
    """Return the example itself."""
    return Variant("the example", lambda: _apply(given, torch.Tensor.clone))


def values(given: Example) -> list[Variant]:
    """Return inputs of the example's sizes and range, with other values.

    Integers stay within the example's range, since they may be indices, but where they are all
    equal; floating-point tensors that hold nothing but 0 and 1 stay masks.
    """
    changes: dict[str, _Change] = {
        "negated": lambda t: t if _is_discrete(t) else -t,
        "normally distributed": _normal,
        "shuffled": _shuffled,
        "all positive": lambda t: t if _is_discrete(t) else t.abs(),
        "all negative": lambda t: t if _is_discrete(t) else -t.abs(),
        "drawn evenly from the example's range": _uniform,
        "10 times as large": lambda t: t if _is_discrete(t) else t * 10,
        "a tenth": lambda t: t if _is_discrete(t) else t / 10,
        "the smallest of the example everywhere": lambda t: _filled(t, torch.amin),
        "the largest of the example everywhere": lambda t: _filled(t, torch.amax),
        "one more where all integers are equal": lambda t: _shifted(t, 1),
        "one less where all integers are equal": lambda t: _shifted(t, -1),
    }
    found = [_variant(label, given, change) for label, change in changes.items()]
    paths = [path for path, _ in tensors_of(given.values)]
    if 1 < len(paths) <= _MAX_ALONE:
        found += [
            _variant(f"{given.label(path)} alone negated or shuffled", given, _negated, only=path)
            for path in paths
        ]
    return _different(given, found)


_MAX_ALONE = 8


def unvaried(given: Example) -> list[str]:
    """Say which tensors `values` leaves as they are, and why."""
    return [
        f"{given.label(path)} {'is empty' if not tensor.numel() else 'has no data'}"
        for path, tensor in tensors_of(given.values)
        if not tensor.numel() or tensor.is_meta
    ]


def extremes(given: Example) -> list[Variant]:
    """Return inputs at the ends of what floating-point inputs can hold."""

    def filled(number: float) -> _Change:
        def change(tensor: torch.Tensor) -> torch.Tensor:
            if not _is_floating(tensor):
                return tensor
            largest = torch.finfo(tensor.dtype).max
            return torch.full_like(tensor, max(-largest, min(number, largest)))

        return change

    def one(number: float) -> _Change:
        def change(tensor: torch.Tensor) -> torch.Tensor:
            if not _is_floating(tensor) or not tensor.numel():
                return tensor
            copy = tensor.clone(memory_format=torch.contiguous_format)
            copy.view(-1)[copy.numel() // 2] = number
            return copy

        return change

    changes = {
        "all zero": torch.zeros_like,
        "all one": filled(1.0),
        "all 1e6": filled(1e6),
        "all -1e6": filled(-1e6),
        "one NaN": one(math.nan),
        "all NaN": lambda t: torch.full_like(t, math.nan) if _is_floating(t) else t,
        "one +inf": one(math.inf),
        "one -inf": one(-math.inf),
    }
    found = [_variant(label, given, change) for label, change in changes.items()]
    paths = [path for path, tensor in tensors_of(given.values) if _is_floating(tensor)]
    if 1 < len(paths) <= _MAX_ALONE:
        for path in paths:
            name = given.label(path)
            found.append(_variant(f"{name} alone zero", given, torch.zeros_like, only=path))
            found.append(_variant(f"one NaN in {name}", given, one(math.nan), only=path))
    return _different(given, found)


def sizes(given: Example, shapes: DynamicShapes) -> tuple[list[Variant], list[str]]:
    """Return inputs of other sizes along the dynamic dims, and what was too large to make."""
    cases, notes = shapes.cases(given, MAX_CHECK_ELEMENTS)
    found = []
    for case in cases[1:]:
        label = ", ".join(f"{name}={size}" for name, size in case.items())
        found.append(Variant(label, _resized(given, shapes, case), tuple(case.items())))
    return found, notes


def _resized(
    given: Example, shapes: DynamicShapes, case: dict[str, int]
) -> Callable[[], tuple[Any, ...]]:
    return lambda: shapes.resize(given, case)


def ranks(given: Example) -> list[Variant]:
    """Return inputs with a dim more and a dim less."""
    tensors = [tensor for _, tensor in tensors_of(given.values)]
    found = [_variant("a leading dim more", given, lambda t: t.unsqueeze(0))]
    if tensors and all(t.dim() > 0 and t.shape[0] > 0 for t in tensors):
        found.append(_variant("the leading dim dropped", given, lambda t: t[0].clone()))
    return _different(given, found)


def dtypes(given: Example, other_kinds: bool) -> list[Variant]:
    """Return inputs of other dtypes; of other kinds too (integers for numbers) where asked."""

    def cast(floating: torch.dtype) -> _Change:
        return lambda t: t.to(floating) if _is_floating(t) else t

    def to_integer(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.int64) if _is_floating(tensor) else tensor

    def cast_integer(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.int32) if tensor.dtype is torch.int64 else tensor

    found = [
        _variant(f"as {str(dtype).removeprefix('torch.')}", given, cast(dtype))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ]
    found.append(_variant("int64 as int32", given, cast_integer))
    if other_kinds:
        found.append(_variant("floating point as int64", given, to_integer))
    return _different(given, found)


def lengths(given: Example, keys: Sequence[str] = ()) -> list[Variant]:
    """Return inputs with an item more and an item less in their lists and dicts.

    Args:
        given: The example inputs.
        keys: Keys that are worth adding to dicts that do not have them.
    """
    if not _has_container(given.values):
        return []

    def make(change: Callable[[Any], Any]) -> Callable[[], tuple[Any, ...]]:
        return lambda: tuple(
            _with_containers(value, change) for value in _apply(given, torch.Tensor.clone)
        )

    def with_key(key: str) -> Callable[[Any], Any]:
        def change(container: Any) -> Any:
            if isinstance(container, list) or key in container:
                return container
            return {**container, key: _copied(next(reversed(container.values())))}

        return change

    return [
        Variant("an item more in each list and dict", make(_longer)),
        Variant("an item less in each list and dict", make(_shorter)),
        *(Variant(f"the key {key!r} in each dict", make(with_key(key))) for key in keys),
    ]


def _has_container(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_has_container(item) for item in value)
    return isinstance(value, (list, dict)) and len(value) > 0


def _with_containers(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild nested containers with every list and dict changed, the inner ones first."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_with_containers(item, change) for item in value)
    if isinstance(value, list) and value:
        return change([_with_containers(item, change) for item in value])
    if isinstance(value, dict) and value:
        return change({key: _with_containers(item, change) for key, item in value.items()})
    return value


def _longer(container: Any) -> Any:
    if isinstance(container, list):
        return [*container, _copied(container[-1])]
    key, value = list(container.items())[-1]
    new = f"{key}_more" if isinstance(key, str) else max(container) + 1
    return {**container, new: _copied(value)}


def _shorter(container: Any) -> Any:
    if isinstance(container, list):
        return container[:-1]
    return dict(list(container.items())[:-1])


def _copied(value: Any) -> Any:
    return map_tensors(value, lambda _, tensor: tensor.clone())


def _variant(label: str, given: Example, change: _Change, only: Path | None = None) -> Variant:
    return Variant(label, lambda: _apply(given, change, only))


def _apply(given: Example, change: _Change, only: Path | None = None) -> tuple[Any, ...]:
    def one(path: Path, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        changed = change(tensor) if only is None or path == only else tensor
        return changed.clone() if changed is tensor else changed

    changed = map_tensors(given.values, one)
    assert isinstance(changed, tuple)
    return changed


def _different(given: Example, variants: list[Variant]) -> list[Variant]:
    """Leave out what is equal to the example, or to an earlier variant."""
    seen = [[tensor for _, tensor in tensors_of(given.values)]]
    kept = []
    for variant in variants:
        made = [tensor for _, tensor in tensors_of(variant.make())]
        if any(_all_same(made, other) for other in seen):
            continue
        seen.append(made)
        kept.append(variant)
    return kept


def _all_same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(_same(a, b) for a, b in zip(left, right, strict=True))


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.layout != torch.strided or left.is_meta:
        return left is right
    return bool(((left == right) | ((left != left) & (right != right))).all())


def _is_floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_discrete(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds indices, flags or a mask; all zeros or all ones are no mask."""
    if not _is_floating(tensor):
        return True
    zero, one = tensor == 0, tensor == 1
    return bool((zero | one).all() and zero.any() and one.any())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _shuffled(tensor: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=_generator()).to(tensor.device)
    return tensor.reshape(-1)[order].reshape(tensor.shape)


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype is torch.bool:
        return ~tensor
    if not _is_discrete(tensor):
        return -tensor
    return 1 - tensor if _is_floating(tensor) else _shuffled(tensor)


def _normal(tensor: torch.Tensor) -> torch.Tensor:
    if _is_discrete(tensor):
        return _shuffled(tensor)
    drawn = torch.randn(tensor.shape, generator=_generator(), dtype=torch.float64)
    return drawn.to(tensor.device, tensor.dtype)


def _uniform(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.numel() or tensor.is_complex() or tensor.dtype is torch.bool:
        return _shuffled(tensor)
    wide = tensor.double()
    low, high = wide.min(), wide.max()
    drawn = torch.rand(tensor.shape, generator=_generator(), dtype=torch.float64)
    drawn = low + drawn.to(tensor.device) * (high - low)
    if _is_discrete(tensor):
        drawn = drawn.round()
    return drawn.to(tensor.dtype)


def _shifted(tensor: torch.Tensor, by: int) -> torch.Tensor:
    # Elsewhere than on the CPU an index that is out of range ends more than the call.
    is_one_integer = (
        tensor.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.numel() > 0
        and bool((tensor == tensor.reshape(-1)[0]).all())
    )
    return tensor + by if is_one_integer else tensor


def _filled(tensor: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    if not tensor.numel() or tensor.is_complex():
        return tensor
    return reduce(tensor).expand(tensor.shape).clone()

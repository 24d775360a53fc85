"""Other numbers, flags, strings and None for a module's arguments, made from the example."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export import variants
from ts_infer._export.arguments import map_tensors, tensors_of
from ts_infer._export.variants import Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ts_infer._export.arguments import Example, Path
    from ts_infer._export.scan import Taken

# What a letter that is two bytes of UTF-8 tells apart: TorchScript counts and cuts by bytes.
_TWO_BYTES = "ð"
# A number may be a count: of turns, or of elements to make.
_LARGEST = 2**16
_MAX_OTHERS = 16
_LONGEST = 64
# So many numbers of one argument are changed one by one; of more the first, the last, and all.
_MAX_ALONE = 4
_MAX_FLAGS = 4

_Value = bool | int | float | complex | str | None


@dataclass
class Plain:
    """Variants of what is no tensor.

    Attributes:
        alone: Each value changed once, none else.
        more: Its other changes, several at once, and defaults left out.
        extremes: NaN, infinities and large numbers.
        skipped: What could not be varied, and why.
    """

    alone: list[Variant] = field(default_factory=list)
    more: list[Variant] = field(default_factory=list)
    extremes: list[Variant] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """A value to vary: its path in the example, and its TorchScript type, "" unknown."""

    path: Path
    value: Any
    type: str


def variants_of(
    given: Example, taken: Sequence[Taken] | None, constants: Sequence[int | float | str]
) -> Plain:
    """Vary every argument that is no tensor, alone or in lists, dicts and tuples.

    A flag takes both values; a number what lies beside it, beside zero and beside the numbers in
    the code; a string other lengths, letters of more than a byte and the strings in the code;
    what may be None is None, and what is None a value of its type. An argument with a default is
    given where the example leaves it out, and left out where it gives it.

    Args:
        given: The example inputs.
        taken: What the exported forward takes; None where that is not known.
        constants: Numbers and strings that the code compares with, perhaps.

    Returns:
        The variants, and what could not be varied.
    """
    found = Plain()
    whole = _with_defaults(given, taken, found.skipped)
    types = {argument.name: argument.type for argument in taken or ()}
    groups: list[list[_Place]] = []
    for index, (name, value) in enumerate(zip(whole.names, whole.values, strict=True)):
        places = list(_places(value, (index,), types.get(name, "")))
        if not places:
            continue
        if taken is not None and name not in types and not whole.variadic:
            found.skipped.append(f"{name} is {value!r}: the exported model does not take it")
            continue
        groups.append(places)
    for group in groups:
        _vary(found, given, whole, group, constants)
    flags = [p for group in groups for p in group if isinstance(p.value, bool)]
    _combine(found, given, whole, flags, [p for group in groups for p in group])
    _leave_out(found, given, taken)
    return found


def _with_defaults(given: Example, taken: Sequence[Taken] | None, skipped: list[str]) -> Example:
    """The example with the arguments that it leaves to their defaults."""
    known = {argument.name: argument for argument in taken or ()}
    left_out = {
        name: default for name, default in given.defaults.items() if name not in given.names
    }
    names, values = list(given.names), list(given.values)
    for name, default in left_out.items():
        if given.variadic:
            skipped.append(f"{name} is left at its default: the example gives values for *args")
        elif taken is not None and name not in known:
            skipped.append(f"{name} is {default!r}: the exported model does not take it")
        elif taken is not None:
            names.append(name)
            values.append(default)
    if len(names) == len(given.names):
        return given
    return replace(given, names=tuple(names), values=tuple(values), by_keyword=True)


def _places(value: Any, path: Path, kind: str) -> Iterator[_Place]:
    """Yield what is no tensor in nested containers, and what may be None, depth-first."""
    if isinstance(value, (torch.Tensor, tuple, list, dict)) and _within("Optional", kind):
        yield _Place(path, value, kind)
    if isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from _places(item, (*path, i), _type_of_item(kind, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key), _type_of_item(kind, 0))
    elif not isinstance(value, torch.Tensor):
        yield _Place(path, value, kind)


def _type_of_item(kind: str, index: int) -> str:
    """The type of an item of a container's type: `int` of `List[int]`; "" unknown."""
    inner = _within("Optional", kind)
    if inner is not None:
        return _type_of_item(inner, index)
    for container, position in (("List", 0), ("Dict", 1), ("Tuple", index)):
        text = _within(container, kind)
        if text is not None:
            # Not at commas within brackets.
            parts = re.findall(r"(?:[^,\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])+", text)
            return parts[position].strip() if position < len(parts) else ""
    return ""


def _within(outer: str, kind: str) -> str | None:
    """What stands in the brackets of a type; None for another type."""
    is_one = kind.startswith(f"{outer}[") and kind.endswith("]")
    return kind[len(outer) + 1 : -1] if is_one else None


def _vary(
    found: Plain,
    given: Example,
    whole: Example,
    group: list[_Place],
    constants: Sequence[int | float | str],
) -> None:
    """Add the changes of one argument's values."""
    varied = []
    for place in group:
        others, reason = _others(place, given, constants)
        if others:
            varied.append((place, others))
        elif reason:
            found.skipped.append(f"{whole.label(place.path)}: {reason}")
    chosen = varied
    if len(varied) > _MAX_ALONE:
        chosen = [varied[0], varied[-1]]
        every = {place.path: others[0] for place, others in varied}
        name = whole.names[group[0].path[0]]
        found.alone.append(_variant(f"all of {name} changed", given, whole, every))
    for place, others in chosen:
        made = [
            _variant(
                f"{whole.label(place.path)}={_shown(other)}", given, whole, {place.path: other}
            )
            for other in others
        ]
        found.alone.append(made[0])
        found.more += made[1:]
    for place in group:
        for number in _extremes(place):
            label = f"{whole.label(place.path)}={number}"
            found.extremes.append(_variant(label, given, whole, {place.path: number}))


def _others(
    place: _Place, given: Example, constants: Sequence[int | float | str]
) -> tuple[list[Any], str]:
    """Return other values for a place, the most telling first; or none, and why."""
    value, kind = place.value, place.type
    inner = _within("Optional", kind)
    if value is None:
        if inner is None:
            reason = "the exported model takes nothing else" if kind else "its type is not known"
            return [], f"is None, and {reason}"
        return _samples(inner, given, constants)
    if isinstance(value, (torch.Tensor, tuple, list, dict)):
        return [None], ""
    if not isinstance(value, (bool, int, float, complex, str)):
        return [], f"a {type(value).__name__} is not varied"
    if kind == "float" and isinstance(value, int):
        value = float(value)
    others: list[Any] = _beside(value, constants)
    return others[:_MAX_OTHERS] + ([None] if inner is not None else []), ""


def _samples(
    kind: str, given: Example, constants: Sequence[int | float | str]
) -> tuple[list[Any], str]:
    """Return values of a type where the example has None; or none, and why."""
    if kind == "Tensor":
        tensors = [tensor for _, tensor in tensors_of(given.values)]
        distinct = {(t.dtype, tuple(t.shape)): t for t in reversed(tensors)}
        if not distinct:
            return [], "is None, and no other argument shows a tensor for it"
        return list(distinct.values())[:_MAX_ALONE], ""
    zeros: dict[str, Any] = {"bool": False, "int": 0, "float": 0.0, "complex": 0j, "str": ""}
    if kind in zeros:
        zero = zeros[kind]
        return [*_beside(zero, constants)[: _MAX_OTHERS - 1], zero], ""
    item = _type_of_item(kind, 0)
    if _within("List", kind) is not None and item in zeros:
        one = _beside(zeros[item], constants)[0]
        return [[one], [one, zeros[item]], []], ""
    return [], f"is None, and no example shows a {kind} for it"


def _beside(value: Any, constants: Sequence[int | float | str]) -> list[Any]:
    """Return other values of a value's type, the most telling first."""
    found: list[Any]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        near = [c for c in constants if isinstance(c, int) and abs(c) <= _LARGEST and c != value]
        found = [value + 1, *near[:2], 0, 1, -1, value - 1, -value, 2 * value]
        found += [c + step for step in (0, 1, -1) for c in near]
        found = [n for n in found if abs(n) <= max(_LARGEST, 2 * abs(value))]
    elif isinstance(value, float):
        numbers = [float(c) for c in constants if not isinstance(c, str) and math.isfinite(c)]
        found = [value + 1, -value, 0.0, 1.0, -1.0, value * 10, value / 10, *numbers]
    elif isinstance(value, complex):
        found = [value + 1, value + 1j, -value, 0j]
    else:
        words = [c for c in constants if isinstance(c, str) and len(c) <= _LONGEST]
        words = [word for word in words if word != value]
        found = [value + _TWO_BYTES, *words[:2], "", value[:-1], 2 * value, value.swapcase()]
        found += [_TWO_BYTES + value, *words]
    distinct = {repr(other): other for other in found}  # 0.0 equals -0.0, NaN not itself
    distinct.pop(repr(value), None)
    return list(distinct.values())


def _extremes(place: _Place) -> list[float]:
    is_float = isinstance(place.value, float) or place.type in ("float", "Optional[float]")
    return [1e6, -1e6, math.nan, math.inf, -math.inf] if is_float else []


def _combine(
    found: Plain,
    given: Example,
    whole: Example,
    flags: Sequence[_Place],
    every: Sequence[_Place],
) -> None:
    """Add several changes at once: the flags in every combination, and all values."""
    if 1 < len(flags) <= _MAX_FLAGS:
        for values in itertools.product((False, True), repeat=len(flags)):
            changed = {p.path: v for p, v in zip(flags, values, strict=True) if v != p.value}
            if len(changed) > 1:
                label = ", ".join(f"{whole.label(path)}={v}" for path, v in changed.items())
                found.more.append(_variant(label, given, whole, changed))
    elif len(flags) > _MAX_FLAGS:
        found.skipped.append(f"{len(flags)} flags are not varied in every combination")
    changed = {p.path: others[0] for p in every if (others := _others(p, given, ())[0])}
    if len(changed) > max(1, len(flags)):
        found.more.append(_variant("every number, flag and string changed", given, whole, changed))


def _leave_out(found: Plain, given: Example, taken: Sequence[Taken] | None) -> None:
    """Add calls without one of the arguments that both sides have a default for."""
    if given.variadic:
        return
    optional = {argument.name for argument in taken or () if argument.has_default}
    for index, name in enumerate(given.names):
        if name not in given.defaults or name not in optional:
            continue
        rest = replace(
            given,
            names=(*given.names[:index], *given.names[index + 1 :]),
            values=(*given.values[:index], *given.values[index + 1 :]),
            by_keyword=True,
        )
        if rest.names:
            label = f"{name} left out (its default is {_shown(given.defaults[name])})"
            found.more.append(Variant(label, variants.example(rest).make, given=rest))


def _variant(label: str, given: Example, whole: Example, changed: dict[Path, Any]) -> Variant:
    """Make a variant; what the example leaves out, and what is not changed, stays left out."""
    kept = [
        index
        for index, name in enumerate(whole.names)
        if name in given.names or any(path[0] == index for path in changed)
    ]
    bound = whole if len(kept) == len(whole.names) else given
    if len(given.names) < len(kept) < len(whole.names):
        names = tuple(whole.names[index] for index in kept)
        bound = replace(whole, names=names, values=tuple(whole.values[index] for index in kept))

    def make() -> tuple[Any, ...]:
        return tuple(_changed(whole.values[index], (index,), changed) for index in kept)

    return Variant(label, make, given=bound)


def _changed(value: Any, path: Path, changed: dict[Path, Any]) -> Any:
    """Copy a value with others in some of its places."""
    if path in changed:
        value = changed[path]
    elif isinstance(value, tuple):
        items = [_changed(item, (*path, i), changed) for i, item in enumerate(value)]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    elif isinstance(value, list):
        return [_changed(item, (*path, i), changed) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        return {key: _changed(item, (*path, key), changed) for key, item in value.items()}
    return map_tensors(value, lambda _, tensor: tensor.detach().clone())


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

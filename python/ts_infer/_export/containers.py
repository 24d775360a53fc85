"""Inputs that are lists, tuples and dicts: their leaves, and how a scripted forward reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ts_infer._export.arguments import key_text, tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ts_infer._export.arguments import Path

_BY_KEY = ("aten::__getitem__", "aten::__contains__", "aten::get", "prim::TupleIndex")
_STEP = re.compile(r"""\.[^.\[]+|\["(?:[^"\\]|\\.)*"\]|\[[^\]]*\]""")
_ELEMENT = ...  # any element of a list, in the paths of Reads


@dataclass(frozen=True)
class Leaf:
    """A part of an argument that is no container of tensors.

    Attributes:
        path: The argument's number, then indices and keys.
        steps: What the path adds to the argument's name.
        type: In TorchScript.
        value: The example's; None for a key that the example does not have.
        optional: Whether it is behind a key that a dict need not have.
    """

    path: Path
    steps: str
    type: Any
    value: Any
    optional: bool


@dataclass
class Reads:
    """How forward reads the lists and dicts in one of its arguments.

    Attributes:
        any_length: Whether it does anything with a list but take elements of constant numbers.
        any_keys: Whether it does anything with a dict but ask for constant keys.
        asked: Keys that need not be there: it asks whether they are, or has a default.
    """

    any_length: bool = False
    any_keys: bool = False
    asked: set[Path] = field(default_factory=set)


def leaves_of(declared: Any, value: Any, path: Path, reads: Reads) -> list[Leaf]:
    """Return the leaves of an argument, depth-first; itself where it holds no tensor.

    Args:
        declared: The argument's type in TorchScript.
        value: The example's value.
        path: The argument's number in the example.
        reads: How forward reads it.
    """
    if not _has_plain_keys(value):
        return [Leaf(path, "", declared, value, optional=False)]
    return list(_leaves(Leaf(path, "", declared, value, optional=False), (), reads))


def _leaves(part: Leaf, general: Path, reads: Reads) -> Iterator[Leaf]:
    """Yield the leaves of a part; `general` is its path in `reads`."""
    kind = _bare(part.type)
    items = list(_items(kind, part.value)) if tensors_of(part.value) else []
    if not items:
        yield part
        return
    known = set()
    for step, text, item_type, item in items:
        inner = (*general, _ELEMENT if kind.kind() == "ListType" else step)
        known.add(inner)
        optional = part.optional or inner in reads.asked
        item_part = Leaf((*part.path, step), part.steps + text, item_type, item, optional)
        yield from _leaves(item_part, inner, reads)
    for asked in sorted(reads.asked - known, key=repr):
        if asked[:-1] == general and kind.kind() == "DictType":
            steps = part.steps + key_text(asked[-1])
            yield Leaf((*part.path, asked[-1]), steps, kind.getValueType(), None, optional=True)


def _items(kind: Any, value: Any) -> Iterator[tuple[Any, str, Any, Any]]:
    """Yield step, text of the step, type and value of each item of a container."""
    if kind.kind() == "DictType" and isinstance(value, Mapping):
        for key, item in value.items():
            yield key, key_text(key), kind.getValueType(), item
    elif kind.kind() in ("ListType", "TupleType") and isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", None)
        for i, item in enumerate(value):
            text = f"[{i}]" if fields is None else f".{fields[i]}"
            is_list = kind.kind() == "ListType"
            yield i, text, kind.getElementType() if is_list else kind.elements()[i], item


def _has_plain_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(
            isinstance(key, (str, int)) or (isinstance(key, float) and math.isfinite(key))
            for key in value
        ) and all(map(_has_plain_keys, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_has_plain_keys, value))


def _bare(declared: Any) -> Any:
    return declared.getElementType() if declared.kind() == "OptionalType" else declared


def put_together(schema: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return whole arguments where some are given leaf by leaf.

    Args:
        schema: Forward's.
        given: Values by the name of an argument, or by the path of a leaf.

    Returns:
        The arguments by name; what is no argument and no leaf of one is there as it was given.

    Raises:
        ValueError: The paths do not fit an argument's type.
    """
    found = dict(given)
    for argument in schema.arguments[1:]:
        name = argument.name
        paths = [path for path in given if path.startswith((f"{name}.", f"{name}["))]
        if paths:
            parts = {path.removeprefix(name): found.pop(path) for path in paths}
            found[name] = _put_together(name, argument.type, parts)
    return found


def _put_together(name: str, declared: Any, parts: Mapping[str, Any]) -> Any:
    if list(parts) == [""]:
        return parts[""]
    kind = _bare(declared)
    groups: dict[str, dict[str, Any]] = {}
    for steps, value in parts.items():
        step = _STEP.match(steps)
        groups.setdefault(step[0] if step else "", {})[steps[step.end() if step else 0 :]] = value
    if kind.kind() == "DictType" and "" not in groups:
        return {
            _key_of(step): _put_together(name + step, kind.getValueType(), inner)
            for step, inner in groups.items()
        }
    if kind.kind() == "ListType":
        types = [kind.getElementType()] * len(groups)
    else:
        types = kind.elements() if kind.kind() == "TupleType" else []
    wanted = [f"[{i}]" for i in range(len(types))]
    if sorted(wanted) != sorted(groups):
        # A type does not tell the names of a named tuple's fields.
        raise ValueError(
            f"inputs: {name}: expected all parts of a {declared.annotation_str} by key or number, "
            f"got {', '.join(name + steps for steps in parts)}; or give it whole, in Python"
        )
    items = [
        _put_together(name + step, item_type, groups[step])
        for step, item_type in zip(wanted, types, strict=True)
    ]
    return items if kind.kind() == "ListType" else tuple(items)


def _key_of(step: str) -> Any:
    if step.startswith("."):
        return step[1:]
    try:
        return json.loads(step[1:-1])
    except ValueError:
        return step[1:-1]


def reads_of(argument: Any) -> Reads:
    """Return how a scripted graph reads one of its inputs.

    Args:
        argument: The input, a value of the inlined graph.
    """
    reads = Reads()
    _follow(argument, (), reads)
    return reads


def _follow(value: Any, path: Path, reads: Reads) -> None:
    kind = _bare(value.type()).kind()
    if kind not in ("ListType", "TupleType", "DictType"):
        return
    for use in value.uses():
        node, operator = use.user, use.user.kind()
        outputs = list(node.outputs())
        if operator in ("aten::__is__", "aten::__isnot__", "aten::_set_item"):
            continue
        if operator == "prim::unchecked_cast":
            _follow(outputs[0], path, reads)
        elif operator == "aten::len" and kind == "ListType":
            reads.any_length = True
        elif operator in ("prim::ListUnpack", "prim::TupleUnpack"):
            for i, output in enumerate(outputs):
                _follow(output, (*path, _ELEMENT if kind == "ListType" else i), reads)
        elif operator in _BY_KEY and use.offset == 0:
            key = list(node.inputs())[1].toIValue()
            if kind == "ListType":
                reads.any_length |= key is None or key < 0
                key = _ELEMENT
            if key is None:
                reads.any_keys = True
                continue
            if operator in ("aten::__contains__", "aten::get"):
                reads.asked.add((*path, key))
            if operator != "aten::__contains__":
                _follow(outputs[0], (*path, key), reads)
        else:
            kinds = _kinds(value.type())
            reads.any_length |= "ListType" in kinds
            reads.any_keys |= "DictType" in kinds


def _kinds(declared: Any) -> set[str]:
    """Return the kinds of a type and of what it contains."""
    return {declared.kind()}.union(*map(_kinds, declared.containedTypes()))

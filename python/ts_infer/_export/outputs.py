"""What forward returns: taken apart for a trace, which returns tensors alone, and put together.

A trace forgets the fields of named tuples, and refuses None, numbers, and lists and dicts of values
of several types. So it is handed the tensors, in order, and a scripted module around the trace,
whose source is written here, puts them back into what the module returned.
"""

from __future__ import annotations

import dataclasses
import itertools
import linecache
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_jit: Any = torch.jit  # not annotated upstream
_numbers = itertools.count()


def settled(value: Any) -> Any:
    """Return a result with the containers that TorchScript has.

    Args:
        value: A result of a module.

    Returns:
        The same without gradients, with each dataclass as a named tuple of its fields, and each
        mapping of another class (transformers' ModelOutput) as a dict.
    """
    if isinstance(value, torch.Tensor):
        return value.detach() if value.requires_grad else value
    if isinstance(value, Mapping):
        return {key: settled(item) for key, item in value.items()}
    if _is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
        made = _named_tuple(type(value).__name__, tuple(names))
        return made(*(settled(getattr(value, name)) for name in names))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _named_tuple(type(value).__name__, value._fields)(*map(settled, value))
    if isinstance(value, tuple):
        return tuple(map(settled, value))
    if isinstance(value, list):
        return list(map(settled, value))
    return value


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


_made: dict[tuple[str, tuple[str, ...]], Any] = {}


def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    """One class for each name and fields, so that results of two calls are of one type."""
    if (name, fields) not in _made:
        _made[name, fields] = NamedTuple(name, [(each, Any) for each in fields])
    return _made[name, fields]


class UnknownValueError(Exception):
    """A result holds what TorchScript has no word for."""


@dataclass
class Outputs:
    """A result that was taken apart.

    Attributes:
        text: The expression that puts it together of `r[0]`, `r[1]`, …
        classes: For each named tuple, its name and the types of its fields.
        plain: Whether a trace returns it as it is.
        notes: What it was before it was settled, where that is not the same.
    """

    text: str
    classes: dict[str, dict[str, str]]
    plain: bool
    notes: list[str]


def take_apart(result: Any) -> tuple[Outputs, list[torch.Tensor]]:
    """Describe a result, and list its tensors.

    Args:
        result: What a module returned.

    Returns:
        Its description, and its tensors, depth-first.

    Raises:
        UnknownValueError: It holds what TorchScript does not have; the text says where and what.
    """
    writer = _Writer()
    text, _ = writer.write(settled(result), "the output")
    notes = list(dict.fromkeys(_notes(result)))
    return Outputs(text, writer.classes, _is_plain(result), notes), writer.tensors


def _is_plain(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return bool(value) and all(map(_is_plain, value))
    items = list(value.values()) if isinstance(value, dict) else value
    return isinstance(items, list) and bool(items) and all(map(torch.is_tensor, items))


def _notes(value: Any) -> Iterator[str]:
    name = type(value).__name__
    if isinstance(value, Mapping):
        if not isinstance(value, dict) or dataclasses.is_dataclass(value):
            yield f"forward returns {name}: the archive returns a dict of its entries"
        items = list(value.values())
    elif isinstance(value, (tuple, list)):
        items = list(value)
    elif _is_dataclass(value):
        yield f"forward returns {name}: the archive returns a named tuple of its fields"
        items = [getattr(value, each.name) for each in dataclasses.fields(value)]
    else:
        return
    for item in items:
        yield from _notes(item)


@dataclass
class _Writer:
    """Writes a value as an expression of TorchScript, and notes what that takes."""

    tensors: list[torch.Tensor] = field(default_factory=list)
    classes: dict[str, dict[str, str]] = field(default_factory=dict)

    def write(self, value: Any, where: str) -> tuple[str, str]:
        """Return the expression, and its type."""
        if isinstance(value, torch.Tensor):
            self.tensors.append(value)
            return f"r[{len(self.tensors) - 1}]", "Tensor"
        if value is None:
            return "None", "NoneType"
        if type(value) in (bool, int, str):
            return repr(value), type(value).__name__
        if type(value) is float:
            return _float(value), "float"
        if type(value) is complex:
            return f"complex({_float(value.real)}, {_float(value.imag)})", "complex"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            names = value._fields
            texts, kinds = self._write_all(value, (f"{where}.{name}" for name in names))
            kinds = ["Optional[Tensor]" if kind == "NoneType" else kind for kind in kinds]
            name = self._class_of(type(value).__name__, dict(zip(names, kinds, strict=True)))
            return f"{name}({', '.join(texts)})", name
        if isinstance(value, dict):
            return self._write_dict(value, where)
        if not isinstance(value, (tuple, list)):
            raise UnknownValueError(
                f"{where} is a {type(value).__name__}: expected tensors, numbers, strings, None, "
                "and tuples, named tuples, dataclasses, lists and dicts of them"
            )
        texts, kinds = self._write_all(value, (f"{where}[{i}]" for i in range(len(value))))
        if isinstance(value, tuple):
            return (
                f"({''.join(f'{text}, ' for text in texts)})",
                f"Tuple[{', '.join(kinds) or '()'}]",
            )
        kind = f"List[{_common(kinds)}]"
        return f"torch.jit.annotate({kind}, [{', '.join(texts)}])", kind

    def _write_dict(self, value: dict[Any, Any], where: str) -> tuple[str, str]:
        types = {type(key).__name__ for key in value} or {"str"}
        if types not in ({"str"}, {"int"}):
            raise UnknownValueError(
                f"{where} has the keys {list(value)}: expected strings, or whole numbers"
            )
        texts, kinds = self._write_all(value.values(), (f"{where}[{key!r}]" for key in value))
        kind = f"Dict[{types.pop()}, {_common(kinds)}]"
        items = ", ".join(f"{key!r}: {text}" for key, text in zip(value, texts, strict=True))
        return f"torch.jit.annotate({kind}, {{{items}}})", kind

    def _write_all(
        self, values: Iterable[Any], where: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        written = [self.write(value, place) for value, place in zip(values, where, strict=True)]
        return [text for text, _ in written], [kind for _, kind in written]

    def _class_of(self, name: str, fields: dict[str, str]) -> str:
        """Note a named tuple; return its name, another where its fields have other types."""
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        names = itertools.chain([name], numbered)
        free = next(each for each in names if self.classes.get(each, fields) == fields)
        self.classes[free] = fields
        return free


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def _common(kinds: list[str]) -> str:
    """Return the type of the values of a list or dict."""
    distinct = set(kinds)
    if not distinct:
        return "Tensor"
    return "Any" if len(distinct) > 1 or "NoneType" in distinct else distinct.pop()


def watch_outputs(module: nn.Module) -> list[Outputs]:
    """Have a module return its tensors alone where a trace could not return its result.

    Args:
        module: A copy to be traced.

    Returns:
        What each call's result was, once it was called.
    """
    seen: list[Outputs] = []
    cls = type(module)

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = cls.__call__(self, *args, **kwargs)
        outputs, tensors = take_apart(result)
        seen.append(outputs)
        return result if outputs.plain or not tensors else tuple(tensors)

    # A hook of the module's own would be compiled, and come before its others.
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    module.__class__ = type(cls.__name__, (cls,), {"__call__": call, **named})
    return seen


def restore_outputs(traced: Any, outputs: Outputs, module: nn.Module, methods: list[str]) -> Any:
    """Script a module around a trace that returns what the traced module returned.

    Args:
        traced: The trace, which returns a tuple of tensors.
        outputs: What they are taken from.
        module: The module that was traced, for its name.
        methods: Methods to keep, other than forward.

    Returns:
        The scripted module, whose attribute `inner` is the trace.
    """
    classes = [
        line
        for name, fields in outputs.classes.items()
        for line in (f"class {name}(NamedTuple):", *(f"    {n}: {t}" for n, t in fields.items()))
    ]
    lines = [*classes, "class Outer(torch.nn.Module):"]
    lines += ["    def __init__(self, inner):", "        super().__init__()"]
    lines += ["        self.inner = inner"]
    for name in ("forward", *methods):
        arguments = getattr(traced, name).schema.arguments[1:]
        typed = "".join(f", {a.name}: {a.type.annotation_str}" for a in arguments)
        taken = ", ".join(argument.name for argument in arguments)
        lines += ["    @torch.jit.export", f"    def {name}(self{typed}):"]
        lines += [f"        r = self.inner.{name}({taken})"]
        lines += [f"        return {outputs.text if name == 'forward' else 'r'}"]
    file = f"<outputs {next(_numbers)}>"
    text = "\n".join([*lines, ""])
    # torch.jit reads the source there.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {name: getattr(typing, name) for name in typing.__all__}
    space |= {"torch": torch, "Tensor": torch.Tensor, "NoneType": type(None)}
    space["__name__"] = type(module).__module__
    exec(compile(text, file, "exec", dont_inherit=True), space)
    outer = space["Outer"]
    outer.__name__ = outer.__qualname__ = type(module).__name__
    return _jit.script(outer(traced).eval())

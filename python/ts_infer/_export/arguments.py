"""How the example inputs bind to a module's forward."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Example:
    """The example inputs by name, in the order of forward's parameters.

    Attributes:
        names: One name per argument that was given.
        values: The arguments, in the order of `names`.
        by_keyword: Whether the caller gave them by name.
        defaults: Default values of forward's parameters, by name.
        parameters: Names of forward's positional parameters.
        keyword_only: Names of its keyword-only parameters.
        variadic: Whether the example gives values for `*args`.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]
    by_keyword: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    keyword_only: frozenset[str] = frozenset()
    variadic: bool = False

    def label(self, path: Path) -> str:
        """Return how a tensor of the example is called: `points`, `boxes[0]`, `sensors.imu`."""
        return self.names[path[0]] + steps_text(self.values[path[0]], path[1:])

    def only_tensors(self) -> bool:
        """Whether every argument is a tensor or a container of tensors, or at its default."""
        plain = (bool, int, float, complex, str, type(None))
        for name, value in zip(self.names, self.values, strict=True):
            default = self.defaults.get(name, ...)
            if isinstance(value, plain) and not (type(default) is type(value) and default == value):
                return False
        return not self.keyword_only.intersection(self.names)

    def with_values(self, values: Sequence[Any]) -> Example:
        """Return the same binding of other values."""
        return replace(self, values=tuple(values))

    def call(
        self, target: Callable[..., Any], values: Sequence[Any], skip: Sequence[str] = ()
    ) -> Any:
        """Call `target` with `values`, given as the caller gave the example.

        Args:
            target: A module or an exported module.
            values: One value per name.
            skip: Names of arguments that `target` does not have.

        Returns:
            What `target` returns.
        """
        chosen = {n: v for n, v in zip(self.names, values, strict=True) if n not in skip}
        if self.by_keyword:
            return target(**chosen)
        return target(*chosen.values())


def bind(module: nn.Module, example_inputs: Any) -> Example:
    """Bind example inputs to the parameters of a module's forward.

    Args:
        module: A module, scripted or not.
        example_inputs: One tensor, a tuple of positional arguments, or a dict of keyword
            arguments.

    Returns:
        The bound example.

    Raises:
        ValueError: They do not fit forward's parameters; the text starts with what failed.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, torch.Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, tuple):
        args = example_inputs
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    else:
        raise ValueError(
            "example_inputs: expected a tensor, a tuple of arguments or a dict of names and "
            f"values, got {type(example_inputs).__name__}; for one list argument give ([…],)"
        )
    signature = _signature(module)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"example_inputs: expected the arguments of forward{signature}, got "
            f"{_describe(args, kwargs)} ({error}); give what the module is called with"
        ) from None
    names: list[str] = []
    values: list[Any] = []
    variadic = False
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = True
            names += [f"{name}_{i}" for i in range(len(value))]
            values += value
        elif kind is inspect.Parameter.VAR_KEYWORD:
            names += value
            values += value.values()
        else:
            names.append(name)
            values.append(value)
    defaults = {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    kinds = {parameter.name: parameter.kind for parameter in signature.parameters.values()}
    return Example(
        tuple(names),
        tuple(values),
        bool(kwargs),
        defaults,
        tuple(n for n, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD),
        frozenset(n for n, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY),
        variadic,
    )


def _signature(module: nn.Module) -> inspect.Signature:
    if not isinstance(module, torch.jit.ScriptModule):
        return inspect.signature(module.forward)
    parameters = []
    forward: Any = module.forward
    for argument in forward.schema.arguments[1:]:
        default = (
            argument.default_value if argument.has_default_value() else inspect.Parameter.empty
        )
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(argument.name, kind, default=default))
    return inspect.Signature(parameters)


def _describe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    if kwargs:
        return f"the names {', '.join(kwargs)}"
    return f"{len(args)} by position"


def steps_text(value: Any, steps: Path) -> str:
    """Return what a path within a value adds to its name: `[0]`, `.imu`.

    Args:
        value: The value.
        steps: Indices and keys, the outermost first.
    """
    text = ""
    for step in steps:
        if isinstance(value, Mapping):
            text += key_text(step)
        else:
            fields = getattr(value, "_fields", None)
            text += f"[{step}]" if fields is None else f".{fields[step]}"
        value = value[step]
    return text


def key_text(key: Any) -> str:
    """Return what a dict's key adds to a path; one that it could not hold is in brackets."""
    if isinstance(key, str) and re.fullmatch(r"""[^ .[\]="'\\\x00-\x1f\x7f]+""", key):
        return f".{key}"
    try:
        return f"[{json.dumps(key, ensure_ascii=False)}]"
    except TypeError:
        return f"[{key!r}]"


def map_tensors(
    value: Any, function: Callable[[Path, torch.Tensor], torch.Tensor], path: Path = ()
) -> Any:
    """Rebuild nested tuples, lists and dicts with every tensor replaced.

    Args:
        value: A tensor, a container of values, or anything else, which is kept.
        function: Gets a tensor's path (indices and keys) and the tensor.
        path: Path of `value` itself.

    Returns:
        The same structure with new containers.
    """
    if isinstance(value, torch.Tensor):
        return function(path, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = [map_tensors(v, function, (*path, i)) for i, v in enumerate(value)]
        return type(value)(*items)
    if isinstance(value, tuple):
        return tuple(map_tensors(v, function, (*path, i)) for i, v in enumerate(value))
    if isinstance(value, list):
        return [map_tensors(v, function, (*path, i)) for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {k: map_tensors(v, function, (*path, k)) for k, v in value.items()}
    return value


def tensors_of(value: Any) -> list[tuple[Path, torch.Tensor]]:
    """Return the tensors of nested containers with their paths, depth-first."""
    found: list[tuple[Path, torch.Tensor]] = []

    def note(path: Path, tensor: torch.Tensor) -> torch.Tensor:
        found.append((path, tensor))
        return tensor

    map_tensors(value, note)
    return found

"""Scripting parts of a module: with the types that were observed, and with advice when it fails.

All of it runs in a process of its own, so it may change functions, classes and modules.

torch.jit reads a function's source through `linecache`. Types are therefore given there: in the
text that `linecache` holds, with every line where it was. The files, and the functions that
Python runs, stay as they are.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import inspect
import linecache
import math
import re
import sys
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ts_infer._export.arguments import map_tensors
from ts_infer._export.observe import (
    WHOLE,
    Definition,
    Function,
    Observation,
    Unit,
    defaults,
    definitions,
    methods,
    unwrapped,
)
from ts_infer._export.source import is_user_file, show_edited, statement_in_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# How edits name torch.jit.annotate and torch.tensor; torch.jit looks names up in the builtins too.
_ANNOTATE, _TENSOR = "torch_jit_annotate", "torch_tensor"
_DEFAULT_TYPES = ("List[Tensor]", "Dict[str, Tensor]")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_jit: Any = torch.jit  # not annotated upstream
_getfile = inspect.getfile

_Key = tuple[str, int, str]  # file, first line, plain name
_Edit = tuple[int, int, int, str]  # line, first and last column in bytes, new text


@dataclass(frozen=True)
class ScriptedPart:
    """A part that was scripted.

    Attributes:
        name: The submodule's path or the function's qualified name.
        file: Where it is defined.
        line: Its first line.
        kind: "function" or "module".
    """

    name: str
    file: str
    line: int
    kind: str


class ScriptingError(Exception):
    """torch.jit cannot compile a unit.

    Attributes:
        unit: The unit.
        cause: What torch.jit said.
        advice: What to write instead.
        file: The user's file; empty where the place is unknown.
        line: The line of it.
    """

    def __init__(self, unit: Unit, cause: str, advice: str, file: str = "", line: int = 0) -> None:
        """Keep the arguments; the exception can be pickled."""
        super().__init__(unit, cause, advice, file, line)
        self.unit, self.cause, self.advice, self.file, self.line = unit, cause, advice, file, line

    def __str__(self) -> str:
        """Say what failed and what to do."""
        return f"{self.unit} cannot be scripted: {self.cause.strip()}; {self.advice}"


def give_types(module: nn.Module, observation: Observation) -> None:
    """Have torch.jit see, in all files whose functions ran, the types that were observed.

    Annotations that stand there are kept. Numbers and strings that are globals are shown as
    literals, calls of `super()` as calls of methods that `script_units` adds.

    Args:
        module: The module that was observed, or a copy.
        observation: What was observed.
    """
    setattr(builtins, _ANNOTATE, _jit.annotate)
    setattr(builtins, _TENSOR, torch.tensor)
    inspect.getfile = _file_of  # type: ignore[assignment]
    known = _user_functions(_namespaces(module, observation), module)
    observed = {_plain(function): function for function in observation.functions.values()}
    for file in {function.key[0] for function in observation.functions.values()}:
        edits: list[_Edit] = []
        for (line, name), node in definitions(file).items():
            key = (file, line, name)
            edits += _argument_edits(node, observed.get(key))
            edits += _local_edits(node, observed.get(key))
            edits += _number_edits(node, file, observation)
            edits += _constant_edits(node, known.get(key))
            edits += _super_edits(node, known.get(key))
        show_edited(file, _edited(linecache.getlines(file), edits))


def script_units(
    module: nn.Module, observation: Observation, units: Sequence[Unit]
) -> tuple[nn.Module, list[ScriptedPart]]:
    """Put scripted parts in the place of submodules and functions.

    Args:
        module: A disposable copy of the observed module, in eval mode.
        observation: What was observed.
        units: What to script; those inside of others are left to them.

    Returns:
        The module, scripted itself where a unit is the whole; and the parts.

    Raises:
        ScriptingError: torch.jit cannot compile one of them.
    """
    # What was compiled before, perhaps in vain, knew nothing of the types.
    torch.jit._state._jit_caching_layer.clear()
    units = [WHOLE] if WHOLE in units else list(dict.fromkeys(units))
    paths = [path for unit in units for path in unit.paths]
    scripter = _Scripter(module, observation)
    for unit in units:
        if unit.function is not None:
            scripter.script_function(unit)
        for path in unit.paths:
            if not any(path.startswith(f"{other}.") for other in paths):
                scripter.script_module(unit, path)
    return scripter.put_in_place(), scripter.parts


def keep_state(module: nn.Module) -> Callable[[], None]:
    """Note the attributes of scripted parts, which tracing the rest may change.

    Returns:
        A function that puts them back as they are now.
    """
    memo: dict[int, Any] = {}
    kept: list[tuple[Any, str, Any, Any]] = []
    for child in module.modules():
        if isinstance(child, torch.jit.ScriptModule):
            part: Any = child
            for name in part._concrete_type.get_attributes():
                value = part._c.getattr(name)
                kept.append((part._c, name, value, copy.deepcopy(value, memo)))

    def restore() -> None:
        with torch.no_grad():
            for part, name, value, saved in kept:
                if not isinstance(value, torch.Tensor):
                    part.setattr(name, saved)
                elif value.shape != saved.shape or not torch.equal(value, saved):
                    # In place: other parts may share the tensor.
                    value.set_(saved)
                    part.setattr(name, value)

    return restore


def _file_of(item: Any) -> str:
    """Return what `inspect.getfile` does; for a class of a notebook, the cell of its methods."""
    try:
        return _getfile(item)
    except (OSError, TypeError):
        files = (f.__code__.co_filename for _, f in methods(item)) if isinstance(item, type) else ()
        file = next(filter(is_user_file, files), None)
        if file is None:
            raise
        return file


def _plain(function: Function) -> _Key:
    file, line, qualname = function.key
    return file, line, qualname.rpartition(".")[2]


def _key_of(function: types.FunctionType) -> _Key:
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def _namespaces(module: nn.Module, observation: Observation) -> list[dict[str, Any]]:
    """Return the globals of all Python modules, and of the functions that ran."""
    files = {function.key[0] for function in observation.functions.values()}
    found = {
        id(vars(python)): vars(python)
        for python in list(sys.modules.values())
        if isinstance(python, types.ModuleType)
    }
    for child in module.modules():
        for _, function in methods(type(child)):
            found.setdefault(id(function.__globals__), function.__globals__)
    todo = list(found.values())
    while todo:
        for value in list(todo.pop().values()):
            for function in unwrapped(value):
                namespace = function.__globals__
                if function.__code__.co_filename in files and id(namespace) not in found:
                    found[id(namespace)] = namespace
                    todo.append(namespace)
    return list(found.values())


def _user_functions(
    namespaces: Sequence[dict[str, Any]], module: nn.Module
) -> dict[_Key, types.FunctionType]:
    found = {
        _key_of(function): function
        for namespace in namespaces
        for value in list(namespace.values())
        for function in unwrapped(value)
    }
    for child in module.modules():
        found |= {_key_of(function): function for _, function in methods(type(child))}
    return found


# --- The text that torch.jit sees ---


def _edited(lines: Sequence[str], edits: Sequence[_Edit]) -> list[str]:
    changed = [line.encode() for line in lines]
    # From the end, so that columns stay valid. Of insertions at one place the later one is inner.
    for line, start, end, text in sorted(edits, key=lambda edit: edit[:3], reverse=True):
        old = changed[line - 1]
        changed[line - 1] = old[:start] + text.encode() + old[end:]
    return [line.decode() for line in changed]


def _around(node: ast.expr, before: str, after: str = ")") -> list[_Edit]:
    return [(node.lineno, node.col_offset, node.col_offset, before), _after(node, after)]


def _after(node: ast.expr | ast.arg, text: str) -> _Edit:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset, node.end_col_offset, text


def _argument_edits(node: Definition, observed: Function | None) -> Iterator[_Edit]:
    default_of = defaults(node)
    for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
        if argument.annotation is not None:
            continue
        kind = observed.arguments.get(argument.arg) if observed is not None else None
        default = default_of.get(argument.arg)
        if kind == "NoneType":
            kind = "Optional[Tensor]"
        elif observed is None and isinstance(default, ast.Constant):
            kind = type(default.value).__name__
            kind = kind if kind in ("bool", "int", "float", "str") else None
        if kind is not None and kind != "Tensor":
            yield _after(argument, f": {kind}")


def _local_edits(node: Definition, observed: Function | None) -> Iterator[_Edit]:
    if observed is None:
        return
    body = list(_body(node))
    stored = [n.id for n in body if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    became_tensors: set[str] = set()
    for target, value in _assignments(body):
        kind = observed.locals.get(target)
        if _is_none(value) and stored.count(target) > 1:
            kind = "Tensor" if kind in (None, "NoneType") else kind
            kind = kind if kind.startswith("Optional[") else f"Optional[{kind}]"
            yield from _around(value, f"{_ANNOTATE}({kind}, ")
        elif kind is None:
            continue
        elif _empty_container(value) == kind[:4] and kind not in _DEFAULT_TYPES:
            yield from _around(value, f"{_ANNOTATE}({kind}, ")
        elif _is_number(value) and kind in ("float", "Tensor") and stored.count(target) > 1:
            # `total = 0`, which becomes a float or a tensor later: TorchScript would truncate it.
            yield from _around(value, f"{_TENSOR}(" if kind == "Tensor" else "float(")
            if kind == "Tensor":
                became_tensors.add(target)
    for statement in body:
        target_node = statement.target if isinstance(statement, ast.AugAssign) else None
        if isinstance(target_node, ast.Name) and target_node.id in became_tensors:
            assert isinstance(statement, ast.AugAssign)
            yield from _without_in_place(statement, target_node)


def _number_edits(node: Definition, file: str, observation: Observation) -> Iterator[_Edit]:
    """Give what `item` and `tolist` return its type, which torch.jit cannot know."""
    for call in _body(node):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr not in ("item", "tolist"):
            continue
        assert call.end_lineno is not None
        assert call.end_col_offset is not None
        kind = observation.numbers.get((file, call.end_lineno, call.end_col_offset))
        for line in range(call.lineno, call.end_lineno + 1):
            kind = kind or observation.numbers.get((file, line, -1))
        if kind in ("bool", "int", "float"):
            yield from _around(call, f"{kind}(")
        elif kind is not None:
            yield from _around(call, f"{_ANNOTATE}({kind}, ")


def _without_in_place(statement: ast.AugAssign, target: ast.Name) -> Iterator[_Edit]:
    """Show `total += x` as `total = total + (x)`: of a number, Python makes a new value."""
    value, sign = statement.value, _SIGNS.get(type(statement.op))
    if sign is not None and target.lineno == value.lineno and target.end_col_offset is not None:
        text = f" = {target.id} {sign} ("
        yield target.lineno, target.end_col_offset, value.col_offset, text
        yield _after(value, ")")


def _constant_edits(node: Definition, function: types.FunctionType | None) -> Iterator[_Edit]:
    """Show globals that are numbers or strings as literals: torch.jit refuses such globals."""
    if function is None:
        return
    body = list(_body(node, f_strings=False))
    own = {n.id for n in body if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    own |= set(function.__code__.co_varnames)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    outer = {name: _content(cell) for name, cell in cells}
    for name in body:
        if isinstance(name, ast.Name) and name.id not in own:
            text = _literal(outer.get(name.id, function.__globals__.get(name.id)))
            if text is not None:
                assert name.end_col_offset is not None
                yield name.lineno, name.col_offset, name.end_col_offset, text


def _literal(value: Any) -> str | None:
    if type(value) in (tuple, list):
        parts = [_literal(item) for item in value]
        known = [part for part in parts if part is not None]
        if not parts or len(known) < len(parts):
            return None
        text = ", ".join(known)
        return f"[{text}]" if type(value) is list else f"({text},)"
    if type(value) is float and not math.isfinite(value):
        return f"float('{value}')"
    if type(value) in (bool, int, float, str):
        return repr(value) if not repr(value).startswith("-") else f"({value!r})"
    return None


def _super_edits(node: Definition, function: types.FunctionType | None) -> Iterator[_Edit]:
    """Show super().method as self.super_Class_method: torch.jit knows no super()."""
    if function is None or not node.args.args:
        return
    for call in _super_calls(node):
        if call.lineno == call.end_lineno and call.end_col_offset is not None:
            text = f"{node.args.args[0].arg}.{_super_name(function, call.attr)}"
            yield call.lineno, call.col_offset, call.end_col_offset, text


def _super_name(caller: types.FunctionType, method: str) -> str:
    class_name = caller.__qualname__.rpartition(".")[0].rpartition(".")[2]
    return f"super_{class_name}_{caller.__code__.co_firstlineno}_{method}"


def _super_calls(node: Definition) -> list[ast.Attribute]:
    return [
        n
        for n in _body(node)
        if isinstance(n, ast.Attribute)
        and isinstance(n.value, ast.Call)
        and _is_name(n.value.func, "super")
        and not n.attr.startswith("__")
    ]


def _body(node: Definition, f_strings: bool = True) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body, without those of functions inside."""
    todo: list[ast.AST] = list(node.body)
    while todo:
        inner = todo.pop()
        # Before Python 3.12 nodes inside of f-strings have wrong places.
        if isinstance(inner, _DEFINITIONS) or (isinstance(inner, ast.JoinedStr) and not f_strings):
            continue
        yield inner
        todo += ast.iter_child_nodes(inner)


def _assignments(body: Sequence[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target, value = statement.targets[0], statement.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=False))
        yield from ((t.id, v) for t, v in pairs if isinstance(t, ast.Name))


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (bool, int, float)


def _is_call_of(node: ast.expr, method: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
        and not node.args
    )


def _empty_container(node: ast.expr) -> str:
    """Return "List", "Dict" or nothing."""
    if isinstance(node, ast.Call) and not node.args and not node.keywords:
        return next((n.title() for n in ("list", "dict") if _is_name(node.func, n)), "")
    if isinstance(node, ast.List) and not node.elts:
        return "List"
    return "Dict" if isinstance(node, ast.Dict) and not node.keys else ""


# --- Scripting ---


class _Scripter:
    """Scripts parts of one module."""

    def __init__(self, module: nn.Module, observation: Observation) -> None:
        self.module = module
        self._observation = observation
        self._namespaces = _namespaces(module, observation)
        self._observed = {_plain(f): f for f in observation.functions.values()}
        self._classes: dict[Any, type] = {}
        self._placements: list[Callable[[], None]] = []
        self.parts: list[ScriptedPart] = []

    def put_in_place(self) -> nn.Module:
        """Replace what was scripted, and return the module."""
        # Only now: torch.jit compiled the parts from what they called before.
        for place in self._placements:
            place()
        return self.module

    def script_function(self, unit: Unit) -> None:
        assert unit.function is not None
        file, line, name = unit.function
        places = self._places((file, line, name.rpartition(".")[2]))
        if not places:
            raise ScriptingError(
                unit,
                "no global holds the function",
                "make it a plain function of a Python module",
                file,
                line,
            )
        function, _ = places[0]
        scripted = self._compiled(unit, lambda: _jit.script(function))
        for _, put in places:
            self._placements.append(functools.partial(put, _without_aliases(scripted)))
        self.parts.append(ScriptedPart(name, file, line, "function"))

    def script_module(self, unit: Unit, path: str) -> None:
        child: Any = self.module.get_submodule(path)
        if isinstance(child, torch.jit.ScriptModule):
            return
        self.parts.append(self._part(child, path))

        def compile_module() -> Any:
            for name, inner in list(child.named_modules()):
                if not isinstance(inner, torch.jit.ScriptModule):
                    _bake_parameters(inner)
                    self._prepare(inner, f"{path}.{name}".strip("."), inner is child)
            with torch.no_grad():
                return _jit.script(child)

        scripted = self._compiled(unit, compile_module)
        for name, value in vars(child).items():
            # What torch.jit has no type for: code outside may read it.
            if not hasattr(scripted, name):
                vars(scripted)[name] = value
        for name in self._observation.entries.get(path, ()) if path else ():
            vars(scripted)[name] = _without_aliases(getattr(scripted, name))

        def place() -> None:
            for parent in self.module.modules():
                for name, value in parent._modules.items():
                    if value is child:
                        parent._modules[name] = scripted
            if path == "":
                self.module = scripted

        self._placements.append(place)

    def _part(self, module: nn.Module, path: str) -> ScriptedPart:
        entry = self._observation.entries.get(path, ("forward",))[0]
        for name, function in methods(type(module)):
            file, line, _ = _key_of(function)
            if name == entry and is_user_file(file):  # a decorator's wrapper may be torch's
                return ScriptedPart(path, file, line, "module")
        return ScriptedPart(path, "", 0, "module")

    def _places(self, key: _Key) -> list[tuple[types.FunctionType, Callable[[Any], None]]]:
        """Return where a function is held: the function, and what puts another in its place."""
        found: list[tuple[types.FunctionType, Callable[[Any], None]]] = []
        holders = [*self._namespaces, *(vars(child) for child in self.module.modules())]
        for holder in holders:
            for name, value in list(holder.items()):
                chain = list(unwrapped(value))
                function = next((f for f in chain if _key_of(f) == key), None)
                if function is None:
                    continue
                cells = [
                    cell
                    for wrapper in chain
                    for cell in wrapper.__closure__ or ()
                    if _content(cell) is function
                ]
                # A decorator goes on deciding when the function is called.
                found += [(function, _cell_setter(cell)) for cell in cells]
                if not cells:
                    found.append((function, _item_setter(holder, name)))
        return found

    def _prepare(self, module: nn.Module, path: str, outermost: bool) -> None:
        """Give a module a class of its own, with what torch.jit needs: it remembers classes."""
        cls = type(module)
        if not any(is_user_file(_key_of(f)[0]) for _, f in methods(cls)):
            return
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            for name, value in vars(base).items():
                if type(value) in (bool, int, float, str) and not name.startswith("__"):
                    vars(module).setdefault(name, value)
        entries = self._observation.entries.get(path, ()) if outermost else ()
        annotations = dict(self._observation.attributes.get(path, {}))
        shared = (cls, entries, tuple(annotations.items()), outermost)
        if shared not in self._classes:
            self._classes[shared] = self._class(cls, entries, annotations, outermost)
        module.__class__ = self._classes[shared]

    def _class(
        self, cls: type, entries: Sequence[str], attributes: dict[str, str], outermost: bool
    ) -> type:
        changes: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        annotations = _resolved_annotations(cls)
        for name, text in attributes.items():
            annotations.setdefault(name, eval(text, {**vars(typing), "Tensor": torch.Tensor}))
        if annotations:
            changes["__annotations__"] = annotations
        unused = list(getattr(cls, "__jit_unused_properties__", []))
        for name in dir(cls):
            value = inspect.getattr_static(cls, name)
            if isinstance(value, property) and value.fget is not None:
                if not any(_key_of(f) in self._observed for f in unwrapped(value.fget)):
                    unused.append(name)
            elif hasattr(value, "__script_if_tracing_wrapper"):
                continue
            elif (chain := list(unwrapped(value)))[1:] and _key_of(chain[-1]) in self._observed:
                # torch.jit would compile the inner one too, but with the decorator's globals.
                changes[name] = chain[-1]
        changes["__jit_unused_properties__"] = unused
        changes |= _super_methods(cls)
        for name in entries:
            function = changes.get(name, inspect.getattr_static(cls, name, None))
            if name != "forward" and isinstance(function, types.FunctionType):
                changes[name] = _jit.export(function)
        if outermost and entries and "forward" not in entries:
            changes["forward"] = nn.Module.forward  # nobody calls it
        return type(cls.__name__, (cls,), changes)

    def _compiled(self, unit: Unit, compile_it: Callable[[], Any]) -> Any:
        replaced: list[tuple[dict[str, Any], str, Any]] = []
        for namespace in self._namespaces:
            for name, value in list(namespace.items()):
                chain = list(unwrapped(value))
                if (
                    chain
                    and chain[-1] is not value
                    and _key_of(chain[-1]) in self._observed
                    and not hasattr(value, "__script_if_tracing_wrapper")
                ):
                    replaced.append((namespace, name, value))
                    namespace[name] = chain[-1]
        try:
            return compile_it()
        except Exception as error:
            raise self._failure(unit, error) from error
        finally:
            for namespace, name, value in replaced:
                namespace[name] = value

    def _failure(self, unit: Unit, error: Exception) -> ScriptingError:
        text = f"{type(error).__name__}: {error}"
        statement = statement_in_text(text)
        if statement is not None:
            file, line = statement.file, statement.line
        else:
            file, line = self._numpy_line(unit) or self._first_line(unit)
            if "cannot create weak reference" in text:  # all that torch.jit says of np.abs
                text = f"NumPy: {text}"
        node = _definition_at(file, line)
        if node is None:
            return ScriptingError(unit, text, "write the part as a plain function", file, line)
        said = text.split('  File "')[0]  # without the source that torch.jit shows
        advice = _advice(_Failure(said, node, line, self._observation))
        return ScriptingError(unit, text, advice.text, advice.file or file, advice.line or line)

    def _functions_of(self, unit: Unit) -> list[Function]:
        return [
            function
            for function in self._observation.functions.values()
            if function.key == unit.function
            or any(
                f"{path}.".startswith(f"{p}.".lstrip("."))
                for p in unit.paths
                for path in function.paths
            )
        ]

    def _first_line(self, unit: Unit) -> tuple[str, int]:
        functions = self._functions_of(unit)
        return functions[0].key[:2] if functions else ("", 0)

    def _numpy_line(self, unit: Unit) -> tuple[str, int] | None:
        known = _user_functions(self._namespaces, self.module)
        for observed in self._functions_of(unit):
            key = _plain(observed)
            node, function = definitions(key[0]).get(key[1:]), known.get(key)
            for name in _body(node) if node is not None and function is not None else ():
                if isinstance(name, ast.Name) and function is not None:
                    value = function.__globals__.get(name.id)
                    if isinstance(value, types.ModuleType) and value.__name__ == "numpy":
                        return key[0], name.lineno
        return None


def _without_aliases(scripted: Any) -> Callable[..., Any]:
    """Wrap what is scripted so that in a trace it returns no argument itself.

    The tracer knows values by their tensors: after `y = f(x)` with y being x, it would take f's
    result wherever x is used.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        if _jit.is_tracing():
            args, kwargs = map_tensors(
                (args, kwargs), lambda _, tensor: torch.ops.aten.alias(tensor)
            )
        return scripted(*args, **kwargs)

    return call


def _definition_at(file: str, line: int) -> Definition | None:
    holding = [
        node
        for (first, _), node in definitions(file).items()
        if first <= line <= (node.end_lineno or line)
    ]
    return max(holding, key=lambda node: node.lineno, default=None)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _cell_setter(cell: types.CellType) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        cell.cell_contents = value

    return put


def _item_setter(holder: dict[str, Any], name: str) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        holder[name] = value

    return put


def _bake_parameters(module: nn.Module) -> None:
    """Compute parametrised weights once: torch.jit cannot, and in eval mode they stay."""
    with torch.no_grad():
        if parametrize.is_parametrized(module):
            # The class is shared with the original, which goes on having its parametrisation.
            cls = type(module)
            own = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls.__name__, cls.__bases__, own)
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]


def _resolved_annotations(cls: type) -> dict[str, Any]:
    """Return the annotations of a module's class, of its bases too, without nn.Module's."""
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):  # torch.jit will name the annotation
        hints = dict(getattr(cls, "__annotations__", {}))
    return {name: hint for name, hint in hints.items() if name not in nn.Module.__annotations__}


def _super_methods(cls: type) -> dict[str, Any]:
    """Return the methods that `super()` means in each base, by the names that edits gave them."""
    found: dict[str, Any] = {}
    for i, base in enumerate(cls.__mro__):
        for value in vars(base).values():
            for function in unwrapped(value):
                file, line, own_name = _key_of(function)
                node = definitions(file).get((line, own_name)) if is_user_file(file) else None
                for call in _super_calls(node) if node is not None else ():
                    above = [b for b in cls.__mro__[i + 1 :] if call.attr in vars(b)]
                    if above and vars(above[0])[call.attr] is not function:
                        name = _super_name(function, call.attr)
                        found[name] = _renamed(vars(above[0])[call.attr], name)
    return found


def _renamed(function: Any, name: str) -> Any:
    """Copy a function under the name by which torch.jit shall know it."""
    original = list(unwrapped(function))[-1]
    twin = types.FunctionType(
        original.__code__,
        original.__globals__,
        name,
        original.__defaults__,
        original.__closure__,
    )
    twin.__kwdefaults__ = original.__kwdefaults__
    return twin


# --- Advice ---


@dataclass(frozen=True)
class _Failure:
    """What torch.jit said, the function that it speaks of, and the line."""

    text: str
    node: Definition
    line: int
    observation: Observation


@dataclass(frozen=True)
class _Advice:
    """What to write; file and line where they are others than the error's."""

    text: str
    file: str = ""
    line: int = 0


def _advice(failure: _Failure) -> _Advice:
    for pattern, advise in _ADVICE:
        match = re.search(pattern, failure.text)
        advice = advise(match, failure) if match is not None else None
        if advice is not None:
            return advice
    return _Advice(
        "write the statement with what TorchScript knows: tensors, numbers, lists and dicts of "
        "one type; no try, lambda, set, *args or comprehension with if"
    )


def _on_container(_: re.Match[str], failure: _Failure) -> _Advice | None:
    """Write the line that gives an empty list or dict its type."""
    value_type = re.search(r"Could not match type (.+?) to t in argument '(?:el|v)'", failure.text)
    key_type = re.search(r"argument 'idx' but instead found type '(\w+)'", failure.text)
    value = value_type[1] if value_type else "Tensor"
    types_of = {
        "List": f"List[{value}]",
        "Dict": f"Dict[{key_type[1] if key_type else 'str'}, {value}]",
    }
    body = list(_body(failure.node))
    used = {n.id for n in body if isinstance(n, ast.Name) and n.lineno == failure.line}
    for target, initial in _assignments(body):
        container = _empty_container(initial)
        if target in used and container and initial.lineno <= failure.line:
            line = f"{target}: {types_of[container]} = {ast.unparse(initial)}"
            return _Advice(f"write {line}", line=initial.lineno)
    return None


def _on_tolist(_: re.Match[str], failure: _Failure) -> _Advice:
    for target, value in _assignments(list(_body(failure.node))):
        if value.lineno <= failure.line <= (value.end_lineno or 0) and _is_call_of(value, "tolist"):
            text = ast.unparse(value)
            return _Advice(
                f"write {target}: List[int] = {text}, or List[float] where it holds those"
            )
    return _Advice("give the result a name with a type first: values: List[int] = ….tolist()")


def _on_argument(match: re.Match[str], failure: _Failure) -> _Advice | None:
    """Write the `def` line of the function that got something else than a Tensor."""
    name, argument = match["function"], match["argument"]
    functions = failure.observation.functions.values()
    observed = {_plain(function): function for function in functions}
    for file in dict.fromkeys(function.key[0] for function in functions):
        for (line, own_name), node in definitions(file).items():
            if own_name == name and any(a.arg == argument for a in node.args.args):
                known = observed.get((file, line, name))
                kinds = {n: k for n, k in (known.arguments if known else {}).items() if k}
                text = _def_line(node, {**kinds, argument: match["type"]})
                return _Advice(f"write {text}", file, node.lineno)
    return None


def _on_range(match: re.Match[str], failure: _Failure) -> _Advice:
    used = {
        n.id for n in _body(failure.node) if isinstance(n, ast.Name) and n.lineno == failure.line
    }
    names = [a.arg for a in failure.node.args.args if a.arg in used and a.annotation is None]
    if match[1] == "number" or not names:
        return _Advice("make a Python number of it: int(….item())")
    text = _def_line(failure.node, dict.fromkeys(names, "int"))
    return _Advice(f"write {text}", line=failure.node.lineno)


def _def_line(node: Definition, kinds: Mapping[str, str]) -> str:
    arguments = copy.deepcopy(node.args)
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        kind = kinds.get(argument.arg, "Tensor")
        if argument.annotation is None and kind != "Tensor":
            argument.annotation = ast.parse(kind, mode="eval").body
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"def {node.name}({ast.unparse(arguments)}){returns}:"


def _on_new_type(match: re.Match[str], failure: _Failure) -> _Advice:
    name, before, after = match[1], match[2], match[3].removesuffix(" (inferred)")
    if before == "NoneType":
        for target, value in _assignments(list(_body(failure.node))):
            if target == name and _is_none(value):
                return _Advice(f"write {name}: Optional[{after}] = None", line=value.lineno)
    return _Advice(f"let {name} have one type: start it as {after}, not as {before}")


def _say(text: str) -> Callable[[re.Match[str], _Failure], _Advice]:
    return lambda match, _: _Advice(match.expand(text))


_ADVICE: tuple[tuple[str, Callable[[re.Match[str], _Failure], _Advice | None]], ...] = (
    (r"(?i)numpy", _say("TorchScript has no NumPy: use torch's operators on tensors instead")),
    (
        r"variable number of arguments or use keyword-only",
        _say("write plain arguments: no *args, **kwargs, or defaults after *"),
    ),
    (r"type hint for result of tolist", _on_tolist),
    (r"aten::(?:append|insert|extend|_set_item|add_)\b", _on_container),
    (
        (
            r"(?P<function>\w+)\([^\n]*\n[^\n]*for argument '(?P<argument>\w+)' but instead found "
            r"type '(?P<type>.+?)(?: \(inferred\))?'\.\nInferred"
        ),
        _on_argument,
    ),
    (r"inputs of range must be ints, found (\w+)", _on_range),
    (
        (
            r"Variable '(\w+)' previously had type (.+?) but is now being assigned to a value of "
            r"type (.+)"
        ),
        _on_new_type,
    ),
    (r"Tried to set nonexistent attribute: (\w+)", _say(r"set self.\1 in __init__")),
    (
        (
            r"has no attribute '(\w+)'[^\n]*\(This attribute exists on the Python module, but we "
            r"failed to convert Python type: '([^']+)'"
        ),
        _say(
            r"TorchScript has no type for self.\1 (\2): keep the numbers and tensors that the "
            r"method needs of it as attributes of the module, set in __init__"
        ),
    ),
    (r"'(\w+)' is defined as a class attribute", _say(r"set \1 in the __init__ of its class")),
    (
        r"Optional\[",
        _say(
            "TorchScript believes `is not None` of local variables only: write "
            "value = self.name, ask `if value is not None`, and use value"
        ),
    ),
    (r"'number'|Scalar", _say("make a Python number of it: int(….item()) or float(….item())")),
)

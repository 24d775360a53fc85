"""Watching a module run: which of the user's functions ran, for whom, and with which types."""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import itertools
import linecache
import re
import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from ts_infer._export.source import is_user_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FunctionKey: TypeAlias = tuple[str, int, str]  # file, first line, qualified name
Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

# A type is a name, or a generic's name and its parameters. _EMPTY fits every type, _UNKNOWN none.
_Type: TypeAlias = str | tuple[Any, ...]
_EMPTY, _UNKNOWN, _NONE = "", "?", "NoneType"
_SCALARS = (bool, int, float, complex, str)
_MOST_ELEMENTS = 1000
_TENSORS = r"(Tensor|List\[Tensor\])"
_TRACEABLE = re.compile(rf"{_TENSORS}|Tuple\[{_TENSORS}(, {_TENSORS})*\]")
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
_Cached: type = type(functools.cache(len))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@dataclass
class Function:
    """A user's function that ran.

    Attributes:
        key: Its file, first line (of its first decorator) and qualified name.
        last_line: Its last line.
        kind: "function" for a plain function of a Python module, "method" for a method of an
            nn.Module, "other" for lambdas, comprehensions, nested functions and the rest.
        callers: Keys of the user's functions that called it.
        paths: Of a method: the submodules that it ran for, "" for the root.
        arguments: TorchScript types by name, without a method's self; None where unknown.
        locals: TorchScript types of local variables at return; None where unknown.
        returns: TorchScript type of the result; None where unknown.
    """

    key: FunctionKey
    last_line: int
    kind: str
    callers: tuple[FunctionKey, ...] = ()
    paths: tuple[str, ...] = ()
    arguments: dict[str, str | None] = field(default_factory=dict)
    locals: dict[str, str | None] = field(default_factory=dict)
    returns: str | None = None


@dataclass(frozen=True)
class Unit:
    """What is scripted as a whole.

    Attributes:
        kind: "function" or "module".
        function: The function's key, where it is one.
        paths: The submodules, where it is one or several; ("",) is the root.
    """

    kind: str
    function: FunctionKey | None = None
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name the unit for people."""
        if self.function is not None:
            return self.function[2]
        return ", ".join(path or "the whole module" for path in self.paths)


WHOLE = Unit("module", paths=("",))


@dataclass
class Observation:
    """What ran.

    Attributes:
        functions: The user's functions that ran, in the order of their first calls.
        attributes: TorchScript types of attributes that were None or empty before, by the path of
            their module and by name.
        entries: Methods that were called from outside of their module, by its path.
        containers: Paths of modules that cannot be called, such as nn.ModuleList.
        numbers: TorchScript types of what `Tensor.item` and `Tensor.tolist` gave, by the file and
            by the line and column where the call ends; None where unknown. Python 3.10 knows no
            columns: there the call's line and -1.
    """

    functions: dict[FunctionKey, Function] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    entries: dict[str, tuple[str, ...]] = field(default_factory=dict)
    containers: frozenset[str] = frozenset()
    numbers: dict[tuple[str, int, int], str | None] = field(default_factory=dict)

    def function_at(self, file: str, line: int) -> Function | None:
        """Return the innermost function that ran and holds a line."""
        holding = [
            function
            for function in self.functions.values()
            if function.key[0] == file and function.key[1] <= line <= function.last_line
        ]
        return max(holding, key=lambda f: (f.key[1], -f.last_line), default=None)

    def unit_of(self, function: Function) -> Unit:
        """Return the smallest unit that can be scripted and holds a function.

        A trace can only call what returns tensors, lists of them or tuples of both.
        """
        return self._traceable(self._unit_of(function, frozenset()))

    def wider(self, unit: Unit) -> Unit | None:
        """Return the next larger unit; None beyond the whole module."""
        if unit.function is not None:
            found = self._unit_of_callers(self.functions[unit.function], frozenset())
        elif "" in unit.paths:
            return None
        else:
            found = _modules(self._parent(path) for path in unit.paths)
        return self._traceable(found)

    def _traceable(self, unit: Unit) -> Unit:
        """Return a unit, or the next larger one whose results a trace can take."""
        called = [
            function
            for key, function in self.functions.items()
            if key == unit.function
            or any(
                path in function.paths and key[2].rpartition(".")[2] in self.entries.get(path, ())
                for path in unit.paths
            )
        ]
        fine = all(f.returns is None or _TRACEABLE.fullmatch(f.returns) for f in called)
        return unit if unit == WHOLE or fine else self.wider(unit) or WHOLE

    def _unit_of(self, function: Function, seen: frozenset[FunctionKey]) -> Unit:
        if function.kind == "function":
            return Unit("function", function.key)
        if function.kind == "method":
            return _modules(function.paths)
        return self._unit_of_callers(function, seen)

    def _unit_of_callers(self, function: Function, seen: frozenset[FunctionKey]) -> Unit:
        seen |= {function.key}
        units = {
            self._unit_of(self.functions[key], seen): None
            for key in function.callers
            if key not in seen
        }
        if len(units) == 1:
            return next(iter(units))
        return _modules(path for unit in units for path in self._paths_of(unit, seen))

    def _paths_of(self, unit: Unit, seen: frozenset[FunctionKey]) -> tuple[str, ...]:
        while unit.function is not None:
            if unit.function in seen:
                return ()
            function = self.functions[unit.function]
            seen |= {function.key}
            unit = self._unit_of_callers(function, seen)
        return unit.paths

    def _parent(self, path: str) -> str:
        path = path.rpartition(".")[0]
        while path in self.containers:
            path = path.rpartition(".")[0]
        return path


def _modules(paths: Iterable[str]) -> Unit:
    """Return the unit of some submodules without those that others hold."""
    distinct = tuple(dict.fromkeys(paths)) or ("",)
    if "" in distinct:
        return WHOLE
    outermost = [p for p in distinct if not any(p.startswith(f"{q}.") for q in distinct)]
    return Unit("module", paths=tuple(outermost))


def observe(module: nn.Module, call: Callable[[], Any]) -> Observation:
    """Run something under Python's profiler and note the user's functions.

    Args:
        module: The module, whose paths name the submodules.
        call: Calls it, or copies of it, once or several times. What it raises is passed on.

    Returns:
        What ran. It can be pickled.
    """
    recorder = _Recorder(module, call)
    before = sys.getprofile()
    with recorder.watch("item"), recorder.watch("tolist"):
        sys.setprofile(recorder.event)
        try:
            call()
        finally:
            sys.setprofile(before)
    return recorder.observation()


@dataclass
class _Record:
    """What is known of one code object."""

    key: FunctionKey
    kind: str
    callers: dict[FunctionKey, None] = field(default_factory=dict)
    paths: dict[str, None] = field(default_factory=dict)
    method: str = ""
    arguments: dict[str, _Type] = field(default_factory=dict)
    locals: dict[str, _Type] = field(default_factory=dict)
    returns: _Type = _EMPTY


class _Recorder:
    """The profiler's hook, and what it has seen."""

    def __init__(self, module: nn.Module, call: Callable[[], Any]) -> None:
        self._module = module
        self._paths: dict[int, str] = {}
        self._roots: list[nn.Module] = []  # kept alive: their ids are in use
        self._unset: list[tuple[str, nn.Module, str, Any]] = []
        # The caller of the module is no part of it.
        self._records: dict[types.CodeType, _Record | None] = {}
        if isinstance(call, types.FunctionType):
            self._records[call.__code__] = None
        self._entries: dict[str, dict[str, None]] = {}
        self._numbers: dict[tuple[str, int, int], _Type] = {}
        self._add_root(module)

    def event(self, frame: types.FrameType, event: str, value: Any) -> None:
        """Note a call or a return; the profiler calls this."""
        if event == "call":
            code = frame.f_code
            if code.co_name in ("_call_impl", "_wrapped_call_impl"):
                self._add_copy(frame.f_locals.get("self"))
            elif code not in self._records:
                self._records[code] = self._new_record(frame)
            record = self._records.get(code)
            if record is not None:
                self._note_call(frame, record)
        elif event == "return":
            record = self._records.get(frame.f_code)
            if record is not None:
                self._note_locals(frame, record)
                value = tuple(value) if isinstance(value, tuple) else value  # without names
                record.returns = _merge(record.returns, _type_of(value, frame.f_globals))

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Note what a method of Tensor gives: the profiler does not see results of C."""
        method = getattr(torch.Tensor, name)

        def watched(tensor: torch.Tensor) -> Any:
            value = method(tensor)
            caller = sys._getframe(1)
            key = (caller.f_code.co_filename, *_end_of_call(caller))
            self._numbers[key] = _merge(self._numbers.get(key, _EMPTY), _type_of(value, {}))
            return value

        setattr(torch.Tensor, name, watched)
        try:
            yield
        finally:
            delattr(torch.Tensor, name)

    def _add_root(self, root: nn.Module) -> None:
        self._roots.append(root)
        for path, child in root.named_modules():
            self._paths[id(child)] = path
            for name, value in _attributes(child):
                if value is None or (type(value) in (list, dict) and not value):
                    self._unset.append((path, child, name, None if value is None else type(value)))

    def _add_copy(self, module: Any) -> None:
        if id(module) in self._paths or not isinstance(module, nn.Module):
            return
        if type(module).__qualname__ == type(self._module).__qualname__:
            paths = [path for path, _ in module.named_modules()]
            if paths == [path for path, _ in self._module.named_modules()]:
                self._add_root(module)

    def _new_record(self, frame: types.FrameType) -> _Record | None:
        code = frame.f_code
        if not is_user_file(code.co_filename) or not code.co_flags & inspect.CO_OPTIMIZED:
            return None
        kind, method = "other", ""
        qualname = getattr(code, "co_qualname", code.co_name)  # 3.11 has it
        if not code.co_name.startswith("<"):
            receiver = _receiver(frame)
            if receiver is not None:
                for name, function in methods(type(receiver)):
                    if function.__code__ is code:
                        kind, method, qualname = "method", name, function.__qualname__
            elif plain := _global_function(frame.f_globals, code):
                kind, qualname = "function", plain.__qualname__
        return _Record((code.co_filename, code.co_firstlineno, qualname), kind, method=method)

    def _note_call(self, frame: types.FrameType, record: _Record) -> None:
        caller = self._caller(frame)
        if caller is not None:
            record.callers[caller[1].key] = None
        receiver = _receiver(frame) if record.kind == "method" else None
        if receiver is not None:
            self._add_copy(receiver)
            path = self._paths.get(id(receiver))
            if path is not None:
                record.paths[path] = None
                while caller is not None and caller[1].kind == "other":
                    caller = self._caller(caller[0])
                if caller is None or _receiver(caller[0]) is not receiver:
                    self._entries.setdefault(path, {})[record.method] = None
        for name in _argument_names(frame.f_code)[receiver is not None :]:
            _note(record.arguments, name, frame)

    def _caller(self, frame: types.FrameType) -> tuple[types.FrameType, _Record] | None:
        above = frame.f_back
        while above is not None:
            record = self._records.get(above.f_code)
            if record is not None:
                return above, record
            above = above.f_back
        return None

    def _note_locals(self, frame: types.FrameType, record: _Record) -> None:
        code = frame.f_code
        arguments = _argument_names(code)
        for name in (*code.co_varnames, *code.co_cellvars):
            if name not in arguments and not name.startswith("."):
                _note(record.locals, name, frame)

    def observation(self) -> Observation:
        """Return what was seen."""
        result = Observation()
        for code, record in self._records.items():
            if record is None:
                continue
            if record.kind == "method" and not record.paths:
                record.kind = "other"  # of a module that is not in the tree
            node = definitions(record.key[0]).get((record.key[1], code.co_name))
            for name in _defaults_to_none(node):
                if name in record.arguments:
                    record.arguments[name] = _merge(record.arguments[name], _NONE)
            result.functions[record.key] = Function(
                record.key,
                _last_line(code, node),
                record.kind,
                tuple(record.callers),
                tuple(record.paths),
                {name: _text(kind) for name, kind in record.arguments.items()},
                {name: _text(kind) for name, kind in record.locals.items()},
                _text(record.returns),
            )
        attributes: dict[tuple[str, str], _Type] = {}
        for path, child, name, empty in self._unset:
            now = _type_of(getattr(child, name, None), {})
            before = _NONE if empty is None else _EMPTY
            attributes[path, name] = _merge(attributes.get((path, name), before), now)
        for (path, name), kind in attributes.items():
            text = _text(kind)
            if text is not None and text != _NONE:
                result.attributes.setdefault(path, {})[name] = text
        result.entries = {path: tuple(names) for path, names in self._entries.items()}
        result.numbers = {key: _text(kind) for key, kind in self._numbers.items()}
        result.containers = frozenset(
            path for path, child in self._module.named_modules() if isinstance(child, _CONTAINERS)
        )
        return result


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE:
            yield name, value
    yield from module._buffers.items()


def _receiver(frame: types.FrameType) -> nn.Module | None:
    """Return the nn.Module that is the first argument of a call."""
    code = frame.f_code
    if code.co_argcount == 0:
        return None
    first = frame.f_locals.get(code.co_varnames[0])
    return first if isinstance(first, nn.Module) else None


def methods(cls: type) -> Iterator[tuple[str, types.FunctionType]]:
    """Yield the functions behind a class's methods and properties, with their names."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            if isinstance(value, property):
                value = value.fget
            for function in unwrapped(value):
                yield name, function


def unwrapped(value: Any) -> Iterator[types.FunctionType]:
    """Yield a function and those that it wraps, as `functools.wraps` notes them."""
    while isinstance(value, (types.FunctionType, _Cached)):
        if isinstance(value, types.FunctionType):
            yield value
        value = vars(value).get("__wrapped__")


def _global_function(namespace: dict[str, Any], code: types.CodeType) -> types.FunctionType | None:
    if code.co_flags & inspect.CO_NESTED:
        return None
    named = namespace.get(code.co_name)
    for value in (named, *namespace.values()):
        for function in unwrapped(value):
            if function.__code__ is code:
                return function
    return None


def _argument_names(code: types.CodeType) -> tuple[str, ...]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[:count]


def _end_of_call(frame: types.FrameType) -> tuple[int, int]:
    if sys.version_info >= (3, 11):
        positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
        _, line, _, column = next(positions)
        if line is not None and column is not None:
            return line, column
    return frame.f_lineno, -1


def _note(known: dict[str, _Type], name: str, frame: types.FrameType) -> None:
    values = frame.f_locals
    if name in values:
        kind = _type_of(values[name], frame.f_globals)
        known[name] = _merge(known.get(name, _EMPTY), kind)


def _type_of(value: Any, namespace: dict[str, Any]) -> _Type:
    cls = type(value)
    if value is None:
        return _NONE
    if isinstance(value, torch.Tensor):
        return "Tensor"
    if cls in _SCALARS:
        return cls.__name__
    if cls is torch.Size:
        return ("List", "int")
    if cls in (torch.device, torch.dtype):
        return f"torch.{cls.__name__}"
    if cls is list:
        return ("List", _merged(value, namespace))
    if cls is dict:
        return ("Dict", _merged(value, namespace), _merged(value.values(), namespace))
    if cls is tuple:
        return ("Tuple", *(_type_of(item, namespace) for item in value[:_MOST_ELEMENTS]))
    known = isinstance(value, enum.Enum) or (isinstance(value, tuple) and hasattr(cls, "_fields"))
    # The name must mean the class where the annotation will stand.
    return cls.__name__ if known and namespace.get(cls.__name__) is cls else _UNKNOWN


def _merged(values: Iterable[Any], namespace: dict[str, Any]) -> _Type:
    result: _Type = _EMPTY
    for i, value in enumerate(values):
        if i == _MOST_ELEMENTS or result == _UNKNOWN:
            break
        result = _merge(result, _type_of(value, namespace))
    return result


def _merge(a: _Type, b: _Type) -> _Type:
    """Return the type that both fit."""
    if a == b or b == _EMPTY:
        return a
    if a == _EMPTY:
        return b
    if _UNKNOWN in (a, b):
        return _UNKNOWN
    if a == _NONE:
        return b if b[0] == "Optional" else ("Optional", b)
    if b == _NONE:
        return _merge(b, a)
    if a[0] == "Optional":
        return _merge(_NONE, _merge(a[1], b[1] if b[0] == "Optional" else b))
    if b[0] == "Optional":
        return _merge(b, a)
    if {a, b} == {"int", "float"}:
        return "float"
    if isinstance(a, tuple) and isinstance(b, tuple) and a[0] == b[0] and len(a) == len(b):
        return (a[0], *(_merge(x, y) for x, y in zip(a[1:], b[1:], strict=True)))
    return _UNKNOWN


def _text(kind: _Type) -> str | None:
    if kind in (_EMPTY, _UNKNOWN):
        return None
    if isinstance(kind, str):
        return kind
    parts = [_text(part) for part in kind[1:]]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return f"{kind[0]}[{', '.join(known) or '()'}]"


@functools.cache
def definitions(file: str) -> dict[tuple[int, str], Definition]:
    """Return the functions that a file defines, by first line (as code objects have) and name."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    return {
        (min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.name): node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def defaults(node: Definition) -> dict[str, ast.expr]:
    """Return the defaults of a function's arguments, by name."""
    positional = [*node.args.posonlyargs, *node.args.args]
    with_default = positional[len(positional) - len(node.args.defaults) :]
    found = {a.arg: d for a, d in zip(with_default, node.args.defaults, strict=True)}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is not None:
            found[argument.arg] = default
    return found


def _defaults_to_none(node: Definition | None) -> list[str]:
    found = defaults(node) if node is not None else {}
    return [n for n, d in found.items() if isinstance(d, ast.Constant) and d.value is None]


def _last_line(code: types.CodeType, node: Definition | None) -> int:
    if node is not None and node.end_lineno is not None:
        return node.end_lineno
    return max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)

"""Finding the Python statement behind a finding; it never makes one alone."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import re
import sys
from array import array
from contextlib import suppress
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.source import Statement, is_user_file, statement_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Instructions of the user's code to record, 8 bytes each; what comes later is not compared.
_MAX_EVENTS = 2_000_000

_DECIDING = (ast.IfExp, ast.BoolOp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_MATCH: Any = getattr(ast, "Match", ())

_Instruction = tuple[CodeType, int]


def divergence(call_a: Callable[[], Any], call_b: Callable[[], Any]) -> Statement | None:
    """Find the statement at which two runs of the user's code part.

    Both are followed instruction by instruction, in the user's files only. The last instruction
    that they share decided. The second run ends there.

    Args:
        call_a: A run, of the module on one input; it may raise.
        call_b: The same on another input.

    Returns:
        The statement; of an expression that decided, `kind` is the expression's. None where both
        took one path, as far as they got.
    """
    path = _Path()
    path.follow(call_a)
    other = _Path(path)
    other.follow(call_b)
    return None if other.parted_at is None else _decision(*other.parted_at)


class _StopError(BaseException):
    """Ends a run of which enough is known; no `except Exception` holds it up."""


class _Path:
    """The instructions of the user's code that a run takes, or where it leaves another's path."""

    def __init__(self, other: _Path | None = None) -> None:
        self.parted_at: _Instruction | None = None
        self._codes: dict[CodeType, int] = {} if other is None else other._codes
        self._expected = None if other is None else other._events
        self._events: array[int] = array("q")
        self._count = 0
        self._last: _Instruction | None = None
        # The exception under way, and how many instructions came before it.
        self._raised: tuple[BaseException | None, int] = (None, 0)

    def follow(self, call: Callable[[], Any]) -> None:
        """Run a call, and leave out what happens on behalf of the exception that ends it."""
        # Python 3.12 looks whether any frame wants instructions when tracing begins.
        sys._getframe().f_trace_opcodes = True
        try:
            _run(call, self._enter)
        except _StopError:
            pass
        except Exception as error:
            raised, count = self._raised
            if raised is error:
                del self._events[count:]
                if self._count == count:
                    self.parted_at = None
        self._raised = (None, 0)

    def _enter(self, frame: FrameType) -> Any:
        # In this order: Python 3.13 else leaves out a function's first run.
        frame.f_trace = self._step
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and argument[1] is not self._raised[0]:
            self._raised = (argument[1], self._count)
        if event != "opcode" or self.parted_at is not None:
            return self._step
        instruction = frame.f_code, frame.f_lasti
        key = self._codes.setdefault(frame.f_code, len(self._codes)) << 32 | frame.f_lasti
        if self._expected is None:
            self._events.append(key)
            if len(self._events) >= _MAX_EVENTS:
                raise _StopError
        elif self._count >= len(self._expected):
            raise _StopError
        elif self._expected[self._count] != key:
            self.parted_at = self._last
            if self._raised[0] is not None and self._raised[1] == self._count:
                return self._step  # whether this handles the exception shows at the end
            raise _StopError
        self._count += 1
        self._last = instruction
        return self._step


def _run(call: Callable[[], Any], enter: Callable[[FrameType], Any]) -> None:
    """Run a call; `enter` gives a local trace function for each frame of the user's."""
    base = sys._getframe()

    def trace(frame: FrameType, *_: Any) -> Any:
        if not is_user_file(frame.f_code.co_filename) or _is_import(frame, base):
            return None
        return enter(frame)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


def _is_import(frame: FrameType, base: FrameType) -> bool:
    """Whether a frame is part of an import, which only a first run makes."""
    above: FrameType | None = frame
    while above is not None and above is not base:
        if above.f_code.co_filename.startswith("<frozen importlib"):
            return True
        above = above.f_back
    return False


def _decision(code: CodeType, offset: int) -> Statement:
    line = next(
        (at for start, end, at in code.co_lines() if start <= offset < end and at is not None),
        code.co_firstlineno,
    )
    statement = statement_at(code.co_filename, line)
    if statement.kind == "Match":
        return replace(statement, text=linecache.getline(statement.file, statement.line).strip())
    if statement.kind in ("If", "While", "For"):
        return statement
    inside = [
        node
        for node in ast.walk(syntax_tree(code.co_filename))
        if isinstance(node, _DECIDING) and _contains(node, code, offset, line)
    ]
    # The innermost one begins last.
    inside.sort(key=lambda node: (node.lineno, node.col_offset))
    return replace(statement, kind=type(inside[-1]).__name__) if inside else statement


def _contains(node: ast.expr, code: CodeType, offset: int, line: int) -> bool:
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    positions = getattr(code, "co_positions", None)  # from Python 3.11 on
    if positions is not None:
        first, last, column, last_column = list(positions())[offset // 2]
        if None not in (first, last, column, last_column):
            return start <= (first, column) and (last, last_column) <= end
    return bool(node.lineno <= line <= (node.end_lineno or line))


@functools.lru_cache(maxsize=256)
def syntax_tree(filename: str) -> ast.Module:
    """Return a file's syntax tree; an empty one where it cannot be read."""
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return ast.Module([], [])


def is_left_out_of_scripts(statement: Statement) -> bool:
    """Whether a statement is within an `if` that asks torch.jit.is_scripting()."""
    return any(
        isinstance(node, ast.If)
        and node.lineno < statement.line <= (node.end_lineno or 0)
        and "is_scripting" in ast.unparse(node.test)
        for node in ast.walk(syntax_tree(statement.file))
    )


# Suspects.


@dataclass(frozen=True)
class Suspect(Statement):
    """A statement that takes something out of tensors into Python, or back.

    Attributes:
        reason: What it does, in a word: a key of `REASONS`.
    """

    reason: str = ""


# What a statement may do, the most suspicious first.
REASONS = {
    "item": "takes a value out of a tensor",
    "numpy": "computes with NumPy",
    "random": "draws from Python's or NumPy's random numbers",
    "number": "makes a Python number",
    "constant": "makes a tensor of Python values",
    "state": "changes a Python attribute or a global variable",
    "reads-state": "reads what such a statement changes",
    "size": "computes with a size",
    "kind": "branches on a rank, dtype or type",
    "length": "takes a length",
    "device": "names a device, or leaves it out",
    "loop": "loops",
    "branch": "branches",
}

# For a finding's code, what explains it best.
_LIKELY = {
    "sizes-differ": ("size", "length", "number", "loop", "reads-state", "state"),
    "ranks-differ": ("kind", "size"),
    "dtypes-differ": ("kind", "device", "constant"),
    "state-lost": ("state", "reads-state"),
    "python-state": ("state", "reads-state"),
    "python-random": ("random",),
    "device-baked": ("device", "constant"),
}

_ITEM = frozenset({"item", "tolist"})
_NUMBERS = frozenset({"int", "float", "bool", "complex", "round"})
_FROM_PYTHON = frozenset({"tensor", "as_tensor", "from_numpy", "asarray", "scalar_tensor"})
_MAKERS = re.compile(
    r"zeros|ones|full|empty|arange|linspace|logspace|eye|rand|randn|randint|randperm|\w+_indices"
    r"|\w+_window"
)
_KINDS = re.compile(
    r"dim|ndim|ndimension|dtype|is_floating_point|is_complex|isinstance|issubdtype|type"
)
_WRITERS = re.compile(
    r"append|extend|insert|add|update|clear|pop|popleft|appendleft|setdefault|remove"
)
_NUMPY = frozenset({"np", "numpy"})


def suspects(call: Callable[[], Any], code: str = "") -> list[Suspect]:
    """List the statements that ran and that take something out of tensors into Python, or back.

    Args:
        call: A run of the module; it may raise.
        code: The finding to explain, which says what is most suspicious.

    Returns:
        The statements, the most suspicious first, else in the order in which they ran.
    """
    lines = _lines_that_run(call)
    order = list(dict.fromkeys((*_LIKELY.get(code, ()), *REASONS)))
    statements = [
        (node, file, first)
        for file in dict.fromkeys(file for file, _ in lines)
        for node in ast.walk(syntax_tree(file))
        if isinstance(node, ast.stmt) and (first := _first_run(node, file, lines)) is not None
    ]
    shared = {
        name
        for file in {file for _, file, _ in statements}
        for node in ast.walk(syntax_tree(file))
        if isinstance(node, (ast.Global, ast.Nonlocal))
        for name in node.names
    }
    changed = {name for node, _, _ in statements for name in _changed(node, shared)}
    found = []
    for node, file, first in statements:
        reasons = set(_reasons(node, _changed(node, shared), changed))
        if reasons:
            reason = min(reasons, key=order.index)
            place = statement_at(file, node.lineno)
            suspect = Suspect(
                place.file, place.line, place.text, place.kind, place.is_guard, reason
            )
            found.append((order.index(reason), first, suspect))
    found.sort(key=lambda entry: entry[:2])
    return [suspect for _, _, suspect in found]


def _lines_that_run(call: Callable[[], Any]) -> dict[tuple[str, int], int]:
    """Return the user's lines that a call runs, as file and line, with their order."""
    lines: dict[tuple[str, int], int] = {}

    def step(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines.setdefault((frame.f_code.co_filename, frame.f_lineno), len(lines))
        return step

    with suppress(Exception):  # what ran until then counts
        _run(call, lambda _: step)
    return lines


def _first_run(node: ast.stmt, file: str, lines: dict[tuple[str, int], int]) -> int | None:
    """Return when a statement ran first, of a compound one its header; None where it did not."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    ends = [part.end_lineno or part.lineno for part in _own_parts(node) if hasattr(part, "lineno")]
    span = range(node.lineno, max(ends, default=node.lineno) + 1)
    return min((lines[file, n] for n in span if (file, n) in lines), default=None)


def _own_parts(node: ast.stmt) -> list[Any]:
    """Return what belongs to a statement and not to those in its body."""
    if isinstance(node, (ast.If, ast.While)):
        return [node.test]
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return [node.target, node.iter]
    if isinstance(node, (ast.With, ast.AsyncWith)):
        return [item.context_expr for item in node.items]
    if isinstance(node, _MATCH):
        return [node.subject, *(case.guard for case in node.cases if case.guard)]
    return [] if hasattr(node, "body") else [node]


def _reasons(statement: ast.stmt, own: set[str], changed: set[str]) -> Iterator[str]:
    if own:
        yield "state"
    if isinstance(statement, ast.Assign) and _is_size(statement.value):
        yield "length"
    if isinstance(statement, (ast.For, ast.While)):
        yield "loop"
    if isinstance(statement, (ast.If, _MATCH)):
        yield "branch"
    if isinstance(statement, (ast.If, ast.While, ast.Assert)) and _mentions_kind(statement.test):
        yield "kind"
    if isinstance(statement, _MATCH) and _mentions_kind(statement.subject):
        yield "kind"
    for part in _own_parts(statement):
        for node in ast.walk(part):
            yield from _reasons_of(node, changed - own)


def _reasons_of(node: ast.AST, changed: set[str]) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)) and ".".join(_dotted(node)) in changed:
        yield "reads-state"
    if isinstance(node, ast.Call):
        yield from _reasons_of_call(node)
    elif isinstance(node, (ast.BinOp, ast.Compare)):
        if any(map(_is_size, ast.iter_child_nodes(node))):
            yield "size"
    elif isinstance(node, ast.IfExp):
        yield "kind" if _mentions_kind(node.test) else "branch"
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        yield "loop"


def _reasons_of_call(node: ast.Call) -> Iterator[str]:
    root, *path = _dotted(node.func)
    name = path[-1] if path else root
    given = [*node.args, *(keyword.value for keyword in node.keywords)]
    variable = not all(isinstance(value, ast.Constant) for value in given)
    if "random" in (root, *path[:1]) and root in ("random", *_NUMPY):
        yield "random"
    elif root in _NUMPY or (path and name == "numpy"):
        yield "numpy"
    elif path and name in _ITEM:
        yield "item"
    elif not path and name in _NUMBERS and variable:
        yield "number"
    elif not path and name == "len":
        yield "length"
    elif root == "torch" and name in _FROM_PYTHON:
        yield "constant"
    makes = root == "torch" and _MAKERS.fullmatch(name) is not None
    takes_size = any(_is_size(part) for value in given for part in ast.walk(value))
    if takes_size and (makes or name in ("range", "new_zeros", "new_ones", "new_full")):
        yield "size"
    if makes or (root == "torch" and name in _FROM_PYTHON):
        devices = [k.value for k in node.keywords if k.arg == "device"]
        if not devices or isinstance(devices[0], ast.Constant):
            yield "device"
    elif path and (name in ("cpu", "cuda") or (name == "to" and _has_text(node.args))):
        yield "device"


def _has_text(values: list[ast.expr]) -> bool:
    return any(isinstance(v, ast.Constant) and isinstance(v.value, str) for v in values)


def _is_size(node: ast.AST) -> bool:
    """Whether a node is a size of a tensor: `x.shape[0]`, `x.size(0)`, `len(x)`."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call):
        name = _dotted(node.func)[-1]
        return name in ("size", "numel", "len")
    return isinstance(node, ast.Attribute) and node.attr == "shape"


def _mentions_kind(node: ast.AST) -> bool:
    names = (getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node))
    return any(map(_KINDS.fullmatch, names))


def _dotted(node: ast.expr) -> list[str]:
    """Return the names of `a.b.c`, of `f(x).c` an empty one and `c`."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    return [node.id if isinstance(node, ast.Name) else "", *path]


def _changed(statement: ast.stmt, shared: set[str]) -> set[str]:
    """Return the Python state that a statement changes: attributes, and variables of others."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        if isinstance(function, ast.Attribute) and _WRITERS.fullmatch(function.attr):
            targets = [function.value]
    found = set()
    for target in targets:
        for part in target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]:
            while isinstance(part, (ast.Subscript, ast.Starred)):
                part = part.value
            root, *path = _dotted(part)
            if root and (path or root in shared):
                found.add(".".join((root, *path)))
    return found


# Writes.


def first_write(call: Callable[[], Any], tensors: Sequence[torch.Tensor]) -> Statement | None:
    """Find the user's statement that first writes into one of some tensors, or a view of one."""
    return first_change(call, lambda: [tensor._version for tensor in tensors])


def first_change(call: Callable[[], Any], read: Callable[[], Any]) -> Statement | None:
    """Find the user's statement that first changes something.

    Args:
        call: A run of the module; it may raise.
        read: Returns what may change.

    Returns:
        The innermost statement; None where nothing changes.
    """
    before = read()
    last: tuple[str, int] | None = None
    found: list[tuple[str, int]] = []

    def step(frame: FrameType, *_: Any) -> Any:
        nonlocal last
        if last is not None and not found and read() != before:
            found.append(last)
        last = frame.f_code.co_filename, frame.f_lineno
        return step

    with suppress(Exception):
        _run(call, lambda _: step)
    if last is not None and not found and read() != before:
        found.append(last)
    return statement_at(*found[0]) if found else None


# Exceptions.


def raised_explicitly(error: BaseException) -> Statement | None:
    """Return the user's `raise` or `assert` that an exception came from, if it was one.

    Args:
        error: An exception that was raised.

    Returns:
        The statement; None where torch raised it, or an operator of Python's.
    """
    entries = []
    traceback = error.__traceback__
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    in_torch = False
    while entries and _is_check_of_torch(entries[-1].tb_frame.f_code):
        entries.pop()
        in_torch = True
    if not entries or not is_user_file(entries[-1].tb_frame.f_code.co_filename):
        return None
    last = entries[-1]
    code = last.tb_frame.f_code
    if not in_torch and dis.opname[code.co_code[last.tb_lasti]] != "RAISE_VARARGS":
        return None
    return statement_at(code.co_filename, last.tb_lineno)


def _is_check_of_torch(code: CodeType) -> bool:
    """Whether a function is `torch._assert`, `torch._check` or one that they call."""
    return code.co_filename == torch.__file__ and code.co_name.startswith(("_assert", "_check"))

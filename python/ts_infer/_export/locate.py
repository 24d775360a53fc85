"""Finding the Python statement behind a finding; it never raises one alone."""

from __future__ import annotations

import ast
import linecache
import sys
from array import array
from typing import TYPE_CHECKING, Any

from ts_infer._export.source import Statement, is_user_file, statement_at

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Iterator, Sequence

    import torch

# Beyond this many instructions of the user's code two runs are taken for equal.
_MAX_EVENTS = 5_000_000

_OUT_OF_TENSORS = frozenset({"item", "tolist", "numpy"})
_TO_NUMBER = frozenset({"int", "float", "bool", "len"})
_SIZES = frozenset({"shape", "size", "numel", "dim", "ndim", "dtype", "device"})
_MAKERS = frozenset(
    {"tensor", "as_tensor", "from_numpy", "zeros", "ones", "full", "arange", "empty"}
)


def divergence(call_a: Callable[[], Any], call_b: Callable[[], Any]) -> Statement | None:
    """Find the statement at which two runs of the user's code part.

    Both are run instruction by instruction, in the user's files only; the last instruction that
    they share decided: an `if`, a loop, a conditional expression, an `and`.

    Args:
        call_a: A run, of the module on one input; it may raise.
        call_b: The same on another input.

    Returns:
        The statement; None where both took one path, or where one raised on the other's path.
    """
    recorder = _Path()
    recorder.follow(call_a)
    comparer = _Path(recorder)
    comparer.follow(call_b)
    if comparer.parted_at is None:
        return None
    code, offset = comparer.parted_at
    return statement_at(code.co_filename, _line_of(code, offset))


class _Path:
    """The instructions of the user's code that a run takes, or where it leaves another's path."""

    def __init__(self, other: _Path | None = None) -> None:
        self.codes: dict[types.CodeType, int] = {} if other is None else other.codes
        self.events = array("q")
        self.parted_at: tuple[types.CodeType, int] | None = None
        self._other = other
        self._done = False
        self._last: tuple[types.CodeType, int] | None = None
        self._count = 0

    def follow(self, call: Callable[[], Any]) -> None:
        _traced(call, self._enter)

    def _enter(self, frame: types.FrameType, *_: Any) -> Any:
        if self._done or not is_user_file(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event != "opcode" or self._done:
            return self._step
        code, offset = frame.f_code, frame.f_lasti
        key = (self.codes.setdefault(code, len(self.codes)) << 32) | offset
        if self._other is None:
            self.events.append(key)
            self._done = len(self.events) >= _MAX_EVENTS
        elif self._count >= len(self._other.events):
            self._done = True
        elif self._other.events[self._count] != key:
            self.parted_at = self._last
            self._done = True
        self._count += 1
        self._last = code, offset
        return self._step


def _line_of(code: types.CodeType, offset: int) -> int:
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


def suspects(call: Callable[[], Any], code: str = "") -> list[Statement]:
    """List the statements that ran and that take something out of tensors into Python.

    Args:
        call: A run of the module.
        code: The finding to explain, which says what is most suspicious.

    Returns:
        The statements, the most suspicious first.
    """
    lines = _lines_that_run(call)
    found: dict[tuple[str, int], int] = {}
    for file in {file for file, _ in lines}:
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            line = getattr(node, "lineno", None)
            if line is None or (file, line) not in lines:
                continue
            for rank in _ranks(node, code):
                found[file, line] = min(found.get((file, line), rank), rank)
    ordered = sorted(found, key=lambda place: (found[place], place))
    return [statement_at(file, line) for file, line in ordered]


def _lines_that_run(call: Callable[[], Any]) -> set[tuple[str, int]]:
    lines: set[tuple[str, int]] = set()

    def step(frame: types.FrameType, *_: Any) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return step

    def enter(frame: types.FrameType, *_: Any) -> Any:
        return step if is_user_file(frame.f_code.co_filename) else None

    _traced(call, enter)
    return lines


def _traced(call: Callable[[], Any], enter: Callable[..., Any]) -> None:
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    except Exception:
        pass  # what ran until then counts
    finally:
        sys.settrace(before)


def _ranks(node: ast.AST, code: str) -> Iterator[int]:
    """Yield how suspicious a node is; 0 is the most."""
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(_is_self_attribute(target) for target in targets):
            yield 0 if code == "state-lost" else 5
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in _OUT_OF_TENSORS:
            yield 1
        elif name in _TO_NUMBER and node.args and not isinstance(node.args[0], ast.Constant):
            yield 2
        elif name in _MAKERS:
            yield 4
    elif isinstance(node, (ast.For, ast.ListComp, ast.GeneratorExp, ast.DictComp)):
        yield 3 if code == "sizes-differ" else 6
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)) and _names(node.test, _SIZES):
        yield 1 if code in ("ranks-differ", "dtypes-differ") else 3
    elif isinstance(node, ast.BinOp) and _names(node, frozenset({"shape", "size"})):
        yield 5


def _names(node: ast.AST, attributes: frozenset[str]) -> bool:
    return any(getattr(part, "attr", "") in attributes for part in ast.walk(node))


def _is_self_attribute(node: ast.AST) -> bool:
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


def first_write(call: Callable[[], Any], tensors: Sequence[torch.Tensor]) -> Statement | None:
    """Return the statement that first writes into one of some tensors, or into a view of one."""
    versions = [tensor._version for tensor in tensors]
    found: list[tuple[str, int]] = []
    last = ("", 0)

    def step(frame: types.FrameType, *_: Any) -> Any:
        nonlocal last
        if not found and [tensor._version for tensor in tensors] != versions:
            found.append(last)
        last = frame.f_code.co_filename, frame.f_lineno
        return step

    def enter(frame: types.FrameType, *_: Any) -> Any:
        return step if is_user_file(frame.f_code.co_filename) else None

    _traced(call, enter)
    return statement_at(*found[0]) if found else None


def raised_explicitly(error: BaseException) -> Statement | None:
    """Return the user's `raise` or `assert` that an exception came from, if it was one."""
    traceback = error.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    file = traceback.tb_frame.f_code.co_filename
    if not is_user_file(file):
        return None
    statement = statement_at(file, traceback.tb_lineno)
    return statement if statement.is_guard or statement.kind in ("Raise", "Assert") else None

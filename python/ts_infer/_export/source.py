"""Finding the user's Python statement behind a warning or an error."""

from __future__ import annotations

import ast
import functools
import linecache
import re
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

_TORCH_DIR = str(Path(torch.__file__).resolve().parent)
_OWN_DIR = str(Path(__file__).resolve().parent)
_NUMPY_DIR = str(Path(numpy.__file__).resolve().parent)
_STDLIB_DIR = str(Path(sysconfig.get_paths()["stdlib"]).resolve())
_PACKAGE_DIRS = tuple(
    str(Path(sysconfig.get_paths()[name]).resolve()) for name in ("purelib", "platlib")
)
_LOCATION = re.compile(
    r'File "(?P<a>[^"]+)", line (?P<an>\d+)|^(?P<b>\S[^\n]*?)\((?P<bn>\d+)\): ', re.MULTILINE
)

_CONTROL = (ast.If, ast.While, ast.For)

# The lines of files that `linecache` shows otherwise.
_originals: dict[str, list[str]] = {}


@dataclass(frozen=True)
class Statement:
    """A Python statement.

    Attributes:
        file: Its file.
        line: Its first line, counted from 1.
        text: Its text on one line; of a compound one, its header.
        kind: Name of its `ast` class; empty where the source cannot be read.
        is_guard: Whether it does nothing but raise: an `assert`, or an `if` with only a `raise`.
    """

    file: str
    line: int
    text: str
    kind: str
    is_guard: bool = False


def is_torch_file(filename: str) -> bool:
    """Whether a file is part of torch itself."""
    return _is_within(filename, _TORCH_DIR)


def torch_relative(filename: str) -> str:
    """Return the path of one of torch's files, from the folder torch on."""
    return "torch/" + Path(filename).resolve().relative_to(_TORCH_DIR).as_posix()


@functools.cache
def is_user_file(filename: str) -> bool:
    """Whether a file is neither torch's, NumPy's, Python's nor the exporter's."""
    if filename.startswith("<") and not filename.startswith("<ipython"):
        return False
    if Path(filename).name.startswith(("_editable_", "__editable__")):
        return False  # finds packages that are installed so, when something is imported first
    if any(_is_within(filename, folder) for folder in (_TORCH_DIR, _OWN_DIR, _NUMPY_DIR)):
        return False
    return not _is_within(filename, _STDLIB_DIR) or any(
        _is_within(filename, folder) for folder in _PACKAGE_DIRS
    )


def show_edited(filename: str, lines: list[str]) -> None:
    """Have `linecache` show other lines, as many; statements stay as the user wrote them."""
    _originals.setdefault(filename, linecache.getlines(filename))
    # Without a time of change, linecache does not compare it with the file.
    linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)


def statement_at(filename: str, line: int) -> Statement:
    """Return the statement at a line; of a compound one, its header.

    Args:
        filename: A Python file, or whatever name `linecache` knows.
        line: A line of it, counted from 1.

    Returns:
        The statement; its text is empty where the source cannot be read.
    """
    lines = _originals.get(filename) or linecache.getlines(filename)
    alone = "".join(lines[line - 1 : line]).strip() if line > 0 else ""
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return Statement(filename, line, alone, "")
    candidates = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= _header_end(node)
    ]
    if not candidates:
        return Statement(filename, line, alone, "")
    # Of `if x: raise` on one line the `if` is meant.
    chosen = max(candidates, key=lambda node: (isinstance(node, _CONTROL), node.lineno))
    last = _header_end(chosen)
    while isinstance(chosen, _CONTROL) and last < len(lines) and ":" not in lines[last - 1]:
        last += 1
    text = " ".join(part.strip() for part in lines[chosen.lineno - 1 : last])
    text = textwrap.shorten(text, 160, placeholder=" …")
    return Statement(filename, chosen.lineno, text, type(chosen).__name__, _is_guard(chosen))


def _is_guard(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return not node.orelse and all(isinstance(s, ast.Raise) for s in node.body)
    return isinstance(node, ast.Assert)


def _header_end(node: ast.stmt) -> int:
    """Return the last line of a statement, of a compound one that of its condition."""
    if isinstance(node, (ast.If, ast.While)):
        return node.test.end_lineno or node.lineno
    if isinstance(node, ast.For):
        return node.iter.end_lineno or node.lineno
    body: list[ast.stmt] = getattr(node, "body", [])
    if body:
        return max(node.lineno, body[0].lineno - 1)
    return node.end_lineno or node.lineno


def statement_in_text(text: str) -> Statement | None:
    """Return the first statement of the user's that an error's text points at."""
    for match in _LOCATION.finditer(text):
        filename = match["a"] or match["b"]
        if is_user_file(filename) and linecache.getlines(filename):
            return statement_at(filename, int(match["an"] or match["bn"]))
    return None


def statement_of_error(error: BaseException) -> Statement | None:
    """Return the user's innermost statement on an exception's traceback."""
    traceback, found = error.__traceback__, None
    entered = False
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        # The caller of export() is on the traceback too, but before the exporter's own frames.
        entered = entered or _is_within(filename, _OWN_DIR)
        if entered and is_user_file(filename):
            found = (filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return statement_at(*found) if found else None


def _is_within(filename: str, folder: str) -> bool:
    try:
        return Path(filename).resolve().is_relative_to(folder)
    except (OSError, ValueError):
        return False

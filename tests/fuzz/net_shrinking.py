"""Makes a failing net as small as it gets while it fails in the same way."""

from __future__ import annotations

import copy
import re
import time
from typing import TYPE_CHECKING

from net import Line, Net, names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
_WORD = re.compile(r", \w+=(?:\([^()]*\)|\[[^\[\]]*\]|\"[^\"]*\"|[\w.]+)")
_DRAWN = re.compile(r"draw\((\d+)(?:, ([\d, ]+))?\)")


def shrink(
    net: Net,
    fails: Callable[[Net], bool],
    values: Callable[[Net], list[dict[str, str]]],
    seconds: float = 60,
) -> Net:
    """The smallest net found.

    Args:
        net: It fails.
        fails: Whether a net does so too; called many times.
        values: For each call of a net, what draws values like those that it makes.
        seconds: After which no more is tried.
    """
    end = time.monotonic() + seconds
    tried: set[str] = set()
    again = True
    while again:
        again = False
        for smaller in _smaller(net, values):
            if time.monotonic() > end:
                return net
            candidate = smaller.without_unused()
            key = repr(candidate)
            if key in tried:
                continue
            tried.add(key)
            if _measure(candidate) < _measure(net) and fails(candidate):
                net = candidate
                again = True
                break
    return net


def _measure(net: Net) -> tuple[float, ...]:
    """How large a net is; the first number counts most."""
    code = [text for line in net.lines for text in line.source("")]
    texts = [*code, *net.parts.values(), *(text for call in net.calls for text in call)]
    return (
        len(code) + len(net.parts),
        len(net.calls) + len(net.outputs) + len(net.inputs),
        len(net.options)
        + (net.options.get("intra_op_threads", 1) != 1)
        + (net.options.get("warmup", "off") != "off"),
        sum(len(_NUMBER.sub("", text)) for text in texts) + (net.method == "script"),
        sum(min(int(n), 10_000) for text in texts for n in _NUMBER.findall(text)),
    )


def _smaller(net: Net, values: Callable[[Net], list[dict[str, str]]]) -> Iterator[Net]:
    yield from _fewer_calls(net)
    yield from _fewer_outputs(net)
    yield from _cut(net, values(net))
    yield from _fewer_lines(net)
    yield from _fewer_inputs(net)
    yield from _plainer(net)
    yield from _smaller_numbers(net)


def _fewer_calls(net: Net) -> Iterator[Net]:
    for k in range(len(net.calls)):
        if len(net.calls) > 1:
            smaller = copy.deepcopy(net)
            del smaller.calls[k]
            yield smaller
    if len(net.calls) == 2:  # the traced one
        smaller = copy.deepcopy(net)
        smaller.calls[0] = copy.deepcopy(net.calls[1])
        del smaller.calls[1]
        yield smaller


def _cut(net: Net, values: list[dict[str, str]]) -> Iterator[Net]:
    """A value becomes an input, and what made it goes."""
    for k in range(len(net.lines) - 1, -1, -1):
        for name in _defined(net.lines[k]) if not net.lines[k].body else ():
            if not all(name in made for made in values):
                continue
            smaller = copy.deepcopy(net)
            smaller.options.pop("warmup_shapes", None)
            smaller.options["warmup"] = "off"
            smaller.inputs.append(name)
            for call, made in zip(smaller.calls, values, strict=True):
                call.append(made[name])
            for first in (0, k):
                shorter = copy.deepcopy(smaller)
                del shorter.lines[first : k + 1]
                yield shorter


def _fewer_outputs(net: Net) -> Iterator[Net]:
    for k in range(len(net.outputs)):
        if len(net.outputs) > 1:
            smaller = copy.deepcopy(net)
            del smaller.outputs[k]
            yield smaller
    made = [name for line in net.lines for name in _defined(line)]
    for name in made[:-1]:
        smaller = copy.deepcopy(net)
        smaller.outputs = [name]
        keep = max(i for i, line in enumerate(net.lines) if name in _defined(line))
        del smaller.lines[keep + 1 :]
        yield smaller


def _defined(line: Line) -> list[str]:
    if line.body:
        return [name for inner in (*line.body, *line.orelse) for name in _defined(inner)]
    left, equals, _ = line.text.partition(" = ")
    return names_in(left) if equals and "[" not in left else []


def _places(lines: list[Line], path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Each line, as its index in each block on the way; the second half is "else"."""
    for i, line in enumerate(lines):
        yield (*path, i)
        yield from _places(line.body, (*path, i, 0))
        yield from _places(line.orelse, (*path, i, 1))


def _block(net: Net, place: tuple[int, ...]) -> tuple[list[Line], int]:
    lines = net.lines
    for at in range(0, len(place) - 1, 2):
        line = lines[place[at]]
        lines = line.orelse if place[at + 1] else line.body
    return lines, place[-1]


def _rename(net: Net, old: str, new: str, lines: list[Line]) -> None:
    pattern = re.compile(rf"(?<![.\w]){old}\b")
    for line in lines:
        line.text = pattern.sub(new, line.text)
        _rename(net, old, new, line.body)
        _rename(net, old, new, line.orelse)
    net.outputs = [pattern.sub(new, name) for name in net.outputs]


def _fewer_lines(net: Net) -> Iterator[Net]:
    for place in reversed(list(_places(net.lines))):
        lines, i = _block(net, place)
        line = lines[i]
        smaller = copy.deepcopy(net)
        block, _ = _block(smaller, place)
        del block[i]
        yield smaller
        if line.body:
            for inner in (line.body, line.orelse):
                smaller = copy.deepcopy(net)
                block, _ = _block(smaller, place)
                block[i : i + 1] = copy.deepcopy(inner)
                yield smaller
            if line.orelse:
                smaller = copy.deepcopy(net)
                block, _ = _block(smaller, place)
                block[i].orelse = []
                yield smaller
            continue
        defined = _defined(line)
        if not defined:
            continue
        for used in dict.fromkeys(names_in(line.text.partition(" = ")[2])):
            smaller = copy.deepcopy(net)
            block, _ = _block(smaller, place)
            del block[i]
            for name in defined:
                _rename(smaller, name, used, smaller.lines)
            yield smaller


def _fewer_inputs(net: Net) -> Iterator[Net]:
    for k, name in enumerate(net.inputs):
        if len(net.inputs) == 1:
            break
        smaller = copy.deepcopy(net)
        del smaller.inputs[k]
        for call in smaller.calls:
            del call[k : k + 1]  # a call may be of fewer arguments
        smaller.options.pop("warmup_shapes", None)
        yield smaller
        for other in [other for other in net.inputs if other != name]:
            smaller = copy.deepcopy(net)
            _rename(smaller, name, other, smaller.lines)
            del smaller.inputs[k]
            for call in smaller.calls:
                del call[k : k + 1]  # a call may be of fewer arguments
            smaller.options.pop("warmup_shapes", None)
            yield smaller


def _plainer(net: Net) -> Iterator[Net]:
    for name, value in (("warmup", "off"), ("intra_op_threads", 1)):
        if net.options.get(name, value) != value:
            smaller = copy.deepcopy(net)
            smaller.options[name] = value
            smaller.options.pop("warmup_shapes", None)
            yield smaller
    for name in ("executor", "precision"):
        if name in net.options:
            smaller = copy.deepcopy(net)
            del smaller.options[name]
            yield smaller
    if net.method == "script":
        smaller = copy.deepcopy(net)
        smaller.method = "trace"
        yield smaller
    for k, texts in enumerate(net.calls):
        for i, text in enumerate(texts):
            drawn = _DRAWN.search(text)
            plain = [text.rpartition(" * ")[0], text.rpartition("[")[0], text.rpartition(".")[0]]
            if drawn is not None:
                plain.insert(0, drawn.group())
            for other in plain:
                if other and other != text:
                    smaller = copy.deepcopy(net)
                    smaller.calls[k][i] = other
                    yield smaller
    for name, made in net.parts.items():
        for word in _WORD.finditer(made):
            smaller = copy.deepcopy(net)
            smaller.parts[name] = made[: word.start()] + made[word.end() :]
            yield smaller
    for place in _places(net.lines):
        lines, i = _block(net, place)
        for word in _WORD.finditer(lines[i].text):
            smaller = copy.deepcopy(net)
            block, _ = _block(smaller, place)
            text = block[i].text
            block[i].text = text[: word.start()] + text[word.end() :]
            yield smaller


def _texts(net: Net) -> Iterator[tuple[str, Callable[[Net, str], None]]]:
    """Each text with numbers that are sizes, and what replaces it."""

    def in_part(name: str) -> Callable[[Net, str], None]:
        return lambda net, text: net.parts.update({name: text})

    def in_call(k: int, i: int) -> Callable[[Net, str], None]:
        def replace(net: Net, text: str) -> None:
            net.calls[k][i] = text

        return replace

    def in_line(place: tuple[int, ...]) -> Callable[[Net, str], None]:
        def replace(net: Net, text: str) -> None:
            block, i = _block(net, place)
            block[i].text = text

        return replace

    for name, made in net.parts.items():
        yield made, in_part(name)
    for k, texts in enumerate(net.calls):
        for i, text in enumerate(texts):
            yield text, in_call(k, i)
    for place in _places(net.lines):
        block, at = _block(net, place)
        yield block[at].text, in_line(place)


def _smaller_numbers(net: Net) -> Iterator[Net]:
    there = {int(n) for text, _ in _texts(net) for n in _NUMBER.findall(text)}
    for number in sorted(there, reverse=True):
        for less in sorted({1, 2, 3, 4, number // 2, number - 1}):
            if not 0 <= less < number:
                continue
            everywhere = copy.deepcopy(net)
            for text, replace in list(_texts(net)):
                replace(everywhere, re.sub(rf"(?<![\w.]){number}(?![\w.])", str(less), text))
            everywhere.options.pop("warmup_shapes", None)
            yield everywhere
    for text, replace in list(_texts(net)):
        for match in _NUMBER.finditer(text):
            number = int(match.group())
            for less in sorted({0, 1, 2, number // 2, number - 1}):
                if 0 <= less < number:
                    smaller = copy.deepcopy(net)
                    replace(smaller, text[: match.start()] + str(less) + text[match.end() :])
                    smaller.options.pop("warmup_shapes", None)
                    yield smaller

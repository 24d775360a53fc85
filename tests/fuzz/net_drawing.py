"""Draws random small nets; each statement is run in eager as it is drawn, so sizes are known."""

from __future__ import annotations

import math
import random
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from net import NAMESPACE, Line, Net, names_in
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 6000  # elements of a value
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
EXECUTORS = ("prepared", "legacy", "simple", "profiling", "profiling-no-fusion")


class Drawing:
    """A net as far as it is drawn."""

    def __init__(self, seed: int, method: str) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.method = method
        self.parts: dict[str, str] = {}
        self.lines: list[Line] = []
        self.names: list[str] = []  # tensors that may be used
        self.numbers: list[str] = []  # integers
        self.stateful = False
        self.depth = 0
        self.holder = nn.Module()
        self.values: dict[str, Any] = NAMESPACE | {"self": self.holder}
        self._count = 0

    # What is there.

    def __getitem__(self, name: str) -> Tensor:
        value: Tensor = self.values[name]
        return value

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def new(self, letter: str = "v") -> str:
        """A name."""
        self._count += 1
        return f"{letter}{self._count}"

    def floats(self, fits: Callable[[Tensor], bool] = lambda x: True) -> list[str]:
        """Values of floating point that fit."""
        return [name for name in self.names if self[name].is_floating_point() and fits(self[name])]

    def pick(self, fits: Callable[[Tensor], bool] = lambda x: True) -> str | None:
        """One of them, late ones more often."""
        names = self.floats(fits)
        if not names:
            return None
        return names[-1] if self.chance(0.55) else self.random.choice(names)

    def of_rank(self, rank: int) -> str | None:
        """A value of so many dimensions, reshaped where there is none."""
        name = self.pick(lambda x: x.dim() == rank)
        if name is not None and self.chance(0.9):
            return name
        name = self.pick()
        if name is None:
            return None
        x = self[name]
        if x.dim() < rank:
            at = [self.random.randint(0, x.dim()) for _ in range(rank - x.dim())]
            return self.assign(name + "".join(f".unsqueeze({i})" for i in at))
        if x.dim() > rank > 0:
            first = self.random.randint(0, rank - 1)
            return self.assign(f"{name}.flatten({first}, {first + x.dim() - rank})")
        if rank == 0:
            return self.assign(f"{name}.{self.random.choice(('mean', 'sum'))}()")
        return name

    # What is added.

    def run(self, text: str) -> bool:
        """Runs a statement; whether eager takes it."""
        try:
            exec(compile(text, "<drawing>", "exec"), self.values)
        except Exception:
            return False
        return True

    def statement(self, text: str) -> bool:
        """Adds one that defines no name."""
        if not self.run(text):
            return False
        self.lines.append(Line(text))
        return True

    def assign(self, expression: str) -> str | None:
        """Adds a value."""
        name = self.new()
        if not self.run(f"{name} = {expression}"):
            return None
        value = self.values[name]
        if not isinstance(value, Tensor) or value.numel() > LARGEST:
            return None
        self.lines.append(Line(f"{name} = {expression}"))
        self.names.append(name)
        return name

    def unpack(self, expression: str, count: int) -> list[str]:
        """Adds several values that an expression gives."""
        names = [self.new() for _ in range(count)]
        text = f"{', '.join(names)}{',' if count == 1 else ''} = {expression}"
        if not self.run(text):
            return []
        if not all(isinstance(self.values[name], Tensor) for name in names):
            return []
        if sum(self[name].numel() for name in names) > LARGEST:
            return []
        self.lines.append(Line(text))
        self.names.extend(names)
        return names

    def part(self, made: str) -> str | None:
        """Adds a child, a parameter or a buffer: "self.p1"."""
        name = self.new("p")
        text = made.removeprefix("buffer:")
        if not self.run(
            f"self.{name} = settle({text}, {self._count})"
            if text.startswith("nn.") and not text.startswith("nn.Parameter")
            else f"self.{name} = {text}"
        ):
            return None
        self.parts[name] = made
        return f"self.{name}"

    def parameter(self, *sizes: int) -> str | None:
        """A weight of some sizes."""
        text = ", ".join(map(str, (self.random.randint(0, 99), *sizes)))
        return self.part(f"nn.Parameter(draw({text}) * {self.random.choice((1, 0.3))})")

    def apply(self, made: str, arguments: str) -> str | None:
        """A child that is called."""
        part = self.part(made)
        return None if part is None else self.assign(f"{part}({arguments})")

    # Loops and branches.

    def inside(self, draw: Callable[[Drawing], None], steps: int) -> list[Line]:
        """What is drawn in a block, whose own values are gone after it."""
        outer, names, numbers = self.lines, list(self.names), list(self.numbers)
        values = dict(self.values)
        self.lines = []
        self.depth += 1
        for _ in range(steps):
            draw(self)
        target = self.target(names)
        if target is not None:
            text = f"{target[0]} = {target[1]}"
            if self.run(text):
                self.lines.append(Line(text))
        block, self.lines = self.lines, outer
        self.names, self.numbers, self.values = names, numbers, values
        self.depth -= 1
        return block

    def target(self, outer: list[str]) -> tuple[str, str] | None:
        """An outer value and the inner one that it becomes."""
        inner = [
            name for name in self.names if name not in outer and self[name].is_floating_point()
        ]
        targets = [name for name in outer if self[name].is_floating_point()]
        if not inner or not targets:
            return None
        same = [(a, b) for a in targets for b in inner if self[a].shape == self[b].shape]
        if same and self.chance(0.8):
            return self.random.choice(same)
        return self.random.choice(targets), inner[-1]

    def block(self, line: Line) -> bool:
        """Adds a loop or a branch."""
        if not line.body:
            return False
        before = dict(self.values)
        if not self.run("\n".join(line.source(""))):
            self.values = before
            return False
        if any(self[name].numel() > LARGEST for name in self.names):
            self.values = before
            return False
        self.lines.append(line)
        return True


def draw_net(seed: int, executor: str = "prepared", precision: str = "fp32") -> Net | None:
    """The net of a seed; None where nothing came of it."""
    from net_operators import draw_step

    method = "script" if random.Random(seed).random() < 0.35 else "trace"
    d = Drawing(seed, method)
    r = d.random
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        sizes = _input_sizes(d)
        inputs = [f"x{i}" for i in range(len(sizes))]
        example = [_draw_text(d, size) for size in sizes]
        for name, text in zip(inputs, example, strict=True):
            d.run(f"{name} = {text}")
            d.names.append(name)
        for _ in range(r.choice((1, 2, 2, 3, 3, 4, 5, 6, 8, 10))):
            draw_step(d)
        made = [name for name in d.names if name not in inputs]
        if not made:
            return None
        d.lines = [
            Line(line.text, _alive(line.body, set(d.names)), _alive(line.orelse, set(d.names)))
            for line in d.lines
        ]
        outputs = [name for name in d.names if _unread(name, d.lines)] or made[-1:]
        if d.chance(0.3):
            outputs.append(r.choice(made))
        calls = [example]
        variants = (_variant(d, sizes, example) for _ in range(r.randint(2, 5)))
        calls.extend(texts for texts in variants if d.run(f"[{', '.join(texts)}]"))
        calls.append(example)
    if method == "script" and d.chance(0.12):
        _spoil(d)
    if executor == "all":
        executor = r.choice(EXECUTORS)
    options: dict[str, Any] = {"warmup": "off", "intra_op_threads": 1}
    if executor != "prepared":
        options["executor"] = executor
    if precision != "fp32":
        options["precision"] = precision
    if d.chance(0.1):
        options["intra_op_threads"] = 2
    if method == "trace" and d.chance(0.1):  # others may branch into what refuses random inputs
        options["warmup"] = "fast"
        options["warmup_shapes"] = [
            {name: list(size) for name, size in zip(inputs, sizes, strict=True)}
        ]
    return Net(
        seed, d.parts, d.lines, inputs, outputs, calls, method, options, d.stateful
    ).without_unused()


def _mentions(name: str, lines: list[Line]) -> list[str]:
    """The statements that name a value, in order; those that want its size only do not count."""
    code = (text.strip() for line in lines for text in line.source(""))
    return [text for text in code if name in names_in(text) and not text.startswith("n")]


def _unread(name: str, lines: list[Line]) -> bool:
    """Whether no value is made of it: whoever runs the code may leave it out."""
    last = (_mentions(name, lines) or [":"])[-1]
    left, equals, _ = last.partition(" = ")
    return not last.endswith(":") and (not equals or name in names_in(left))


def _alive(block: list[Line], read: set[str]) -> list[Line]:
    """What is in a loop or branch, without what it computes and nobody reads."""
    alive: list[Line] = []
    for line in reversed(block):
        left, equals, _ = line.text.partition(" = ")
        if equals and "[" not in left and not line.body and not read & set(names_in(left)):
            continue
        read = read.union(*(names_in(text) for text in line.source("")))
        body, orelse = _alive(line.body, read), _alive(line.orelse, read)
        alive.insert(0, Line(line.text, body, orelse))
    return alive


def _spoil(d: Drawing) -> None:
    """One number in a call of the code is another: eager takes it, or refuses it."""
    r = d.random
    places = [
        (line, match) for line in d.lines for match in _NUMBER.finditer(line.text) if not line.body
    ]
    parts = [
        (name, match)
        for name, made in d.parts.items()
        if made.startswith("nn.") and "Parameter" not in made
        for match in _NUMBER.finditer(made)
    ]

    def spoilt(text: str, match: re.Match[str]) -> str:
        number = int(match.group())
        other = r.choice((0, -1, number + 1, 2 * number, 1, 3))
        if "circular" in text:
            other = max(0, other)  # below, torch's answer has memory in it that none wrote
        return text[: match.start()] + str(other) + text[match.end() :]

    if parts and (not places or d.chance(0.5)):
        name, match = r.choice(parts)
        d.parts[name] = spoilt(d.parts[name], match)
    elif places:
        line, match = r.choice(places)
        line.text = spoilt(line.text, match)


def size(r: random.Random) -> int:
    """Of a dimension: small, some beyond a vector of registers."""
    return r.choice((1, 2, 2, 3, 3, 4, 4, 4, 5, 6, 7, 8, 8, 9, 12, 16, 17, 33))


def _input_sizes(d: Drawing) -> list[list[int]]:
    r = d.random
    rank = r.choice((1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5))
    while True:
        first = [size(r) for _ in range(rank)]
        if rank > 1 and d.chance(0.6):
            first[0] = r.choice((1, 2, 3))
        if math.prod(first) <= 2500:
            break
    if d.chance(0.02):
        first[r.randrange(rank)] = 0
    sizes = [first]
    while d.chance(0.25) and len(sizes) < 3:
        other = list(first)
        kind = r.random()
        if kind < 0.3:
            other[r.randrange(rank)] = 1
        elif kind < 0.5:
            other = other[r.randint(0, rank) :]
        elif kind < 0.6:
            other[r.randrange(rank)] = size(r)
        sizes.append(other)
    return sizes


def _draw_text(d: Drawing, sizes: list[int]) -> str:
    return f"draw({', '.join(map(str, (d.random.randint(0, 999), *sizes)))})"


def _variant(d: Drawing, sizes: list[list[int]], example: list[str]) -> list[str]:
    """Other inputs: values, layouts, sizes, ranks, dtypes."""
    r = d.random
    if d.chance(0.45):
        sizes = _other_sizes(d, sizes)
    texts = []
    for shape in sizes:
        text = _in_layout(d, shape) if d.chance(0.4) else _draw_text(d, shape)
        kind = r.random()
        if kind < 0.15:
            text += f" * {r.choice(('1e-6', '1e-6', '1e-2', '10', '1e4', '1e-40', '0', '-0.0'))}"
        elif kind < 0.3:
            values = r.sample(("nan", "inf", "-inf", "0.0", "-0.0", "1e-40", "1e30", "-88.5"), 2)
            if d.chance(0.4):
                values = values[:1]
            text = f"sprinkle({text}, {r.randint(0, 99)}, {', '.join(values)})"
        elif kind < 0.32:
            text += r.choice((".double()", ".half()", ".long()", ".bool()"))
        elif kind < 0.34 and shape:
            text += r.choice(("[0]", "[None]", ".unsqueeze(-1)"))
        texts.append(text)
    if d.chance(0.2) and len(texts) > 1:
        texts[r.randrange(len(texts))] = example[0]
    return texts


def _other_sizes(d: Drawing, sizes: list[list[int]]) -> list[list[int]]:
    r = d.random
    there = sorted({n for shape in sizes for n in shape})
    if not there:
        return sizes
    together = d.chance(0.5)
    other = [list(shape) for shape in sizes]
    new = r.choice((0, 1, 2, 3, 5, 7, size(r), size(r)))
    if together:
        dim = r.choice((0, 0, -1, -1, -2, 1))
        for shape in other:
            if -len(shape) <= dim < len(shape):
                shape[dim] = new
    else:
        shape = r.choice([shape for shape in other if shape] or [[1]])
        if d.chance(0.3) and len(shape) > 1:
            shape[-2:] = [size(r), size(r)]
        else:
            shape[r.randrange(len(shape))] = new
    return other if all(math.prod(shape) <= 4000 for shape in other) else sizes


def _in_layout(d: Drawing, shape: list[int]) -> str:
    """A tensor of these sizes with other strides."""
    r = d.random
    if not shape:
        return _draw_text(d, shape)
    dim = r.randrange(len(shape))
    kind = r.randrange(6)
    if kind == 0:
        order = list(range(len(shape)))
        r.shuffle(order)
        permuted = [shape[i] for i in order]
        back = [order.index(i) for i in range(len(shape))]
        return f"{_draw_text(d, permuted)}.permute({back})"
    if kind == 1:
        wide = [2 * n if i == dim else n for i, n in enumerate(shape)]
        colons = ", ".join("::2" if i == dim else ":" for i in range(dim + 1))
        return f"{_draw_text(d, wide)}[{colons}]"
    if kind == 2:
        narrow = [1 if i == dim else n for i, n in enumerate(shape)]
        return f"{_draw_text(d, narrow)}.expand({shape})"
    if kind == 3 and len(shape) == 4:
        return f"{_draw_text(d, shape)}.to(memory_format=torch.channels_last)"
    if kind == 3 and len(shape) == 5:
        return f"{_draw_text(d, shape)}.to(memory_format=torch.channels_last_3d)"
    if kind == 4:
        long = [shape[0] + 1, *shape[1:]]
        return f"{_draw_text(d, long)}[1:]"
    return f"{_draw_text(d, shape)}.transpose(0, {dim}).contiguous().transpose(0, {dim})"

"""Changes the code and the pickles of archives, and hands them to load and to one call.

python tests/fuzz/changed_archives.py --count 100000 --jobs 2

Each seed takes an archive of stock torch, changes one to four things in it that torch's parser or
unpickler may still read (a token, a line, a statement of operators that torch has; an opcode, its
operand), and packs it anew, with true checksums. load must raise an Error of the runtime or give a
model, a call an Error or an answer; no file may appear. An archive that ends the process, or does
not come back from load, is a failure; code that runs without end in a call is its own affair.
``--keep FILE`` writes the archive of ``--seed``. The exit code is 1 where one fails.
"""

# ruff: noqa: SIM905 - lists of words are easier to read
from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import pickletools
import random
import re
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from archive_runs import Folder, command, load, read_members
from processes import Lost, Seeds, exit_text, run_seeds

import ts_infer

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_EACH = 10.0
PER_PROCESS = 2000


# The archives.


class Point(NamedTuple):
    """A result with names."""

    x: Tensor
    y: Tensor


class Linear(nn.Module):
    """Parameters, a batch norm, an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class Steps(nn.Module):
    """Numbers, loops, branches, lists, dicts, strings, None."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [1, 2, 3]
        self.names: dict[str, int] = {"a": 1, "b": 2}
        self.register_buffer("table", torch.arange(6.0).reshape(2, 3))

    def forward(self, x: Tensor, scale: float = 2.0, name: str | None = None) -> Point:
        total = 0
        for i in range(len(self.sizes)):
            if i % 2 == 0:
                total += self.sizes[i] // 2
            elif total > 3:
                break
        kept: list[Tensor] = []
        while len(kept) < 2:
            kept.append(x * scale)
        if name is not None:
            total += self.names[name]
        pair = (kept[0] + total, self.table[0].sum())  # type: ignore[index]
        assert x.dim() > 0, "expected a dimension"
        return Point(torch.stack(kept), pair[0] + pair[1])


class Packed(nn.Module):
    """Classes that put their state back, and quantised weights."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                nn.Sequential(nn.Linear(4, 4))
            )
        self.lstm = nn.LSTM(4, 2)
        self.count = 3

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.count, self.training

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.lstm(self.layer(x).unsqueeze(0))[0]
        return result


class Stateful(nn.Module):
    """Writes to what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.view(1, 1, -1))
        self.last.add_(y.mean(2)[0])  # type: ignore[operator]
        return y[0, 0] + self.last.sum()  # type: ignore[operator]


class Base(NamedTuple):
    """An archive, its members by name without folder, and what a call is given."""

    members: dict[str, bytes]
    inputs: tuple[Any, ...]


def _base(module: nn.Module, *inputs: Any, trace: bool = False) -> Base:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = module.eval().requires_grad_(False)
        made = (
            torch.jit.trace(module, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            if trace
            else torch.jit.script(module)
        )
        torch.jit.save(made, buffer)
    return Base(read_members(buffer), inputs)


def bases() -> list[Base]:
    """What is changed."""
    torch.manual_seed(0)
    x = torch.randn(2, 4)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return [
        _base(Linear(), x),
        _base(Linear(), x, trace=True),
        _base(Steps(), x, 1.5, "a"),
        _base(Stateful(), torch.randn(8)),
        _base(nn.Sequential(nn.LSTM(4, 2)), torch.randn(3, 1, 4)),
        _base(Packed(), x),
        _base(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), torch.randn(1, 1, 5, 5)),
        _base(encoder, torch.randn(1, 3, 4), trace=True),
    ]


# Code.

TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|\d[\w.]*(?:e[+-]?\d+)?|\n *|[ \t]+|.')
NUMBERS = """0 1 -1 2 3 7 64 1000 1000000 2147483647 2147483648 -2147483648 9223372036854775807
-9223372036854775807 99999999999999999999 0. 1.5 -1. 1e308 1e-320 True False None""".split()
STRINGS = ('""', '"a"', '"f"', '"save"', '"cpu"', '"cuda:0"', '"meta"', '"zeros"', '"\\n"', '"é"')
WORDS = """x self torch ops getattr annotate Tensor List Optional Tuple Dict Any int float str bool
None if else for while in range return and or not is pass raise assert break continue def
class lambda print len __torch__ CONSTANTS c0 __setstate__ forward uninitialized
unchecked_cast isinstance inf nan training NoneType Module NamedTuple Enum""".split()
HEADS = (
    "for i in range({a}):\n{indent}  y = {b}",
    "while {a}:\n{indent}  y = {b}\n{indent}  break",
    "if {a}:\n{indent}  y = {b}\n{indent}else:\n{indent}  y = {a}",
    *"""y = {a}|self.sizes = {a}|y = [{a}, {b}]|y = ({a}, {b})|y, z = {a}, {b}|y = {{{a}: {b}}}
return {a}|y = [i for i in {a}]|y = {a} if {b} else {a}|y = annotate(List[int], [{a}])|print({a})
y = {a} + {b}|y = {a} // {b}|y = {a} % {b}|y = {a} ** {b}|y = {a}[{b}]|y = -{a}|y = {a} is {b}
y = not {a}|y = {a}; z = {b}|ops.prim.RaiseException({a}, {b})|y = (self).forward({a}, )
y = getattr({a}, {b})|y = unchecked_cast(Tensor, {a})""".replace("\n", "|").split("|"),
)


def _operators() -> list[str]:
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    return sorted(
        name.replace("aten::", "torch.", 1) if name.startswith("aten::")
        else f"ops.{name.replace('::', '.')}"
        for name in names
    )  # fmt: skip


OPERATORS = _operators()


def _value(r: random.Random, depth: int = 0) -> str:
    kind = r.random()
    if kind < 0.25:
        return r.choice(("x", "x", "x", "self", "(x)[0]", "self.training", "y", "state"))
    if kind < 0.5:
        return r.choice(NUMBERS)
    if kind < 0.6:
        return r.choice(STRINGS)
    if kind < 0.75 or depth > 2:
        inner = ", ".join(_value(r, depth + 1) for _ in range(r.randint(0, 4)))
        return f"[{inner}]" if depth < 3 else "[]"
    arguments = ", ".join(_value(r, depth + 1) for _ in range(r.randint(0, 4)))
    return f"{r.choice(OPERATORS)}({arguments})"


def _change_code(r: random.Random, data: bytes) -> bytes:
    text = data.decode()
    kind = r.random()
    if kind < 0.45:
        tokens = TOKEN.findall(text)
        places = [i for i, token in enumerate(tokens) if not token.isspace()]
        if not places:
            return data
        i = r.choice(places)
        how = r.random()
        if how < 0.2:
            del tokens[i]
        elif how < 0.35:
            tokens.insert(i, tokens[i])
        elif how < 0.5:
            j = r.choice(places)
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif how < 0.6:
            tokens[i] = r.choice(tokens)
        elif tokens[i][0].isdigit():
            tokens[i] = r.choice(NUMBERS)
        elif tokens[i][0] == '"':
            tokens[i] = r.choice(STRINGS)
        elif how < 0.8:
            tokens[i] = r.choice((*WORDS, *NUMBERS))
        else:
            tokens[i] = r.choice(OPERATORS)
        return "".join(tokens).encode()
    lines = text.split("\n")
    inner = [i for i, line in enumerate(lines) if line.startswith("    ")] or [len(lines) - 1]
    i = r.choice(inner)
    if kind < 0.55:
        del lines[i]
    elif kind < 0.65:
        lines.insert(i, r.choice(lines))
    else:
        indent = lines[i][: len(lines[i]) - len(lines[i].lstrip())]
        statement = r.choice(HEADS).format(a=_value(r), b=_value(r), indent=indent)
        lines.insert(i, indent + statement)
    return "\n".join(lines).encode()


# Pickles.

GLOBALS = """torch FloatStorage
torch LongStorage
torch QInt8Storage
torch device
torch _rebuild_xla_tensor
torch per_tensor_affine
torch._utils _rebuild_tensor_v2
torch._utils _rebuild_qtensor
torch._utils _rebuild_sparse_tensor
torch._tensor _rebuild_from_type_v2
torch.serialization _get_layout
torch.distributed.rpc rref
torch.jit._pickle build_intlist
torch.jit._pickle build_tensorlist
torch.jit._pickle build_doublelist
torch.jit._pickle build_boollist
torch.jit._pickle build_tensor_from_id
torch.jit._pickle restore_type_tag
collections OrderedDict
builtins complex
__torch__ Linear
__torch__.torch.nn.modules.linear Linear
__torch__.torch.classes.quantized LinearPackedParamsBase""".splitlines()
TEXTS = (
    *"a cpu cuda:0 meta storage 0 1 99 int List[int] é training __torch__.Linear".split(),
    "",
    "Dict[str, Tensor]",
    "Optional[Tensor]",
    "List[" * 40 + "int" + "]" * 40,
)
INTEGERS = [0, 1, 2, 3, 255, 256, 65535, 65536, -1, -(2**31), 2**31 - 1, 2**31, 2**62]
INTEGERS += [-(2**63), 2**63 - 1]
SINGLE = b"0()]}.tuaelsNRQb2\x85\x86\x87\x88\x89"


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    data = value.to_bytes(8, "little", signed=True)
    return b"\x8a\x08" + data


def _opcode(r: random.Random) -> bytes:
    kind = r.random()
    if kind < 0.3:
        return bytes([r.choice(SINGLE)])
    if kind < 0.5:
        return _integer(r.choice(INTEGERS))
    if kind < 0.6:
        text = r.choice(TEXTS).encode()
        return b"X" + len(text).to_bytes(4, "little") + text
    if kind < 0.75:
        module, name = r.choice(GLOBALS).split(" ")
        return f"c{module}\n{name}\n".encode()
    if kind < 0.9:
        index = r.choice((0, 1, 2, 5, 17, 200))
        return r.choice((b"q", b"h")) + bytes([index])
    if kind < 0.95:
        return r.choice((b"r", b"j")) + r.choice((0, 3, 300, 2**20, 2**31)).to_bytes(4, "little")
    return b"G" + bytes(r.randrange(256) for _ in range(8))


def _change_pickle(r: random.Random, data: bytes) -> bytes:
    places = [*(place for _, _, place in pickletools.genops(data)), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(r.choice((1, 1, 2, 3))):
        i = r.randrange(len(chunks))
        how = r.random()
        if how < 0.2:
            del chunks[i]
        elif how < 0.35:
            chunks.insert(i, r.choice(chunks))
        elif how < 0.5:
            j = r.randrange(len(chunks))
            chunks[i], chunks[j] = chunks[j], chunks[i]
        elif how < 0.75:
            chunks[i] = _opcode(r)
        else:
            chunks.insert(i, _opcode(r))
        if not chunks:
            break
    return b"".join(chunks)


# The runs.


def changed(seed: int, known: list[Base]) -> tuple[bytes, Base]:
    """The archive of a seed, and what it was made of."""
    r = random.Random(seed)
    base = r.choice(known)
    members = dict(base.members)
    for _ in range(r.choice((1, 1, 1, 2, 3, 4))):
        code = [name for name in members if name.endswith(".py")]
        pickles = [name for name in members if name.endswith((".pkl", ".debug_pkl"))]
        try:
            if code and r.random() < 0.6:
                name = r.choice(code)
                members[name] = _change_code(r, members[name])
            elif pickles:
                name = r.choice([*pickles, "data.pkl", "data.pkl"])
                members[name] = _change_pickle(r, members[name])
        except (UnicodeDecodeError, ValueError, KeyError):
            continue  # it is no pickle any more
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue(), base


@dataclasses.dataclass
class Result:
    """Of a run."""

    refused: int = 0
    raised: int = 0
    answered: int = 0
    endless: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


class Worker:
    """In a child."""

    def __init__(self, known: list[Base], folder: Folder) -> None:
        self.known = known
        self.folder = folder

    def work(self, seed: int, send: Callable[[Any], None]) -> None:
        """One archive."""
        data, base = changed(seed, self.known)
        outcome = self._outcome(data, base, send)
        files = self.folder.take_files()
        send(("wrote " + ", ".join(files)) if files else outcome)

    def _outcome(self, data: bytes, base: Base, send: Callable[[Any], None]) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = load(data)
            except ts_infer.Error:
                return "refused"
            except Exception as error:
                return f"load raised {type(error).__name__}: {error}"[:300]
            send("called")
            try:
                model(*base.inputs)
            except (ts_infer.Error, TypeError):
                return "raised"
            except Exception as error:
                return f"a call raised {type(error).__name__}: {error}"[:300]
            return "answered"


def run(seeds: Seeds, say: Callable[[str], None] = print) -> Result:
    """Changes and hands over archives."""
    result = Result()
    called: dict[int, bool] = {}
    begin = time.monotonic()

    def take(seed: int, message: str) -> None:
        if message == "called":
            called[seed] = True
            return
        called.pop(seed, None)
        if message in ("refused", "raised", "answered"):
            setattr(result, message, getattr(result, message) + 1)
        else:
            fail(seed, message)

    def fail(seed: int, text: str) -> None:
        say(f"seed {seed}: {text}")
        result.failures.append(text)

    def lost(lost: Lost) -> None:
        where = "a call" if called.pop(lost.seed, False) else "load"
        if lost.kind == "hang" and where == "a call":
            result.endless += 1
        elif lost.kind == "hang":
            fail(lost.seed, f"{where} did not come back in {seeds.seconds_each:.0f} s")
        else:
            fail(lost.seed, f"{where} ended the process: {exit_text(lost.status)}")

    def told(seconds: float) -> None:
        say(f"… {summary(result, seconds)}")

    with tempfile.TemporaryDirectory() as within:
        folder = Folder(within)
        run_seeds(seeds, Worker(bases(), folder).work, take, lost, told, folder.enter)
    say(summary(result, time.monotonic() - begin))
    return result


def summary(result: Result, seconds: float) -> str:
    """One line."""
    kinds = collections.Counter(re.sub(r"\d+", "#", text)[:60] for text in result.failures)
    done = result.refused + result.raised + result.answered + result.endless + len(result.failures)
    failures = "".join(f"; {count} x {text}" for text, count in kinds.most_common(5))
    return (
        f"{done} archives: {result.refused} refused by load, {result.raised} calls raised, "
        f"{result.answered} answered, {result.endless} without end, {len(result.failures)} "
        f"failures in {seconds:.0f} s{failures}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    seeds = Seeds(0, 1000, None, 1, PER_PROCESS, SECONDS_EACH)
    return command(__doc__, seeds, lambda seed: changed(seed, bases())[0], run, arguments)


if __name__ == "__main__":
    sys.exit(main())

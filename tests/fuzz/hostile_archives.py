"""Builds archives whose code writes a file, said in every way, and hands them to load and to calls.

python tests/fuzz/hostile_archives.py --count 2000 --jobs 2

Each seed draws what writes the file (torch.save, Tensor.save, torch.from_file), how its name is put
together, where in the code it stands, how the text around it looks, and how the archive holds it.
All is intact: it is what a hostile sender would make. With default options no file may appear, by
load or by a call, and the process must live; an archive that is answered is harmless. Stock
torch.jit is given each archive too, which tells how many do write. ``--keep FILE`` writes the
archive of ``--seed``. The exit code is 1 where one fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import re
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from archive_runs import Folder, command, load, read_members
from processes import Lost, Seeds, exit_text, run_seeds

import ts_infer

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_EACH = 20.0
PER_PROCESS = 100


class Plain(nn.Module):
    """What is made hostile."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return self.again(y)

    @torch.jit.export
    def again(self, x: Tensor) -> Tensor:
        return x + 1


class WithState(nn.Module):
    """And what runs when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.again(x * self.count)

    @torch.jit.export
    def again(self, x: Tensor) -> Tensor:
        return x + 1

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.count, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.count = state[0]
        self.training = state[1]


# What writes.

SAMPLE = "torch.zeros([3], dtype=None, layout=None, device=None, pin_memory=None)"


def spelt(r: random.Random, name: str) -> str:
    """An expression of a string that torch may fold."""
    cut = r.randrange(1, len(name))
    a, b = name[:cut], name[cut:]
    octal = "".join(r.choice((c, f"\\{ord(c):03o}")) for c in name)
    if r.random() < 0.6:
        literals = (f'"{name}"', f"'{name}'", f'"""{name}"""', f'"{octal}"', f'"{a}" "{b}"')
        return r.choice(literals)
    return r.choice(
        (
            '"' + "".join(r.choice((c, f"\\x{ord(c):02x}")) for c in name) + '"',
            f'"{a}" + "{b}"',
            f'"{a}%s" % "{b}"',
            f'"{a}{{}}".format("{b}")',
            f'"".join(["{a}", "{b}"])',
            f'["{name}"][0]',
            f'"x{name}"[1:]',
            f'"{name}x"[:-1]',
            f'"{name.upper()}".lower()',
            f'str("{name}")',
            f'torch.add("{a}", "{b}")',
            f'torch.format("{{}}{{}}", "{a}", "{b}")',
            f'"{a}" if True else "{b}"',
            f'torch.slice("{name}", 0, 9, 1)',
            f'"{a}\\\n{b}"',
            f'("{a}"\n        "{b}")',
        )
    )


def writing(r: random.Random, value: str) -> list[str]:
    """Statements that write a file of the name f."""
    path = r.choice(('"f"', "'./f'", '"\\146"', '"f" + ""'))
    kind = r.random()
    before: list[str] = []
    if kind < 0.4:
        of = r.choice(("torch", "torch", "ops.aten", "torch.ops.aten", "o"))
        if of == "o":
            before = [r.choice(("o = torch", "o = ops.aten", "o, p = torch, 1"))]
        call = f"{of}.save({value}, {path})"
    elif kind < 0.45:
        call = r.choice((f"{value}.save({path})", f"[{value}][0].save({path})"))
    elif kind < 0.8:
        of = r.choice(("torch", "ops.aten", "o", value, "ops"))
        if of == "o":
            before = ["o = torch"]
        name = spelt(r, "save")
        if r.random() < 0.3:
            before.append(f"n = {name}")
            name = "n"
        call = f"getattr({of}, {name})" + (f"({path})" if of == value else f"({value}, {path})")
        if of == "ops":
            call = f"getattr(getattr(ops, {spelt(r, 'aten')}), {name})({value}, {path})"
    else:
        of = r.choice(("torch.from_file", f"getattr(torch, {spelt(r, 'from_file')})"))
        return [f"{of}({path}, True, 3).copy_({SAMPLE})"]
    return [*before, r.choice((call, call, f"_9 = {call}", f"_9 = annotate(Any, {call})"))]


SPACES = (*"    \t\t\t\f\f\r\v\n", *("  ", " \\\n", "  # x\n") * 3, "\u00a0", "\u2028")
TOKEN = re.compile(r'"""[^"]*"""|"[^"]*"|\'[^\']*\'|\w+|\s+|.', re.DOTALL)


def spaced(r: random.Random, text: str) -> str:
    """The statement with other white space between its tokens."""
    tokens = TOKEN.findall(text)
    for i in range(1, len(tokens)):
        if r.random() < 0.1:
            tokens[i] = r.choice(SPACES) + tokens[i]
    return "".join(tokens)


def within(r: random.Random, statements: list[str], indent: str) -> str:
    """Them as a part of a function."""
    around = r.choice(("", "", "", "if True:", "for i in range(1):", "while True:", "if 1 < 2:"))
    if r.random() < 0.3:
        statements = [spaced(r, statement) for statement in statements]
    if around:
        step = r.choice(("  ", "    ", "\t", " ", "  \f"))
        lines = [around, *(step + statement for statement in statements)]
        if around.startswith("while"):
            lines.append(step + "break")
    else:
        lines = statements
    if r.random() < 0.1:
        lines = ["; ".join(lines)] if not around else lines
    return "".join(f"{indent}{line}\n" for line in lines)


# Where it stands.


def into(code: str, name: str, text: str) -> str:
    """The code with the text at the beginning of a function's body."""
    return re.sub(
        rf"(\n  def {name}\([^\n]*(?:\n    [a-z_]\w*: [^\n]*)*:\n)",
        lambda found: found[0] + text,
        code,
        count=1,
    )


def hostile_code(r: random.Random, members: dict[str, bytes], state: bool) -> None:
    """Changes the code of an archive."""
    main = next(name for name in members if name.endswith(".py") and b"def again" in members[name])
    code = members[main].decode()
    place = r.choice((*("forward", "again", "function", "class", "linear") * 3, "comment"))
    if state:
        place = r.choice(("__setstate__", "__setstate__", "__getstate__", place))
    if place in ("forward", "again"):
        code = into(code, place, within(r, writing(r, "x"), "    "))
    elif place in ("__setstate__", "__getstate__"):
        code = into(code, place, within(r, writing(r, SAMPLE), "    "))
    elif place == "linear" and not state:
        name = next(name for name in members if name.endswith("modules/linear.py"))
        text = members[name].decode().replace("input", "x")
        members[name] = into(text, "forward", within(r, writing(r, "x"), "    ")).encode()
    elif place in ("comment", "linear"):
        kind = r.choice(("# type: (Tensor) -> Tensor", "# type: ignore", "# type: List[Tensor]"))
        statement = "; ".join(writing(r, "x"))
        code = into(code, "forward", f"    {kind}{r.choice(SPACES)}{statement}\n")
    else:
        body = within(r, writing(r, "x"), "    " if place == "class" else "  ")
        if place == "function":
            helper = f"def f(x: Tensor) -> Tensor:\n{body}  return x\n"
            use = "    x = __torch__.helper.f(x, )\n"
        else:
            helper = (
                "class H:\n  a : int\n"
                "  def __init__(self: __torch__.helper.H,\n    x: Tensor) -> NoneType:\n"
                f"{body}    self.a = 1\n    return None\n"
            )
            use = (
                "    h = __torch__.helper.H.__new__(__torch__.helper.H)\n"
                "    _8 = (h).__init__(x, )\n"
            )
        members["code/__torch__/helper.py"] = helper.encode()
        code = into(code, "forward", use)
    if r.random() < 0.1:
        code = code.replace("\n", r.choice(("\r\n", "\n\n", "\n\f\n", "\n# c\n")))
    if r.random() < 0.01:
        code = "\ufeff" + code
    members[main] = code.encode()


# How it is held.


def packed(r: random.Random, members: dict[str, bytes], benign: dict[str, bytes]) -> bytes:
    """The archive."""
    buffer = io.BytesIO()
    how = r.choice(("", "", "", "", "case", "root", "twice", "deflated", "folder", "upper"))
    root = r.choice(("archive", "m", "Archive", "x y", "é"))
    entries = [(f"{root}/{name}", data) for name, data in members.items()]
    if how == "case":
        entries = [
            (name.replace("code/", r.choice(("Code/", "CODE/", "code/"))), d) for name, d in entries
        ]
    elif how == "root":
        entries = [
            (name.replace(root, r.choice((root, root.upper(), root.title()))), d)
            for name, d in entries
        ]
    elif how == "twice":
        both = [(f"{root}/{n}", d) for n, d in benign.items() if n.endswith(".py")]
        entries = [*both, *entries] if r.random() < 0.5 else [*entries, *both]
    elif how == "upper":
        entries = [(n.replace(".py", ".PY") if r.random() < 0.5 else n, d) for n, d in entries]
    elif how == "folder":
        entries = [(f"./{n}" if r.random() < 0.3 else n, d) for n, d in entries]
    kind = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", kind) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data in entries:
            archive.writestr(name, data)
    return (b"x" * 64 if r.random() < 0.02 else b"") + buffer.getvalue()


def _members(module: nn.Module) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return {
        name: data for name, data in read_members(buffer).items() if not name.endswith(".debug_pkl")
    }


Bases = tuple[dict[str, bytes], dict[str, bytes]]


def bases() -> Bases:
    """What is made hostile: without and with state of its own."""
    torch.manual_seed(0)
    return _members(Plain()), _members(WithState())


def hostile(seed: int, known: Bases) -> bytes:
    """The archive of a seed."""
    r = random.Random(seed)
    state = r.random() < 0.3
    benign = known[state]
    members = dict(benign)
    hostile_code(r, members, state)
    return packed(r, members, benign)


# The runs.


@dataclasses.dataclass
class Result:
    """Of a run."""

    done: int = 0
    refused: int = 0
    harmless: int = 0
    written_by_torch: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


class Worker:
    """In a child."""

    def __init__(self, known: Bases, folder: Folder) -> None:
        self.known = known
        self.folder = folder

    def work(self, seed: int, send: Callable[[Any], None]) -> None:
        """One archive."""
        data = hostile(seed, self.known)
        outcome = self._ours(data)
        send("a file was written" if self.folder.take_files() else outcome)
        send("torch")
        with contextlib.suppress(RuntimeError, ValueError):
            torch.jit.load(io.BytesIO(data))(torch.ones(1, 3))  # type: ignore[no-untyped-call]
        if self.folder.take_files():
            send("written")

    def _ours(self, data: bytes) -> str:
        try:
            model = load(data)
            for name in model.method_names():
                model.run_method(name, torch.ones(1, 3))
        except ts_infer.ModelLoadError:
            return "refused"
        except ts_infer.Error:
            return "harmless"
        except Exception as error:
            return f"raised {type(error).__name__}: {error}"[:300]
        return "harmless"


def run(seeds: Seeds, say: Callable[[str], None] = print) -> Result:
    """Builds and hands over archives."""
    result = Result()
    in_torch: set[int] = set()
    begin = time.monotonic()

    def fail(seed: int, text: str) -> None:
        say(f"seed {seed}: {text}")
        result.failures.append(text)

    def take(seed: int, message: str) -> None:
        if message == "torch":
            in_torch.add(seed)
        elif message == "written":
            result.written_by_torch += 1
        else:
            result.done += 1
            if message in ("refused", "harmless"):
                setattr(result, message, getattr(result, message) + 1)
            else:
                fail(seed, message)

    def lost(lost: Lost) -> None:
        if lost.seed in in_torch:
            return  # its own affair
        result.done += 1
        fail(lost.seed, "did not come back" if lost.kind == "hang" else exit_text(lost.status))

    def told(seconds: float) -> None:
        say(f"… {summary(result, seconds)}")

    with tempfile.TemporaryDirectory() as within:
        folder = Folder(within)
        run_seeds(seeds, Worker(bases(), folder).work, take, lost, told, folder.enter)
    say(summary(result, time.monotonic() - begin))
    return result


def summary(result: Result, seconds: float) -> str:
    """One line."""
    return (
        f"{result.done} archives: {result.refused} refused, {result.harmless} harmless, "
        f"{len(result.failures)} failures in {seconds:.0f} s; "
        f"stock torch.jit wrote a file for {result.written_by_torch}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    seeds = Seeds(0, 2000, None, 1, PER_PROCESS, SECONDS_EACH)
    return command(__doc__, seeds, lambda seed: hostile(seed, bases()), run, arguments)


if __name__ == "__main__":
    sys.exit(main())

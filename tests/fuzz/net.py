"""A small net as text: what is drawn, run, shrunk and printed."""

from __future__ import annotations

import dataclasses
import linecache
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

# What the text of a net may use; what it does use is printed in front of each reproduction.
PREAMBLE = '''\
import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F

nan, inf = float("nan"), float("inf")


def draw(seed, *sizes):
    """Normally distributed values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator, dtype=torch.float32)


def whole(seed, high, *sizes):
    """Integers below high."""
    return torch.randint(0, high, sizes, generator=torch.Generator().manual_seed(seed))


def sprinkle(x, seed, *values):
    """One in five elements is replaced by one of the values."""
    generator = torch.Generator().manual_seed(seed)
    x = x.clone()
    for value in values:
        x[torch.rand(x.shape, generator=generator, dtype=torch.float32) < 0.2 / len(values)] = value
    return x


def settle(module, seed):
    """Statistics and scales that are not those of a new module."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 2, generator=generator)
        elif "running_mean" in name or (value.dim() == 1 and value.is_floating_point()):
            value.normal_(0, 0.7, generator=generator)
    return module.eval().requires_grad_(False)
'''

NAMESPACE: dict[str, Any] = {"__name__": "fuzzed"}
exec(PREAMBLE, NAMESPACE)

_NAME = re.compile(r"(?<![.\w])[a-z]\d+\b(?!\()")
_files = 0


@dataclasses.dataclass
class Line:
    """A statement, or the head of a loop or branch with what is in it."""

    text: str
    body: list[Line] = dataclasses.field(default_factory=list)
    orelse: list[Line] = dataclasses.field(default_factory=list)

    def source(self, indent: str, noisy: bool = False) -> Iterator[str]:
        """The lines of code; noisy: each value that they make is shaken."""
        yield indent + self.text
        for line in self.body:
            yield from line.source(indent + "    ", noisy)
        if self.orelse:
            yield indent + "else:"
            for line in self.orelse:
                yield from line.source(indent + "    ", noisy)
        if noisy and not self.body:
            for name in sorted(set(_NAME.findall(self.text.split("(")[0].split("=")[0]))):
                yield f"{indent}shake({name})"


@dataclasses.dataclass
class Net:
    """A module, how it is saved and loaded, and the calls that are made."""

    seed: int
    parts: dict[str, str]  # attribute: the expression that makes it
    lines: list[Line]
    inputs: list[str]
    outputs: list[str]
    calls: list[list[str]]  # for each call an expression for each input; the first is traced
    method: str = "trace"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    stateful: bool = False

    def source(self, noisy: bool = False) -> str:
        """The class."""
        text = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        text.append(f"        torch.manual_seed({self.seed})")
        for name, made in self.parts.items():
            buffer = made.startswith("buffer:")
            text.append(
                f'        self.register_buffer("{name}", {made.removeprefix("buffer:")})'
                if buffer
                else f"        self.{name} = {made}"
            )
        text.append(f"        settle(self, {self.seed})")
        text.append("")
        arguments = ", ".join(f"{name}: Tensor" for name in self.inputs)
        text.append(f"    def forward(self, {arguments}):")
        if noisy:
            text.extend(f"        {name} = {name} * 1" for name in self.inputs)
            text.extend(f"        shake({name})" for name in self.inputs)
        for line in self.lines:
            text.extend(line.source("        ", noisy))
        text.append(f"        return {', '.join(self.outputs)}")
        return "\n".join(text) + "\n"

    def make(self, noisy: bool = False, **names: Any) -> nn.Module:
        """The module itself, whose code torch.jit.script finds."""
        global _files
        _files += 1
        name, source = f"<net {_files}>", self.source(noisy)
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        linecache.cache.pop(f"<net {_files - 20}>", None)
        namespace = NAMESPACE | names
        exec(compile(source, name, "exec"), namespace)
        made: nn.Module = namespace["Net"]()
        return made

    def arguments(self, call: int) -> list[Tensor]:
        """New tensors, always the same ones."""
        return [eval(text, NAMESPACE) for text in self.calls[call]]

    def reproduction(self) -> str:
        """A program that shows what each side answers."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        example = ", ".join(self.calls[0])
        saved = (
            f"torch.jit.trace(Net(), ({example},), check_trace=False)"
            if self.method == "trace"
            else "torch.jit.script(Net())"
        )
        calls = "".join(f"    lambda: ({', '.join(call)},),\n" for call in self.calls)
        code = self.source() + example + calls
        helpers = [
            text
            for text in PREAMBLE.split("\n\n\n")
            if not text.startswith("def ") or text[4:].partition("(")[0] + "(" in code
        ]
        preamble = "\n\n\n".join(text.strip() for text in helpers)
        return f"""{preamble}


{self.source()}

from ts_infer import runtime

file = io.BytesIO()
with torch.inference_mode():
    saved = {saved}
{"saved.load_state_dict(Net().state_dict())" if self.stateful else ""}
torch.jit.save(saved, file)
net, model = Net(), runtime.load(file.getvalue(){", " + options if options else ""})
for arguments in [
{calls}]:
    for side in (net, model):
        try:
            with torch.inference_mode():
                print(side(*arguments()))
        except Exception as error:
            print(type(error).__name__, str(error)[:300])
"""

    def without_unused(self) -> Net:
        """Only with the parts that its code names."""
        code = "\n".join(text for line in self.lines for text in line.source(""))
        used = set(re.findall(r"self\.(\w+)", code))
        parts = {name: made for name, made in self.parts.items() if name in used}
        return dataclasses.replace(self, parts=parts)


def names_in(text: str) -> list[str]:
    """Values that a text names."""
    return _NAME.findall(text)

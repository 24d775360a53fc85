"""Reading the graphs of a TorchScript module without running it."""

from __future__ import annotations

import functools
import linecache
import re
import textwrap
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.source import Statement, is_torch_file, is_user_file, statement_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Namespaces that torch itself registers operators in; any other comes from a library.
_TORCH_OPERATORS = re.compile(
    r"(_?c10d_functional\w*|_dtensor|_native|_?quantized\w*|_test|aten|c10d|cuda|debug_mode_ops"
    r"|debugprims|export|fb|inductor\w*|metal\w*|mkl|mkldnn\w*|onednn|onnx|prepacked|prims?"
    r"|profiler|quantization|rngprims|sparse|static_runtime|symm_mem|tensorexpr|vulkan\w*)::"
)
_TORCH_CLASSES = re.compile(
    r"_nnapi|cuda|(dist_)?c10d|dist_rpc|inductor|metal|mkldnn|profiling|quantized|rnn|sparse"
    r"|static_runtime|vulkan|xnnpack"
)
_CLASS = re.compile(r"__torch__\.torch\.classes\.(\w+)\.\w+")
_MANGLE = re.compile(r"___torch_mangle_\d+\.")

# A traced node's source is Python's stack, a scripted one's an excerpt; see `statement_of`.
_FRAME = re.compile(r'File "(?P<a>[^"\n]+)", line (?P<an>\d+)|^(?P<b>\S.*?)\((?P<bn>\d+)\):', re.M)
_SERIALIZED = "Serialized "
_TORCH_PACKAGE = re.compile(r"(site|dist)-packages[/\\]torch[/\\]")

# Operators that name their device instead of taking it.
_TO_DEVICE = frozenset({"aten::cpu", "aten::cuda", "aten::xpu", "aten::mps"})
_TRAIN_ARGUMENTS = frozenset({"train", "training", "is_training"})
# With a probability of zero, dropout does nothing whatever its flag says.
_PROBABILITIES = frozenset({"p", "dropout", "dropout_p"})


@dataclass(frozen=True)
class Node:
    """An operator in a graph.

    Attributes:
        operator: Its name, `aten::zeros`.
        statement: The Python statement that it was made from; a line of the archive's own code
            where the archive does not tell.
        method: The method that holds it.
        target: The input of forward that it writes into.
    """

    operator: str
    statement: Statement | None = None
    method: str = "forward"
    target: str = ""

    def __str__(self) -> str:
        """Name the operator and its place."""
        return self.operator + _at(self.statement)


@dataclass(frozen=True)
class Taken:
    """An argument that the exported forward takes.

    Attributes:
        name: Its name.
        type: Its TorchScript type as an annotation, `Optional[int]`.
        has_default: Whether it may be left out.
        default: What it is then, where that is plain; else None.
    """

    name: str
    type: str
    has_default: bool = False
    default: Any = None


@dataclass
class Scan:
    """What the graphs of a module hold.

    Attributes:
        devices: Operators that take a constant device, or name one, and the device.
        train_flags: Operators that are told to behave as in training.
        dead_inputs: Names of forward's inputs that nothing but `prim::device` uses.
        input_writes: Operators that write in place into what may be an input of forward, their
            `target`, or a view of it.
        random: Operators that draw random numbers.
        operators: Names of all operators, sorted.
        custom_operators: Those that torch does not bring.
        custom_classes: The torchbind classes that torch does not bring, sorted.
        arguments: What forward takes.
        constants: Numbers and strings that the graphs hold.
    """

    devices: list[tuple[Node, str]] = field(default_factory=list)
    train_flags: list[Node] = field(default_factory=list)
    dead_inputs: list[str] = field(default_factory=list)
    input_writes: list[Node] = field(default_factory=list)
    random: list[Node] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    custom_operators: list[str] = field(default_factory=list)
    custom_classes: list[str] = field(default_factory=list)
    arguments: list[Taken] = field(default_factory=list)
    constants: list[int | float | str] = field(default_factory=list)


def scan(exported: Any) -> Scan:
    """Read all graphs of a module: its methods', its submodules', and of functions they call.

    Args:
        exported: A TorchScript module, traced or scripted, frozen or not.

    Returns:
        What they hold.
    """
    found = _Scanner(any(getattr(child, "training", False) for child in exported.modules()))
    for method, graph in method_graphs(exported):
        found.read(method, graph)
    result = found.result
    result.operators = sorted(found.operators)
    result.custom_operators = [
        name for name in result.operators if not _TORCH_OPERATORS.match(name)
    ]
    result.custom_classes = sorted(found.classes | _attribute_classes(exported))
    result.constants = [value for _, value in found.constants]
    if "forward" in exported._c._method_names():
        result.arguments = [
            Taken(
                argument.name,
                argument.type.annotation_str,
                argument.has_default_value(),
                _plain(argument.default_value),
            )
            for argument in exported.forward.schema.arguments[1:]
        ]
        result.dead_inputs = _dead_inputs(exported)
        result.input_writes = _input_writes(exported)
    return result


def _plain(value: Any) -> Any:
    """Return a number, a flag, a string or None as it is, and None for anything else."""
    return value if isinstance(value, (bool, int, float, complex, str)) else None


# Reading graphs.


def method_graphs(exported: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of the graphs of all methods, with what they call inlined.

    Args:
        exported: A TorchScript module.

    Yields:
        The method's name, behind its submodule's path, and its graph; the module's own first.
    """
    for path, child in exported.named_modules():
        for name in child._c._method_names():
            graph = child._c._get_method(name).inlined_graph
            yield f"{path}.{name}" if path else name, graph


def nodes_of(graph: Any, forks: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield all nodes of a graph, of its blocks, and of graphs that it forks.

    Args:
        graph: A graph, whose forked graphs are inlined on the way.
        forks: The nodes that fork it.

    Yields:
        Each node, and the nodes whose forked graphs it is in, outermost first.
    """
    for node in _block_nodes(graph):
        yield node, forks
        if (forked := _forked_graph(node)) is not None:
            yield from nodes_of(forked, (*forks, node))


def _block_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _block_nodes(inner)


def _forked_graph(node: Any) -> Any:
    if not node.hasAttribute("Subgraph"):
        return None
    graph = node.g("Subgraph")
    torch._C._jit_pass_inline(graph)
    return graph


def is_constant(value: Any) -> bool:
    """Whether a value is a constant that Python can read."""
    is_function = value.type().kind() == "FunctionType"
    return value.node().kind() == "prim::Constant" and not is_function


def arguments_of(node: Any) -> list[tuple[Any, Any]]:
    """Return an operator's arguments as pairs (argument of its schema, value)."""
    schema = _schema(node.schema())
    return [] if schema is None else list(zip(schema.arguments, node.inputs(), strict=False))


@functools.lru_cache(maxsize=4096)
def _schema(text: str) -> Any:
    return None if text == "(no schema)" else torch._C.parse_schema(text)


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's elements, in hexadecimal; empty on the meta device."""
    if tensor.is_meta:
        return ""
    plain = tensor.detach().cpu()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    plain = plain.resolve_conj().resolve_neg().contiguous().flatten()
    return sha256(plain.view(torch.uint8).numpy().data).hexdigest()


class _Scanner:
    """Collects from one graph after the other."""

    def __init__(self, in_training: bool) -> None:
        self.in_training = in_training
        self.result = Scan()
        self.operators: set[str] = set()
        self.classes: set[str] = set()
        self.constants: dict[tuple[type, Any], None] = {}  # 1 equals 1.0
        # A submodule's method is read by itself and in its callers.
        self._seen: set[tuple[str, ...]] = set()

    def read(self, method: str, graph: Any) -> None:
        for node, _ in nodes_of(graph):
            kind = node.kind()
            self.operators.add(kind)
            for value in node.outputs():
                self.classes |= _custom_classes(value.type().annotation_str)
            if kind == "prim::Constant":
                self._read_constant(method, node)
                continue
            if kind in _TO_DEVICE:
                self._note_device(method, node, kind.removeprefix("aten::"))
            training = _training(node, self.in_training)
            if training and self._is_new("train", node):
                self.result.train_flags.append(describe(node, method))
            if training is not False and _draws(node) and self._is_new("random", node):
                self.result.random.append(describe(node, method))

    def _is_new(self, *key: Any) -> bool:
        parts = tuple(
            part if isinstance(part, str) else f"{part.kind()} {part.sourceRange()}" for part in key
        )
        is_new = parts not in self._seen
        self._seen.add(parts)
        return is_new

    def _note_device(self, method: str, node: Any, device: str) -> None:
        if self._is_new("device", node, device):
            self.result.devices.append((describe(node, method), device))

    def _read_constant(self, method: str, node: Any) -> None:
        value = node.output().toIValue() if is_constant(node.output()) else None
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            self.constants[type(value), value] = None
        elif isinstance(value, torch.device):
            for use in node.output().uses():
                self._note_device(method, use.user, str(value))


def describe(node: Any, method: str = "forward") -> Node:
    """Return an operator with the statement behind it."""
    return Node(node.kind(), statement_of(node.sourceRange()), method)


def _custom_classes(text: str) -> set[str]:
    """Return the torchbind classes, other than torch's own, that a type's text names."""
    return {match[0] for match in _CLASS.finditer(text) if not _TORCH_CLASSES.fullmatch(match[1])}


def _attribute_classes(exported: Any) -> set[str]:
    found: set[str] = set()
    for child in exported.modules():
        concrete: Any = torch._C.ConcreteModuleType.from_jit_type(child._c._type())
        for kind, _ in concrete.get_attributes().values():
            found |= _custom_classes(kind.annotation_str)
    return found


def _training(node: Any, in_training: bool) -> bool | None:
    """Whether an operator behaves as in training; None where nothing says so.

    Args:
        node: The operator.
        in_training: What modules answer that are asked.
    """
    known = {}
    for argument, value in arguments_of(node):
        source = value.node()
        if is_constant(value):
            known[argument.name] = value.toIValue()
        elif source.kind() == "prim::GetAttr" and source.s("name") == "training":
            known[argument.name] = in_training
    if any(known.get(name) == 0.0 for name in _PROBABILITIES):
        return False
    if known.get("dropout_p"):
        return True
    flags = [known[name] for name in _TRAIN_ARGUMENTS if name in known]
    return next((flag for flag in flags if isinstance(flag, bool)), None)


def is_random(operator: str) -> bool:
    """Whether an operator may draw random numbers, by its name."""
    namespace, _, name = operator.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    overloads = () if packet is None else packet.overloads()
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, o).tags for o in overloads)


def _draws(node: Any) -> bool:
    schema = _schema(node.schema())
    if schema is None:
        return False
    namespace, name = schema.name.split("::")
    try:
        packet = getattr(getattr(torch.ops, namespace), name)
        overload = getattr(packet, schema.overload_name or "default")
    except (AttributeError, RuntimeError):  # an operator that only TorchScript knows
        return bool(node.isNondeterministic())
    return torch.Tag.nondeterministic_seeded in getattr(overload, "tags", ())


# Inputs.


def _forward(exported: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """Return a copy of forward's graph, and its inputs by name without the module itself."""
    method = exported._c._get_method("forward")
    graph = method.inlined_graph
    names = [argument.name for argument in method.schema.arguments[1:]]
    return graph, list(zip(names, list(graph.inputs())[1:], strict=True))


def _dead_inputs(exported: Any) -> list[str]:
    graph, inputs = _forward(exported)
    torch._C._jit_pass_dce(graph)
    return [
        name
        for name, value in inputs
        if all(use.user.kind() == "prim::device" for use in value.uses())
    ]


def _input_writes(exported: Any) -> list[Node]:
    # Not by torch's own alias analysis: to it, all inputs and attributes may be one tensor.
    graph, inputs = _forward(exported)
    names = {value.unique(): name for name, value in inputs}
    found: dict[Node, None] = {}
    for node, forks in nodes_of(graph):
        for argument, value in arguments_of(node):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for unique in sorted(_origins(value, forks)):
                if unique in names:
                    found[replace(describe(node), target=names[unique])] = None
    return list(found)


def _origins(value: Any, forks: tuple[Any, ...]) -> set[int]:
    """Return which inputs of the outermost graph a value may share memory with."""
    found: set[int] = set()
    seen: set[tuple[int, int]] = set()
    left = [(value, forks)]
    while left:
        value, forks = left.pop()
        key = (len(forks), value.unique())
        if key in seen:
            continue
        seen.add(key)
        node = value.node()
        if node.kind() == "prim::Param":
            owner = node.owningBlock().owningNode()
            if owner is None and not forks:
                found.add(value.unique())
            elif owner is None:
                left.append((forks[-1].inputsAt(value.offset()), forks[:-1]))
            elif value.offset():  # a loop's; the first one counts its turns
                body = next(iter(owner.blocks()))
                left.append((list(body.outputs())[value.offset()], forks))
                left.append((owner.inputsAt(value.offset() + 1), forks))
        else:
            left += [(source, forks) for source in _shared_by(node, value.offset())]
    return found


def _shared_by(node: Any, offset: int) -> list[Any]:
    """Return the values that an output of a node may share memory with."""
    kind = node.kind()
    if kind == "prim::If":
        return [list(block.outputs())[offset] for block in node.blocks()]
    if kind == "prim::Loop":
        body = next(iter(node.blocks()))
        return [list(body.outputs())[offset + 1], node.inputsAt(offset + 2)]
    if kind in ("prim::GetAttr", "prim::Constant"):
        return []
    schema = _schema(node.schema())
    if schema is None:
        return list(node.inputs())
    if offset < len(schema.returns) and schema.returns[offset].alias_info is None:
        return []
    return [value for argument, value in arguments_of(node) if argument.alias_info is not None]


# Places.


def statement_of(source: str) -> Statement | None:
    """Return the Python statement that a node was made from.

    `torch.jit.save` keeps it: Python's stack for what was traced, an excerpt of the file for what
    was scripted; what the archive's own code says comes after it.

    Args:
        source: What the node's `sourceRange()` returns.

    Returns:
        The user's innermost statement; without one, torch's; without that, the line of the
        archive's own code. None where nothing is known.
    """
    position = _position(source)
    return None if position is None else _statement(*position)


@functools.lru_cache(maxsize=65536)
def _position(source: str) -> tuple[str, int, str] | None:
    """Return file, line and, for the archive's own code, the line's text."""
    python, _, serialized = source.partition(_SERIALIZED)
    frames = [(m["a"] or m["b"], int(m["an"] or m["bn"])) for m in _FRAME.finditer(python)]
    chosen = next((frame for frame in frames if _is_user(frame[0])), None)
    if chosen is None and frames:
        chosen = frames[0]
    if chosen is not None:
        return *chosen, ""
    match = _FRAME.search(serialized)
    if match is None or not match["a"]:
        return None
    lines = serialized.splitlines()
    here = next((i for i, line in enumerate(lines) if "<--- HERE" in line), 0)
    text = next((line for line in lines[here::-1] if line.strip(" ~") and "<---" not in line), "")
    return match["a"], int(match["an"]), text.strip()


def _is_user(filename: str) -> bool:
    return is_user_file(filename) and not _TORCH_PACKAGE.search(filename)


@functools.lru_cache(maxsize=4096)
def _statement(filename: str, line: int, text: str) -> Statement:
    if text or not linecache.getlines(filename):  # another machine's file
        return Statement(filename, line, text, "")
    return statement_at(filename, line)


def _at(place: Statement | None) -> str:
    if place is None:
        return ""
    name = place.file
    if is_torch_file(name):
        name = name[name.rindex("/torch/") + 1 :]
    return f" at {name}:{place.line}{f' `{place.text}`' if place.text else ''}"


# Comparing graphs.


@dataclass(frozen=True)
class Listing:
    """A graph as text that does not depend on names, source lines or sizes of the traced inputs.

    Attributes:
        lines: One line a node.
        sources: For each line where the node comes from; no part of a comparison.
    """

    lines: tuple[str, ...]
    sources: tuple[str, ...] = field(compare=False)

    def __str__(self) -> str:
        """Return the text."""
        return "\n".join(self.lines)


def normalised(exported: Any) -> Listing:
    """Write down forward's graph so that traces from different inputs can be compared.

    Functions and submodules are inlined, constants stand where they are used, tensors show their
    dtype, shape and digest, and values have numbers in their order and types without shapes.

    Args:
        exported: A TorchScript module.

    Returns:
        The text, a line a node.
    """
    graph, inputs = _forward(exported)
    printer = _Printer()
    printer.names[next(iter(graph.inputs())).unique()] = "self"
    for _, value in inputs:
        printer.name(value)
    printer.block(graph, 0)
    return Listing(tuple(printer.lines), tuple(printer.sources))


def first_difference(expected: Listing, actual: Listing) -> tuple[str, Statement | None] | None:
    """Find the first node where two graphs differ.

    Args:
        expected: A graph, from `normalised`.
        actual: The other one.

    Returns:
        None for equal graphs; else both nodes with their places as text, and the first one's
        statement, or the other one's where there is none.
    """
    if expected == actual:
        return None
    shorter = min(len(expected.lines), len(actual.lines))
    at = next((i for i in range(shorter) if expected.lines[i] != actual.lines[i]), shorter)
    texts, places = [], []
    for side in (expected, actual):
        statement = statement_of(side.sources[at])
        node = textwrap.shorten(side.lines[at], 160, placeholder=" …")
        texts.append(f"`{node}`{_at(statement)}")
        places.append(statement)
    return f"{texts[0]} became {texts[1]}", places[0] or places[1]


class _Printer:
    """Writes a graph down, a line a node."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.sources: list[str] = []
        self.names: dict[int, str] = {}
        self._count = 0

    def name(self, value: Any) -> str:
        """Give a value the next number."""
        self.names[value.unique()] = f"%{self._count}"
        self._count += 1
        return self.names[value.unique()]

    def block(self, block: Any, depth: int) -> None:
        for node in block.nodes():
            self._node(node, depth)
        self._line(depth, f"return ({self._operands(block.outputs())})", "")

    def _line(self, depth: int, text: str, source: str) -> None:
        self.lines.append("  " * depth + text)
        self.sources.append(source)

    def _node(self, node: Any, depth: int) -> None:
        kind = node.kind()
        if kind == "prim::Constant":
            self.names[node.output().unique()] = _constant(node)
            return
        if kind == "prim::GetAttr" and node.output().type().kind() == "ClassType":
            self.names[node.output().unique()] = f"{self._operands(node.inputs())}.{node.s('name')}"
            return
        inputs = self._operands(node.inputs())
        attributes = ", ".join(
            f"{name}={getattr(node, node.kindOf(name))(name)!r}"
            for name in node.attributeNames()
            if node.kindOf(name) != "g"
        )
        outputs = ", ".join(self._typed(value) for value in node.outputs())
        text = f"{kind}[{attributes}]({inputs})" if attributes else f"{kind}({inputs})"
        self._line(depth, f"{outputs} = {text}" if outputs else text, node.sourceRange())
        for inner in node.blocks():
            self._line(depth + 1, f"block({', '.join(map(self._typed, inner.inputs()))}):", "")
            self.block(inner, depth + 2)
        forked = _forked_graph(node)
        if forked is not None:
            # Its values are numbered on their own.
            printer = _Printer()
            given = ", ".join(printer._typed(value) for value in forked.inputs())
            printer.lines.append(f"graph({given}):")
            printer.sources.append("")
            printer.block(forked, 1)
            for line, source in zip(printer.lines, printer.sources, strict=True):
                self._line(depth + 1, line, source)

    def _typed(self, value: Any) -> str:
        kind = _MANGLE.sub("", value.type().annotation_str)
        return self.name(value) + ("" if kind == "Tensor" else f" : {kind}")

    def _operands(self, values: Sequence[Any]) -> str:
        return ", ".join(self.names[value.unique()] for value in values)


def _constant(node: Any) -> str:
    if not is_constant(node.output()):
        return _MANGLE.sub("", node.s("name") if node.hasAttribute("name") else "a function")
    return _content(node.output().toIValue())


def _content(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype}{list(value.shape)} {value.device} {tensor_digest(value)[:16]}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(_content, value))})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key!r}: {_content(item)}' for key, item in value.items())})"
    if isinstance(value, torch.ScriptObject):
        return _MANGLE.sub("", value._type().annotation_str)
    return repr(value)

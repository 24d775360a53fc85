"""Reading the graph of a TorchScript module: nothing is run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.source import Statement, statement_in_text

if TYPE_CHECKING:
    from collections.abc import Iterator

# Operators that follow a flag, and the position of the flag among their inputs.
_TRAIN_FLAGS = {
    "aten::dropout": 2,
    "aten::dropout_": 2,
    "aten::native_dropout": 2,
    "aten::feature_dropout": 2,
    "aten::feature_dropout_": 2,
    "aten::alpha_dropout": 2,
    "aten::alpha_dropout_": 2,
    "aten::feature_alpha_dropout": 2,
    "aten::rrelu": 3,
    "aten::rrelu_": 3,
    "aten::batch_norm": 5,
    "aten::native_batch_norm": 5,
    "aten::cudnn_batch_norm": 5,
}
_DROPOUT_P = {"aten::scaled_dot_product_attention": 4}

_RANDOM = re.compile(
    r"aten::(rand|randn|randint|randperm|rand_like|randn_like|randint_like|bernoulli_?|multinomial"
    r"|normal_?|uniform_?|exponential_?|poisson|cauchy_?|geometric_?|log_normal_?|random_?)$"
)
_VIEWS = re.compile(
    r"aten::(view|reshape|select|slice|narrow|unsqueeze|squeeze|transpose|t|permute|expand|flatten"
    r"|detach|alias|view_as|expand_as|diagonal|unflatten|contiguous|to|movedim)$"
)
# Namespaces that torch itself registers operators in.
_KNOWN_NAMESPACES = frozenset(
    (
        *("aten", "prim", "prims", "profiler", "sparse", "cuda", "fb", "inductor"),
        *("quantized", "_quantized", "quantized_decomposed", "prepacked", "static_runtime"),
        *("mkldnn", "mkldnn_prepacked", "onednn"),
    )
)
_CUSTOM_CLASS = re.compile(r"__torch__\.torch\.classes\.[\w.]+")


@dataclass(frozen=True)
class Node:
    """An operator of the graph, and the user's statement behind it where that is known."""

    operator: str
    statement: Statement | None = None

    def __str__(self) -> str:
        """Name the operator and its place."""
        if self.statement is None:
            return self.operator
        return f"{self.operator} ({self.statement.file}:{self.statement.line})"


@dataclass
class Scan:
    """What a graph holds.

    Attributes:
        devices: Operators with a device that is a constant, and the device.
        train_flags: Dropout, batch norm and the like with training on.
        dead_inputs: Names of forward's inputs that nothing uses.
        input_writes: Operators that write into an input of forward.
        random: Operators that draw random numbers.
        operators: Names of all operators, sorted.
        custom_operators: Those that torch does not bring, sorted.
        custom_classes: Classes that torch does not bring, sorted.
    """

    devices: list[tuple[Node, str]] = field(default_factory=list)
    train_flags: list[Node] = field(default_factory=list)
    dead_inputs: list[str] = field(default_factory=list)
    input_writes: list[Node] = field(default_factory=list)
    random: list[Node] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    custom_operators: list[str] = field(default_factory=list)
    custom_classes: list[str] = field(default_factory=list)


def scan(exported: Any) -> Scan:
    """Read forward of a TorchScript module, with all that it calls.

    Args:
        exported: A module as `torch.jit.load` gives it, frozen or not.

    Returns:
        What its graph holds.
    """
    graph = exported.inlined_graph
    found = Scan()
    inputs = list(graph.inputs())
    found.dead_inputs = [
        value.debugName().split(".")[0] for value in inputs[1:] if not value.uses()
    ]
    operators: set[str] = set()
    classes: set[str] = set()
    for node in nodes_of(graph):
        kind = node.kind()
        operators.add(kind)
        for value in (*node.inputs(), *node.outputs()):
            classes.update(_CUSTOM_CLASS.findall(value.type().annotation_str))
        for device in _device_inputs(node):
            found.devices.append((describe(node), device))
        if _trains(node):
            found.train_flags.append(describe(node))
        if _RANDOM.match(kind):
            found.random.append(describe(node))
        if _writes_into(node, inputs[1:]):
            found.input_writes.append(describe(node))
    found.operators = sorted(operators)
    found.custom_operators = sorted(
        name for name in operators if name.split("::")[0] not in _KNOWN_NAMESPACES
    )
    found.custom_classes = sorted(classes)
    return found


def nodes_of(block: Any) -> Iterator[Any]:
    """Yield the nodes of a graph or block, those of inner blocks included."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes_of(inner)


def describe(node: Any) -> Node:
    """Return an operator with the user's statement that made it."""
    return Node(node.kind(), statement_in_text(node.sourceRange()))


def _constant(value: Any) -> Any:
    return value.toIValue() if value.node().kind() == "prim::Constant" else None


def _device_inputs(node: Any) -> list[str]:
    return [
        str(_constant(value))
        for value in node.inputs()
        if value.type().kind() == "DeviceObjType" and value.node().kind() == "prim::Constant"
    ]


def _trains(node: Any) -> bool:
    inputs = list(node.inputs())
    kind = node.kind()
    if kind in _TRAIN_FLAGS and len(inputs) > _TRAIN_FLAGS[kind]:
        # Dropout of nothing is harmless.
        drops_nothing = "dropout" in kind and _constant(inputs[1]) == 0
        return _constant(inputs[_TRAIN_FLAGS[kind]]) is True and not drops_nothing
    if kind in _DROPOUT_P and len(inputs) > _DROPOUT_P[kind]:
        return bool(_constant(inputs[_DROPOUT_P[kind]]))
    return False


def _writes_into(node: Any, graph_inputs: list[Any]) -> bool:
    namespace, _, name = node.kind().partition("::")
    if namespace != "aten" or not name.endswith("_") or name.endswith("__"):
        return False
    value = next(iter(node.inputs()), None)
    names = {graph_input.debugName() for graph_input in graph_inputs}
    while value is not None:
        if value.debugName() in names:
            return True
        maker = value.node()
        value = next(iter(maker.inputs()), None) if _VIEWS.match(maker.kind()) else None
    return False


def normalised(traced: Any) -> list[tuple[str, str]]:
    """Write down a graph without names, places, shapes and addresses, so that two can be compared.

    Args:
        traced: A module, not frozen.

    Returns:
        For each node its text, and the place in the source that made it.
    """
    numbers: dict[str, int] = {}
    lines: list[tuple[str, str]] = []

    def number(value: Any) -> str:
        return f"%{numbers.setdefault(value.debugName(), len(numbers))}"

    def write(block: Any, depth: int) -> None:
        for value in block.inputs():
            number(value)
        for node in block.nodes():
            inputs = ", ".join(number(value) for value in node.inputs())
            outputs = ", ".join(number(value) for value in node.outputs())
            text = f"{'  ' * depth}{outputs} = {node.kind()}{_attributes(node)}({inputs})"
            lines.append((text, node.sourceRange()))
            for inner in node.blocks():
                write(inner, depth + 1)
        results = ", ".join(number(value) for value in block.outputs())
        lines.append((f"{'  ' * depth}return ({results})", ""))

    write(traced.inlined_graph, 0)
    return lines


def _attributes(node: Any) -> str:
    if node.kind() == "prim::Constant":
        value = node.output().toIValue()
        if isinstance(value, torch.Tensor):
            data = value.detach().to_dense().cpu().contiguous().flatten().view(torch.uint8)
            digest = sha256(data.numpy().tobytes()).hexdigest()[:16]
            return f"[{value.dtype} {list(value.shape)} {digest}]"
        return f"[{value!r}]"
    if node.kind() in ("prim::GetAttr", "prim::SetAttr", "prim::CallMethod"):
        return f"[{node.s('name')}]"
    return ""


def first_difference(
    left: list[tuple[str, str]], right: list[tuple[str, str]]
) -> tuple[str, Statement | None] | None:
    """Compare two graphs that `normalised` wrote down.

    Returns:
        None where they are equal; else what differs, and the user's statement behind it.
    """
    for (a, place_a), (b, place_b) in zip(left, right, strict=False):
        if a != b:
            statement = statement_in_text(place_a) or statement_in_text(place_b)
            return f"`{a.strip()}` became `{b.strip()}`", statement
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        return f"{len(left)} nodes became {len(right)}", statement_in_text(
            longer[min(len(left), len(right))][1]
        )
    return None

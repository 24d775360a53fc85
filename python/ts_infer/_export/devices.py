"""Making an exported model follow its inputs' device, where tracing wrote one down."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ts_infer._export.locate import syntax_tree
from ts_infer._export.scan import Node, describe, is_constant, nodes_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Rewrite:
    """What became of the devices that were constants.

    Attributes:
        rewritten: Operators that take their first tensor input's device now.
        left: Operators that keep theirs, and why.
        named: Operators that keep theirs, because the source names it.
    """

    rewritten: list[Node] = field(default_factory=list)
    left: list[tuple[Node, str]] = field(default_factory=list)
    named: list[Node] = field(default_factory=list)


def follow_input_device(exported: Any, device: str) -> Rewrite:
    """Replace constant devices in forward by the device of its first tensor argument.

    To be called on a frozen module, before it is saved and before it runs: freezing folds what
    depends on a constant device only, and a graph that ran was compiled already. Where the source
    names the device, as in `x.cpu()`, it is meant, and stays.

    Args:
        exported: The module; its graph changes in place.
        device: The device that the example inputs are on; only this one is replaced.

    Returns:
        What was done.
    """
    rewrite = Rewrite()
    wanted = torch.device(device)
    graph = exported._c._get_method("forward").graph
    torch._C._jit_pass_inline(graph)
    tensors = (value for value in graph.inputs() if value.type().kind() == "TensorType")
    source = next(tensors, None)
    follower = None
    for constant, forked in list(_device_constants(graph)):
        value = constant.output().toIValue()
        for use in list(constant.output().uses()):
            node = describe(use.user)
            if value != wanted:
                rewrite.left.append((node, f"is on {value}, the inputs on {device}"))
            elif _names(node, device):
                rewrite.named.append(node)
            elif forked:
                rewrite.left.append((node, f"is on {device}, in a graph that is forked"))
            elif source is None:
                rewrite.left.append((node, "has no tensor argument of forward to follow"))
            else:
                # One for all, at the top, where inner blocks see it.
                follower = follower or _device_of(graph, source)
                use.user.replaceInput(use.offset, follower)
                rewrite.rewritten.append(node)
    for name in exported._c._method_names():
        if name != "forward":
            _leave_method(exported, name, device, rewrite)
    return rewrite


def _device_constants(graph: Any) -> Iterator[tuple[Any, bool]]:
    """Yield the constants, and whether they are in a graph that is forked."""
    for node, forks in nodes_of(graph):
        if node.kind() != "prim::Constant" or not is_constant(node.output()):
            continue
        if isinstance(node.output().toIValue(), torch.device):
            yield node, bool(forks)


def _device_of(graph: Any, source: Any) -> Any:
    # A trace that is not frozen knows its example's device, and would fold the new node by it.
    source.setType(torch._C.TensorType.get())
    node = graph.create("prim::device", [source], 1)
    node.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(node)
    return node.output()


def _leave_method(exported: Any, name: str, device: str, rewrite: Rewrite) -> None:
    graph = exported._c._get_method(name).inlined_graph
    for constant, _ in _device_constants(graph):
        for use in constant.output().uses():
            node = describe(use.user, name)
            if _names(node, device):
                rewrite.named.append(node)
            else:
                value = constant.output().toIValue()
                rewrite.left.append((node, f"is on {value}, in the method {name}"))


def _names(node: Node, device: str) -> bool:
    """Whether the calls behind a node name the device: `zeros(3, device="cpu")`, `x.cpu()`."""
    if node.statement is None:
        return False
    kind = device.split(":")[0]
    operator = node.operator.split("::")[-1]
    functions = {operator, kind} if operator == "to" else {operator}
    calls = [
        call
        for statement in ast.walk(syntax_tree(node.statement.file))
        if isinstance(statement, ast.stmt) and statement.lineno == node.statement.line
        for call in ast.walk(statement)
        if isinstance(call, ast.Call) and _function(call) in functions
    ]
    return bool(calls) and all(_function(c) == kind or _has_text(c, kind) for c in calls)


def _function(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


def _has_text(call: ast.Call, kind: str) -> bool:
    constants = (part.value for part in ast.walk(call) if isinstance(part, ast.Constant))
    return any(isinstance(text, str) and text.split(":")[0] == kind for text in constants)

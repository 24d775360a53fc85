"""Making an exported model follow its inputs' device, where tracing wrote one down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ts_infer._export.scan import Node, describe, nodes_of


@dataclass
class Rewrite:
    """What became of the devices that were constants.

    Attributes:
        rewritten: Operators that take their first tensor input's device now.
        left: Operators that keep theirs, and why.
    """

    rewritten: list[Node] = field(default_factory=list)
    left: list[tuple[Node, str]] = field(default_factory=list)


def follow_input_device(exported: Any, device: str) -> Rewrite:
    """Replace constant devices in forward by the device of its first tensor argument.

    To be called on a frozen module, before it is saved. Where the source names the device, as in
    `x.cpu()`, it is meant, and stays.

    Args:
        exported: The module; its graph changes in place.
        device: The device that the example inputs are on; only this one is replaced.

    Returns:
        What was done.
    """
    rewrite = Rewrite()
    graph = exported.forward.graph
    constants = [
        node
        for node in nodes_of(graph)
        if node.kind() == "prim::Constant" and node.output().type().kind() == "DeviceObjType"
    ]
    source = next((v for v in list(graph.inputs())[1:] if v.type().kind() == "TensorType"), None)
    follower = None
    for constant in constants:
        value = str(constant.output().toIValue())
        for use in list(constant.output().uses()):
            node = describe(use.user)
            if value != device:
                rewrite.left.append((node, f"is on {value}, the inputs on {device}"))
            elif source is None:
                rewrite.left.append((node, "forward has no tensor argument to follow"))
            elif node.statement is not None and _names_device(node.statement.text, device):
                continue
            else:
                if follower is None:
                    follower = graph.create("prim::device", [source], 1)
                    follower.output().setType(torch._C.DeviceObjType.get())
                    graph.prependNode(follower)
                use.user.replaceInputWith(constant.output(), follower.output())
                rewrite.rewritten.append(node)
    return rewrite


def _names_device(text: str, device: str) -> bool:
    kind = device.split(":")[0]
    return f'"{kind}' in text or f"'{kind}" in text or f".{kind}(" in text

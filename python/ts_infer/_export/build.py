"""Making one candidate file: capture, follow the inputs' device, save, and trace again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ts_infer._export import variants
from ts_infer._export.arguments import tensors_of
from ts_infer._export.capture import Captured, CaptureError, Plan, capture, retrace, save_failure
from ts_infer._export.devices import follow_input_device
from ts_infer._export.differential import call_of, place
from ts_infer._export.locate import divergence
from ts_infer._export.report import Finding
from ts_infer._export.scan import first_difference, normalised

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ts_infer._export.arguments import Example
    from ts_infer._export.isolation import Emit
    from ts_infer._export.observe import Unit
    from ts_infer._export.shapes import DynamicShapes
    from ts_infer._export.variants import Variant


@dataclass
class Built:
    """What came of a plan.

    Attributes:
        failed: Whether there is no file; `findings` says why.
        failed_unit: The part that could not be scripted.
        forks: Whether it calls torch.jit.fork.
        dropped: Arguments of the example that the exported forward does not take.
        findings: What the tracer warned about, or why there is no file.
        doubts: Warnings that are a loss only where tracing on other inputs differs.
        notes: What is worth knowing.
    """

    failed: bool = False
    failed_unit: Unit | None = None
    forks: bool = False
    dropped: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    doubts: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def other_inputs(example: Example, dynamic: DynamicShapes) -> list[Variant]:
    """Return inputs to trace on as well: other values, and other sizes of every dynamic dim."""
    sizes, _ = variants.sizes(example, dynamic)
    return [*variants.values(example)[:2], *sizes[-3:]]


def build(
    module: nn.Module,
    example: Example,
    plan: Plan,
    path: Path,
    others: Sequence[Variant],
    emit: Emit,
) -> None:
    """Capture a module into a file.

    Emits one `Built`; then, for a trace, `"traced"` for each other input that gave a graph, and a
    `Finding` where that graph is another one, or a doubt turned out to be a loss.

    Args:
        module: The module, in eval mode; neither it nor its state changes.
        example: The example inputs.
        plan: How to capture it.
        path: Where to write.
        others: Inputs to trace on as well.
        emit: Sends a message.
    """
    try:
        captured = capture(module, example, plan)
        notes, findings = _follow_device(captured, example)
        _save(captured.module, path, plan.method)
    except CaptureError as error:
        emit(Built(True, error.unit, findings=[error.finding]))
        return
    emit(
        Built(
            forks=calls_fork(captured.module),
            dropped=captured.dropped,
            findings=[*captured.findings, *findings],
            doubts=captured.doubts,
            notes=[*captured.notes, *notes],
        )
    )
    if others and captured.traced is not None:
        _compare_graphs(module, example, plan, captured, others, emit)


def calls_fork(module: torch.jit.ScriptModule) -> bool:
    """Whether a method of a scripted module calls torch.jit.fork."""
    names = module._c._method_names()
    graphs = [module._c._get_method(name).inlined_graph for name in names]
    return any(graph.findAllNodes("prim::fork", True) for graph in graphs)


def _follow_device(captured: Captured, example: Example) -> tuple[list[str], list[Finding]]:
    devices = {str(tensor.device) for _, tensor in tensors_of(example.values)}
    if len(devices) != 1:
        return [], []
    rewrite = follow_input_device(captured.module, devices.pop())
    notes = []
    if rewrite.rewritten:
        names = ", ".join(dict.fromkeys(map(str, rewrite.rewritten)))
        notes.append(f"a device that was baked in follows the first input now: {names}")
    if rewrite.named:
        names = ", ".join(dict.fromkeys(map(str, rewrite.named)))
        notes.append(f"a device that the source names stays, whatever the input's: {names}")
    findings = []
    for node, reason in rewrite.left:
        finding = Finding("device-baked", f"{node.operator} {reason}.", probe="graph")
        if node.statement is not None:
            place(finding, node.statement)
        findings.append(finding)
    return notes, findings


def _save(module: Any, path: Path, method: str) -> None:
    save: Any = torch.jit.save
    try:
        save(module, str(path))
    except Exception as error:
        raise CaptureError(save_failure(error, method)) from error


def _compare_graphs(
    module: nn.Module,
    example: Example,
    plan: Plan,
    captured: Captured,
    others: Sequence[Variant],
    emit: Emit,
) -> None:
    graph = normalised(captured.traced)
    doubts = list(captured.doubts)
    for variant in others:
        try:
            other = retrace(module, example, plan, variant.make())
        except CaptureError:
            continue  # the module refuses these inputs, which the differential probes report
        emit("traced")
        for doubt in list(doubts):
            key = (doubt.file or "", doubt.line or 0)
            if other.conversions.get(key) != captured.conversions.get(key):
                doubts.remove(doubt)
                doubt.inputs = variant.label
                emit(doubt)
        difference = first_difference(graph, normalised(other.traced))
        if difference is None and other.outputs != captured.outputs:
            difference = (f"it returns {other.outputs}, not {captured.outputs}", None)
        if difference is None:
            continue
        text, statement = difference
        finding = Finding(
            "graphs-differ",
            f"tracing on {variant.label} gives another graph: {text}",
            probe="graphs",
            inputs=variant.label,
        )
        makers = (variants.example(example).make, variant.make)
        parted = divergence(*(call_of(module, example, made) for made in makers))
        if (statement := parted or statement) is not None:
            place(finding, statement)
        emit(finding)
        return

"""Running the archive beside the module, at every size that was declared."""

from __future__ import annotations

import inspect
import io
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ts_infer._export.arguments import Example, tensors_of
from ts_infer._export.capture import clone_module
from ts_infer._export.compare import Comparison, compare
from ts_infer._export.report import ALLOWABLE, Checked, Finding
from ts_infer._export.shapes import MAX_CHECK_ELEMENTS, DynamicShapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Two calls in a row on one instance show state that was lost.
_CALLS = 2

_EXAMPLE_ADVICE = (
    "a scripted forward takes every argument that is not annotated for a tensor: annotate the "
    "others (n: int), and state that has another type than its first value."
)


@dataclass
class CheckResult:
    """What the check saw.

    Attributes:
        checked: One entry a size.
        findings: Differences.
        notes: Sizes that the module refuses, or that were too large.
        outputs: For each size where both ran, the sizes and the exported model's result.
    """

    checked: list[Checked] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outputs: list[tuple[dict[str, int], Any]] = field(default_factory=list)


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """Seed torch's generators for a block and put them back afterwards."""
    cuda: Any = torch.cuda
    # Asking for the devices would start a context on each.
    devices = range(cuda.device_count()) if cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def run_check(
    archive: bytes,
    module: nn.Module,
    example: Example,
    dropped: Sequence[str],
    shapes: DynamicShapes,
    preserved_methods: Sequence[str],
) -> CheckResult:
    """Compare the archive, opened by stock `torch.jit.load`, with the module.

    Every size gets a fresh copy of both and two calls in a row. At the example's size, preserved
    methods without arguments are called too, each followed by another call.

    Args:
        archive: The archive's bytes.
        module: The module, in eval mode; neither it nor its state changes.
        example: The example inputs.
        dropped: Arguments that the exported forward does not take.
        shapes: The dynamic dims.
        preserved_methods: Methods other than forward.

    Returns:
        What was seen.
    """
    result = CheckResult()
    cases, notes = shapes.cases(example, MAX_CHECK_ELEMENTS)
    result.notes += notes
    confirmed: dict[str, set[int]] = {name: set() for name in shapes.dims}
    for i, sizes in enumerate(cases):
        eager, _ = clone_module(module)
        exported = _jit_load(archive)
        methods = _callable_without_arguments(module, preserved_methods) if i == 0 else []
        pair = _Pair(eager, exported, example, dropped)
        entry = _run_case(result, pair, shapes, sizes, methods, is_example=i == 0)
        if entry.outcome != "refused":
            for name, size in sizes.items():
                confirmed[name].add(size)
    for name, seen in confirmed.items():
        if len(seen) == 1:
            result.notes.append(
                f"no size of {name} but the example's {seen.pop()} could be checked"
            )
    skipped = set(preserved_methods) - set(_callable_without_arguments(module, preserved_methods))
    for name in sorted(skipped - {"forward"}):
        result.notes.append(f"method {name} takes arguments: it was kept, but not checked")
    return result


@dataclass
class _Pair:
    """The module and the exported model, called alike."""

    eager: Any
    exported: Any
    example: Example
    dropped: Sequence[str]

    def call_eager(self, values: Sequence[Any]) -> Any:
        with torch.no_grad(), fixed_seed():
            return self.example.call(self.eager, values)

    def call_exported(self, values: Sequence[Any]) -> Any:
        with torch.no_grad(), fixed_seed():
            return self.example.call(self.exported, values, self.dropped)

    def call_method(self, side: Any, name: str) -> Any:
        with torch.no_grad(), fixed_seed():
            return getattr(side, name)()


def _run_case(
    result: CheckResult,
    pair: _Pair,
    shapes: DynamicShapes,
    sizes: dict[str, int],
    methods: Sequence[str],
    is_example: bool,
) -> Checked:
    example = pair.example
    entry = Checked({} if is_example else dict(sizes), _shapes_at(example, shapes, sizes))
    result.checked.append(entry)
    label = _label(entry)
    steps = [f"call {i + 1}" for i in range(_CALLS)]
    steps += [step for name in methods for step in (f"{name}()", f"the call after {name}()")]
    for step in steps:
        method = step.removesuffix("()") if step.endswith("()") and step[:-2] in methods else None
        try:
            if method:
                expected = pair.call_method(pair.eager, method)
            else:
                expected = pair.call_eager(shapes.resize(example, sizes))
        except Exception as error:
            _refused(result, entry, pair, shapes, sizes, error, method, label)
            return entry
        try:
            if method:
                actual = pair.call_method(pair.exported, method)
            else:
                actual = pair.call_exported(shapes.resize(example, sizes))
        except Exception as error:
            entry.outcome = "differs"
            message = f"the module runs at {label} ({step}), the exported model raises: "
            advice = _EXAMPLE_ADVICE if is_example else ""
            _add(result, "exported-raises", message + essence(error), advice)
            return entry
        if step == "call 1":
            result.outputs.append((sizes, actual))
        entry.calls += method is None
        comparison = compare(expected, actual)
        if comparison.max_abs_diff is not None:
            entry.max_abs_diff = max(entry.max_abs_diff or 0.0, comparison.max_abs_diff)
        if comparison.difference:
            entry.outcome = "differs"
            _differs(result, comparison, label, step)
            return entry
    return entry


def _refused(
    result: CheckResult,
    entry: Checked,
    pair: _Pair,
    shapes: DynamicShapes,
    sizes: Mapping[str, int],
    error: Exception,
    method: str | None,
    label: str,
) -> None:
    entry.outcome = "refused"
    try:
        if method:
            pair.call_method(pair.exported, method)
        else:
            pair.call_exported(shapes.resize(pair.example, sizes))
    except Exception:
        result.notes.append(
            f"eager refuses {label} ({essence(error)}), and so does the exported model"
        )
        return
    entry.outcome = "differs"
    message = f"the module refuses {label}, the exported model answers: expected "
    _add(result, "exported-accepts", message + essence(error))


def _differs(result: CheckResult, comparison: Comparison, label: str, step: str) -> None:
    difference = comparison.difference
    assert difference is not None
    code = "output-structure-differs" if difference.structural else "output-differs"
    state = "" if step == "call 1" else "; call 1 was equal, so state was lost"
    message = f"at {label}, {step}: {difference.where}: {difference.text}{state}"
    _add(result, code, message)


def _add(result: CheckResult, code: str, message: str, advice: str = "") -> None:
    result.findings.append(Finding(code, message, advice or ALLOWABLE[code]))


def essence(error: BaseException) -> str:
    """Return the first line that says something, with the error's type.

    TorchScript puts its own stack first and the reason last.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].startswith("The following operation failed") else lines[0]
    kind = type(error).__name__
    return f"{kind}: {line.removeprefix(f'{kind}: ')}"


def _shapes_at(
    example: Example, shapes: DynamicShapes, sizes: Mapping[str, int]
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path, tensor in tensors_of(example.values):
        label = example.names[path[0]] + "".join(f"[{key!r}]" for key in path[1:])
        found[label] = shapes.shape_at(path, tensor, sizes)
    return found


def _label(entry: Checked) -> str:
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in entry.shapes.items()
    )
    sizes = ", ".join(f"{name}={size}" for name, size in entry.sizes.items())
    return f"{sizes or 'the example'} ({shapes})"


def _callable_without_arguments(module: Any, names: Sequence[str]) -> list[str]:
    found = []
    for name in dict.fromkeys(names):
        if name == "forward":
            continue
        method = getattr(module, name)
        schema = getattr(method, "schema", None)
        if schema is not None:
            needed = [a for a in schema.arguments[1:] if not a.has_default_value()]
        else:
            needed = [
                p
                for p in inspect.signature(method).parameters.values()
                if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            ]
        if not needed:
            found.append(name)
    return found


def _jit_load(archive: bytes) -> Any:
    loader: Any = torch.jit.load
    exported = loader(io.BytesIO(archive))
    # A frozen archive has no `training`; one that kept it must answer in eval mode.
    return exported.eval() if hasattr(exported, "training") else exported

"""Turning a module into a frozen TorchScript module, and noting what was lost on the way."""

from __future__ import annotations

import copy
import functools
import io
import re
import sys
import types
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, get_type_hints

import torch
from torch import nn

from ts_infer._export import conversions
from ts_infer._export.arguments import Example, map_tensors
from ts_infer._export.conversions import Conversion, watch_conversions
from ts_infer._export.gradients import are_enabled, grad_mode
from ts_infer._export.outputs import Outputs, UnknownValueError, restore_outputs, watch_outputs
from ts_infer._export.report import Finding
from ts_infer._export.scripting import ScriptingError, give_types, keep_state, script_units
from ts_infer._export.source import (
    Statement,
    is_torch_file,
    is_user_file,
    statement_at,
    statement_in_text,
    statement_of_error,
    torch_relative,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ts_infer._export.observe import Observation, Unit

_CAUSE_LINES = 12
_jit: Any = torch.jit  # not annotated upstream


class CaptureError(Exception):
    """The module could not be captured; carries the finding, and the part that failed."""

    def __init__(self, finding: Finding, unit: Unit | None = None) -> None:
        """Wrap a finding."""
        super().__init__(finding.message)
        self.finding = finding
        self.unit = unit


@dataclass
class Captured:
    """A frozen module.

    Attributes:
        module: The frozen module, which `torch.jit.save` takes.
        dropped: Arguments of the example that it does not have: tracing fixed them at the
            parameters' defaults.
        findings: What the tracer warned about.
        doubts: What it warned about that depends on sizes alone, or is a constant: a loss only
            where tracing on other inputs gives something else.
        conversions: What it took out of tensors, by file and line.
        notes: What is worth knowing.
        traced: The trace before it was frozen; None where the module was scripted.
        outputs: How its tensors are put into what the module returns; empty: as they are.
    """

    module: Any
    dropped: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    doubts: list[Finding] = field(default_factory=list)
    conversions: dict[tuple[str, int], list[Conversion]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    traced: Any = None
    outputs: str = ""


@dataclass(frozen=True)
class TracerEvent:
    """A TracerWarning: torch's text, where it was raised, and the user's line behind it."""

    text: str
    file: str
    line: int
    user_file: str | None
    user_line: int


@contextmanager
def watch_warnings() -> Iterator[list[TracerEvent]]:
    """Collect TracerWarnings, drop torch's deprecation of TorchScript, pass on all the rest.

    Yields:
        The TracerWarnings of the block so far.
    """
    events: list[TracerEvent] = []
    passed_on: set[tuple[str, str, int]] = set()
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r"`?torch\.jit\b|TorchScript", category)
        # Also where torch's own filter would hide one: it matches names such as torch_geometric.
        warnings.simplefilter("always", _jit.TracerWarning)
        show = warnings.showwarning

        def collect(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, _jit.TracerWarning):
                if filename == conversions.__file__:
                    filename, lineno = _frame_that_converts()
                events.append(TracerEvent(str(message), filename, lineno, *_user_frame()))
            elif (str(message), filename, lineno) not in passed_on:
                # Once: the module runs many times during an export.
                passed_on.add((str(message), filename, lineno))
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = collect
        yield events


def _frame_that_converts() -> tuple[str, int]:
    """Return the place that converted a tensor, behind what watches conversions."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != conversions.__file__:
        frame = frame.f_back
    frame = frame.f_back if frame else None
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)


def _user_frame() -> tuple[str | None, int]:
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None, 0


def clone_module(module: nn.Module) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Copy a module with its state.

    Args:
        module: Any module; scripted children are copied too.

    Returns:
        The copy, and a pair (original, copy) for each tensor that Python reaches.
    """
    if isinstance(module, torch.jit.ScriptModule):
        # deepcopy would share the graph's constants, which may be state.
        buffer = io.BytesIO()
        _jit.save(module, buffer)
        buffer.seek(0)
        return _jit.load(buffer), []
    memo: dict[int, Any] = {}
    originals: list[torch.Tensor] = []
    for child in module.modules():
        for value in vars(child).values():
            # deepcopy refuses these; weight_norm leaves them behind.
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
                originals.append(value)
    copied = copy.deepcopy(module, memo)
    # deepcopy keeps what it copied alive in a list under its own id.
    kept = memo.get(id(memo), [])
    originals += [value for value in kept if isinstance(value, torch.Tensor)]
    return copied, [(value, memo[id(value)]) for value in originals if id(value) in memo]


@dataclass(frozen=True)
class Plan:
    """How to capture a module.

    Attributes:
        method: "trace", "script" or "hybrid".
        preserved_methods: Methods other than forward to keep.
        units: The parts to script before tracing; only in a process of its own, since scripting
            them changes classes and functions.
        stateful: Whether calls change tensors of the module.
        observation: What the parts were seen to take; needed where there are units, or where
            observed types are to stand in for annotations that are missing.
    """

    method: str
    preserved_methods: tuple[str, ...] = ()
    units: tuple[Unit, ...] = ()
    observation: Observation | None = None
    stateful: bool = False


def capture(module: nn.Module, example: Example, plan: Plan) -> Captured:
    """Trace or script a copy of a module and freeze it.

    Args:
        module: The module, in eval mode; neither it nor its state changes.
        example: The example inputs.
        plan: How.

    Returns:
        The frozen module.

    Raises:
        CaptureError: Tracing, scripting or freezing failed.
    """
    names = [name for name in dict.fromkeys(plan.preserved_methods) if name != "forward"]
    work, pairs = clone_module(module)
    if isinstance(work, torch.jit.ScriptModule):
        captured = Captured(work)
        if plan.method not in ("script", "auto"):
            captured.notes.append(
                "the module is TorchScript already: it is exported as it is, not traced"
            )
    else:
        _prepare_for_compiler(work, names)
        work = _script_parts(work, plan)
        if isinstance(work, torch.jit.ScriptModule):
            captured = Captured(work)
        elif plan.method == "script":
            captured = _script(work)
        else:
            captured = _trace(work, example, plan)
            _restore_tensors(pairs)
    _freeze(captured, names)
    return captured


def _script_parts(work: Any, plan: Plan) -> Any:
    """Script the plan's units with observed types; return the module, scripted where it is one."""
    if not plan.units:
        return work
    assert plan.observation is not None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Looking through the globals of the user's files touches what torch deprecates.
            warnings.simplefilter("ignore")
            give_types(work, plan.observation)
            return script_units(work, plan.observation, plan.units)[0]
    except ScriptingError as error:
        place = statement_at(error.file, error.line)
        finding = Finding(
            "script-failed",
            f"{error.unit} cannot be scripted: {_shortened(error.cause)}",
            f"{error.advice}.",
            place.file or None,
            place.line or None,
            place.text,
        )
        raise CaptureError(finding, error.unit) from error


def retrace(module: nn.Module, example: Example, plan: Plan, values: Sequence[Any]) -> Captured:
    """Trace a fresh copy on other inputs, for comparison; not frozen."""
    work, _ = clone_module(module)
    _prepare_for_compiler(work, plan.preserved_methods)
    return _trace(_script_parts(work, plan), example.with_values(values), plan)


def _prepare_for_compiler(work: Any, names: Sequence[str]) -> None:
    """Give copies of modules what torch.jit needs of their classes.

    Methods to keep are marked, on a class of the copy's own: torch.jit remembers per class which
    methods it compiled. Annotations of attributes that `from __future__ import annotations`
    made strings become types, since torch.jit refuses strings.
    """
    for child in work.modules():
        if isinstance(child, torch.jit.ScriptModule):
            continue
        cls = type(child)
        changes: dict[str, Any] = {}
        if annotations := _resolved_annotations(child):
            changes["__annotations__"] = annotations
        for name in names if child is work else ():
            function = getattr(cls, name, None)
            if isinstance(function, types.FunctionType):
                changes[name] = _jit.export(_copy_function(function))
        if changes:
            changes |= {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
            child.__class__ = type(cls.__name__, (cls,), changes)


def _resolved_annotations(module: nn.Module) -> dict[str, Any]:
    own = getattr(module, "__annotations__", {})  # asked like torch.jit does
    if not any(isinstance(annotation, str) for annotation in own.values()):
        return {}
    try:
        hints = get_type_hints(type(module))
    except (NameError, TypeError):  # torch.jit will name the annotation
        return {}
    return {name: hints[name] for name in own}


def _copy_function(function: types.FunctionType) -> types.FunctionType:
    twin = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(twin, function)
    return twin


def _script(work: Any) -> Captured:
    try:
        with torch.no_grad():
            return Captured(_jit.script(work))
    except Exception as error:
        raise CaptureError(
            _failure(
                "script-failed",
                error,
                "annotate every argument that is no tensor (n: int), and write what TorchScript "
                "does not know in terms that it does; or script only the functions with control "
                'flow (@torch.jit.script) and use method="hybrid". After a failed attempt, try '
                "again in a fresh process.",
            )
        ) from error


def _trace(work: Any, example: Example, plan: Plan) -> Captured:
    dropped = _fixed_arguments(example)
    keyword_only = [n for n in example.names if n in example.keyword_only and n not in dropped]
    if keyword_only:
        raise CaptureError(
            Finding(
                "trace-failed",
                f"keyword-only arguments ({', '.join(keyword_only)}): expected positional ones, "
                "which is all that torch.jit.trace knows.",
                "remove the * from forward's parameters, or wrap the module in one without it.",
            )
        )
    names = [name for name in example.names if name not in dropped]
    values = [v for n, v in zip(example.names, example.values, strict=True) if n not in dropped]
    # Tracing runs the module, which may change its inputs.
    values = copy.deepcopy([_detached(value) for value in values])
    given: dict[str, Any] = {"example_inputs": tuple(values)}
    if not example.variadic and names != list(example.parameters[: len(names)]):
        given = {"example_kwarg_inputs": dict(zip(names, values, strict=True))}
    restore = keep_state(work)
    seen = watch_outputs(work)
    try:
        with (
            grad_mode(),
            _functions_by_their_operators(),
            watch_warnings() as events,
            watch_conversions(plan.stateful) as converted,
        ):
            traced = _jit.trace(work, **given, strict=False, check_trace=False)
    except UnknownValueError as error:
        finding = Finding("trace-failed", str(error), "return its tensors instead.")
        raise CaptureError(finding) from error
    except Exception as error:
        named = None if seen else _untraceable(names, values)
        raise CaptureError(
            named or _failure("trace-failed", error, _trace_advice(str(error)))
        ) from error
    restore()
    captured = Captured(traced, tuple(dropped), notes=seen[-1].notes, traced=traced)
    if not seen[-1].plain:
        captured.outputs = seen[-1].text
        captured.module = _put_together(traced, seen[-1], work, plan)
    for conversion in converted:
        place = conversion.file, _statement_line(conversion.file, conversion.line)
        captured.conversions.setdefault(place, []).append(conversion)
    for name, value in dropped.items():
        captured.notes.append(
            f"the argument {name} is fixed at its default {value!r}: a trace has only tensor "
            "arguments, so the exported forward does not take it"
        )
    _sort_events(captured, events)
    scripted = _scripted_parts(traced, work)
    if scripted:
        captured.notes.append(f"scripted parts in the trace: {', '.join(scripted)}")
    elif plan.method == "hybrid":
        captured.notes.append(
            "the trace called nothing that is scripted: hybrid is the same as trace here; put "
            "@torch.jit.script on the functions whose control flow must be kept"
        )
    return captured


class _NoBackward:
    """The context of an autograd.Function's forward that no backward will follow."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def _nothing(self, *_: Any) -> None:
        pass

    mark_dirty = mark_non_differentiable = set_materialize_grads = save_for_forward = _nothing


@contextmanager
def _functions_by_their_operators() -> Iterator[None]:
    """Have a trace see what an autograd.Function's forward does.

    It would record a call of Python, which no file can hold. Without gradients forward is all that
    such a function is.
    """

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.setup_context is not torch.autograd.Function.setup_context:
            return cls.forward(*args, **kwargs)
        context = _NoBackward()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    function: Any = torch.autograd.Function
    own = vars(function)["apply"]
    function.apply = classmethod(apply)
    try:
        yield
    finally:
        function.apply = own


def _put_together(traced: Any, outputs: Outputs, work: nn.Module, plan: Plan) -> Any:
    present = set(traced._c._method_names())
    methods = [name for name in plan.preserved_methods if name in present and name != "forward"]
    try:
        return restore_outputs(traced, outputs, work, methods)
    except Exception as error:
        raise CaptureError(_failure("trace-failed", error, _trace_advice(str(error)))) from error


def _detached(value: Any) -> Any:
    return map_tensors(value, lambda _, tensor: tensor.detach().clone())


def _fixed_arguments(example: Example) -> dict[str, Any]:
    """Return the non-tensor arguments that equal their defaults; raise on any other."""
    fixed: dict[str, Any] = {}
    for name, value in zip(example.names, example.values, strict=True):
        if not isinstance(value, (bool, int, float, complex, str, type(None))):
            continue
        default = example.defaults.get(name, ...)
        if type(default) is type(value) and default == value:
            fixed[name] = value
            continue
        raise CaptureError(
            Finding(
                "trace-failed",
                f"the argument {name} is {value!r}: expected tensors or containers of tensors, "
                f"got {type(value).__name__}",
                f'use method="script", which keeps it as an argument, or fix it: wrap the '
                f"module in one whose forward calls it with {name}={value!r}.",
            )
        )
    return fixed


def _restore_tensors(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Undo what the traced run did to the tensors that the trace refers to."""
    with torch.no_grad():
        for original, copied in pairs:
            if copied.shape != original.shape:
                copied.resize_(original.shape)
            if not torch.equal(copied, original):
                copied.copy_(original)


def _sort_events(captured: Captured, events: Sequence[TracerEvent]) -> None:
    inside: dict[str, None] = {}
    seen: set[tuple[str, int, str]] = set()
    for event in events:
        if is_torch_file(event.file):
            # Upstream keeps these quiet: its own sources take such branches on sizes only.
            inside[f"{torch_relative(event.file)}:{event.line}"] = None
            continue
        statement = statement_at(event.file, event.line)
        message = _meaning(event.text, statement)
        if (statement.file, statement.line, message) in seen:
            continue
        seen.add((statement.file, statement.line, message))
        taken = captured.conversions.get((statement.file, statement.line), [])
        by_size = bool(taken) and all(conversion.by_size for conversion in taken)
        if statement.is_guard and by_size:
            # Whether a declared size makes it raise is for the differential probes to find.
            captured.notes.append(
                f"{statement.file}:{statement.line}: `{statement.text}`: tracing drops this check"
            )
            continue
        finding = Finding(
            "check-lost" if statement.is_guard else "tracer-warning",
            "tracing drops this check." if statement.is_guard else message,
            file=statement.file,
            line=statement.line,
            source=statement.text,
            probe="trace",
        )
        if "registered as constants" in event.text or by_size:
            captured.doubts.append(finding)
        else:
            captured.findings.append(finding)
    if inside:
        captured.notes.append(
            f"tracer warnings from torch's own code are not counted: {', '.join(inside)}"
        )


@functools.cache
def _statement_line(file: str, line: int) -> int:
    return statement_at(file, line).line


def _meaning(text: str, statement: Statement) -> str:
    if "to a Python boolean" in text:
        return {
            "If": "tracing keeps only the branch that the example took.",
            "While": "tracing keeps the number of turns that the example took.",
            "Assert": "tracing drops the assertion.",
        }.get(statement.kind, "tracing keeps only the outcome that the example had.")
    if "to a Python" in text:
        return "tracing bakes in the number that the example gave."
    if "to a NumPy array" in text:
        return "tracing bakes in what NumPy computed for the example."
    if "Iterating over a tensor" in text:
        return "tracing unrolls the loop to the example's length."
    if "Using len" in text:
        return "tracing bakes in the example's length; use tensor.shape[0]."
    if "registered as constants" in text:
        return "tracing bakes in the tensor made here as a constant."
    if "live references" in text:
        return "tracing may lose this change in place, because other tensors share the memory."
    return " ".join(text.split())


def _scripted_parts(traced: Any, work: nn.Module) -> list[str]:
    parts: dict[str, None] = {}
    for name, child in work.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            parts[name] = None
    for child in traced.modules():
        if "forward" not in child._c._method_names():
            continue
        for node in child.graph.findAllNodes("prim::CallFunction", True):
            constant = next(iter(node.inputs())).node()
            parts[constant.s("name") if constant.hasAttribute("name") else "function"] = None
    return list(parts)


def _freeze(captured: Captured, names: Sequence[str]) -> None:
    module = captured.module
    present = set(module._c._method_names())
    for name in names:
        if name not in present:
            raise CaptureError(
                Finding(
                    "method-lost",
                    f"preserved method {name}: expected a method that torch.jit can compile, got "
                    f"none; compiled were {', '.join(sorted(present))}",
                    "define it as a plain method of the module's class, with annotated "
                    "arguments and result.",
                )
            )
    if not hasattr(module, "training"):
        captured.notes.append("the module was frozen before")
        return
    if are_enabled():
        return  # freezing takes detach() away
    try:
        captured.module = _jit.freeze(module, preserved_attrs=list(names))
    except Exception as error:
        raise CaptureError(
            _failure(
                "freeze-failed",
                error,
                "freezing needs a module that torch.jit can inline; the text above names the "
                "part that it cannot.",
            )
        ) from error


def save_failure(error: Exception, method: str) -> Finding:
    """Describe why `torch.jit.save` refused a module."""
    code = "script-failed" if method == "script" else "trace-failed"
    return _failure(code, error, _trace_advice(str(error)))


def _untraceable(names: Sequence[str], values: Sequence[Any]) -> Finding | None:
    """Name the first argument that torch.jit.trace does not take."""
    for name, value in zip(names, values, strict=True):
        inferred = torch._C._jit_try_infer_type(value)
        kind = inferred.type().annotation_str if inferred.success() else ""
        if kind and not re.search(r"int|float|bool|complex|str(?!,)|None|Optional", kind):
            continue
        reason = f"it is {kind}" if kind else inferred.reason().strip()
        return Finding(
            "trace-failed",
            f"the argument {name}: expected tensors, or lists, tuples and dicts of tensors, which "
            f"is all that torch.jit.trace takes, got another value: {reason}",
            'leave it out of the example where it has a default, or use method="script".',
        )
    return None


def _trace_advice(text: str) -> str:
    if "Python function call" in text:
        return "replace the Python callback by torch operators, or script what does the same."
    return 'run the module on example_inputs by hand, or use method="script" or "hybrid".'


def _failure(code: str, error: Exception, advice: str) -> Finding:
    text = str(error)
    statement = statement_in_text(text) or statement_of_error(error)
    kind = type(error).__name__
    message = f"{kind}: {kept}" if (kept := _shortened(text)) else kind
    if statement is None:
        return Finding(code, message, advice)
    return Finding(code, message, advice, statement.file, statement.line, statement.text)


def _shortened(text: str) -> str:
    kept = [
        line.rstrip()
        for line in text.splitlines()
        # The interpreter's stack, which the finding's own file and line replace.
        if line.strip() and not re.match(r"\S.*\(\d+\): [<\w]", line)
    ]
    if len(kept) > _CAUSE_LINES:
        kept = [*kept[: _CAUSE_LINES - 2], "…", kept[-1]]  # the last says what it is
    return "\n".join(kept)


def eager_failure(error: Exception) -> Finding:
    """Describe why the module itself fails on the example inputs."""
    finding = _failure("eager-failed", error, "give example_inputs that the module accepts.")
    finding.message = f"the module itself fails on example_inputs: {finding.message}"
    return finding

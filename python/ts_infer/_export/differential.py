"""Running the exported model beside the module on the same inputs, and comparing."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ts_infer._export import variants
from ts_infer._export.arguments import map_tensors, tensors_of
from ts_infer._export.capture import clone_module
from ts_infer._export.compare import Comparison, compare, is_rounding, leaves
from ts_infer._export.eager import fixed_seed
from ts_infer._export.gradients import grad_mode
from ts_infer._export.locate import (
    REASONS,
    Suspect,
    divergence,
    is_left_out_of_scripts,
    raised_explicitly,
    suspects,
)
from ts_infer._export.outputs import settled
from ts_infer._export.report import Finding, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ts_infer._export.arguments import Example
    from ts_infer._export.isolation import Emit
    from ts_infer._export.source import Statement
    from ts_infer._export.variants import Variant

# Where the module itself refuses an input, the export may answer: the runtime checks these.
_CHECKED_BY_RUNTIME = frozenset({"ranks", "dtypes", "runtime lengths"})

_SHAKES = 3

_FRAME = re.compile(r".+\(\d+\): (\w+|<\w+>)$")

_ANNOTATE = (
    "a scripted forward takes every argument that is not annotated for a tensor: annotate the "
    "others (n: int), and state that has another type than its first value."
)

CODES = {
    "example": "example-differs",
    "values": "values-differ",
    "arguments": "values-differ",
    "extremes": "extremes-differ",
    "sizes": "sizes-differ",
    "ranks": "ranks-differ",
    "dtypes": "dtypes-differ",
    "lengths": "lengths-differ",
    "repeats": "state-lost",
    "runtime": "runtime-differs",
    "runtime lengths": "runtime-differs",
    "runtime state": "runtime-differs",
}

_SCRIPT_DROPS = (
    "a scripted forward drops decorators and hooks without a word, and counts and cuts strings by "
    "their bytes: write a decorator's work into the function, and keep text out of it; or allow it "
    "if such values never come."
)


@dataclass
class Subject:
    """A module and its export.

    Attributes:
        module: The module, in eval mode; neither it nor its state changes.
        archive: The exported file.
        example: The example inputs.
        dropped: Arguments that the exported forward does not take.
        methods: Preserved methods other than forward.
        stateful: Whether calls change the module.
        served: Whether the file is run in ts_infer's own runtime, not in stock torch.
    """

    module: nn.Module
    archive: Path
    example: Example
    dropped: Sequence[str] = ()
    methods: Sequence[str] = ()
    stateful: bool = False
    served: bool = False


@dataclass
class Compared:
    """A run, what it found, and what the exported model returned at its first call."""

    run: Run
    finding: Finding | None = None
    output_shapes: list[tuple[int, ...] | None] = field(default_factory=list)


class _Pair:
    """One instance of each, called alike."""

    def __init__(self, subject: Subject, exported: Any) -> None:
        self.subject = subject
        self.example = subject.example
        self.dropped = subject.dropped
        self.eager, _ = clone_module(subject.module)
        self.exported = exported

    def call_eager(self, variant: Variant) -> Any:
        with grad_mode(), fixed_seed():
            return settled((variant.given or self.example).call(self.eager, variant.make()))

    def call_shaken(self, variant: Variant) -> list[Any]:
        """Call copies of the module whose weights and inputs are moved by an ulp or not."""
        results = []
        for seed in range(_SHAKES):
            module, _ = clone_module(self.subject.module)
            values: Sequence[Any] = variant.make()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.copy_(_shaken(tensor))
                values = [map_tensors(value, lambda _, each: _shaken(each)) for value in values]
            with grad_mode(), fixed_seed():
                results.append(settled((variant.given or self.example).call(module, values)))
        return results

    def call_double(self, variant: Variant) -> Any:
        """Call a copy of the module in float64. Raises where it does not run there."""
        module, _ = clone_module(self.subject.module)
        module.double()
        values = [map_tensors(value, lambda _, each: _doubled(each)) for value in variant.make()]
        with grad_mode(), fixed_seed():
            return settled((variant.given or self.example).call(module, values))

    def call_exported(self, variant: Variant) -> Any:
        with grad_mode(), fixed_seed():
            given = variant.given or self.example
            return settled(given.call(self.exported, variant.make(), self.dropped))


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _shaken(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor + tensor * torch.randint_like(tensor, -1, 2) * torch.finfo(tensor.dtype).eps


def _pairs(subject: Subject) -> Callable[[], _Pair]:
    """Return what makes pairs of fresh instances. What is served is loaded once, and here."""
    if not subject.served:
        return lambda: _Pair(subject, jit_load(subject.archive, device_of(subject.module)))
    make = serve(subject)
    return lambda: _Pair(subject, make())


def device_of(module: nn.Module) -> torch.device | None:
    """Return where all of a module's tensors are; None where they are in several places or none."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return devices.pop() if len(devices) == 1 else None


def jit_load(archive: Path, device: torch.device | None = None, *, as_saved: bool = False) -> Any:
    """Open an archive as stock torch does, in eval mode.

    Args:
        archive: The file.
        device: Where its tensors go; None: where they were, or to the host where this machine has
            no accelerator.
        as_saved: Leave it in train mode where it was saved so.
    """
    loader: Any = torch.jit.load
    if device is None and not torch.accelerator.is_available():
        device = torch.device("cpu")
    exported = loader(str(archive), map_location=device)
    # A frozen archive has no `training`; one that kept it must answer in eval mode.
    return exported.eval() if hasattr(exported, "training") and not as_saved else exported


class _Served:
    """A model of the runtime, called as a module is."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, **kwargs)

    def __getattr__(self, method: str) -> Any:
        return functools.partial(self._model.run_method, method)


def serve(subject: Subject, **options: Any) -> Callable[[], Any]:
    """Load an archive in ts_infer's own runtime.

    Args:
        subject: The module and its export.
        options: Of `runtime.load`, other than the defaults.

    Returns:
        What gives the model; one with a state of its own each time, where calls change it.
    """
    from ts_infer import runtime

    tensors = tensors_of(subject.example.values)

    def load() -> Any:
        return runtime.load(
            subject.archive,
            device=str(tensors[0][1].device) if tensors else "cpu",
            # What load refuses unless it is allowed is no difference of what it computes.
            allow_operators=runtime.restricted_operators(),
            on_log=lambda *_: None,
            # It would call at the largest sizes that are declared; those that fit are probed.
            warmup="off",
            **options,
        )

    model = load()
    return lambda: _Served(load() if subject.stateful else model)


def compare_variants(
    subject: Subject, probe: str, made: Sequence[Variant], emit: Emit, calls: int = 1
) -> None:
    """Compare on each variant; for the probe `sizes` also that two calls in a row agree.

    Emits `("start", index)` before and a `Compared` after each, and `("place", statement)` when
    the statement behind a difference was found. Of what is served, emits `("load", 0)` before it is
    loaded, and `("add", text)` when the option is known that mends a difference.

    Args:
        subject: The module and its export.
        probe: The probe's name.
        made: The inputs.
        emit: Sends a message.
        calls: How many calls in a row on each variant.
    """
    pair = None
    located = False
    if subject.served:
        emit(("load", 0))
    try:
        pairs = _pairs(subject)
    except Exception as error:
        emit(_not_loaded(probe, made[0], error))
        emit(("add", _passes_at_fault(subject, probe, made[0], calls, emit)))
        return
    for index, variant in enumerate(made):
        emit(("start", index))
        if pair is None or subject.stateful:
            pair = pairs()
        compared = _compare(pair, probe, variant, calls, emit)
        if compared.finding is not None:
            # Again on fresh instances: was it these inputs, or what came before them?
            pair = None
            if index and not subject.stateful and not subject.served:
                again = _compare(pairs(), probe, variant, calls, emit)
                if again.finding is None:
                    compared.finding.code = "state-lost"
                    compared.finding.message = (
                        "equal on fresh instances, not after other calls: "
                        f"{compared.finding.message}"
                    )
        emit(compared)
        if compared.finding is not None and compared.finding.file is None and not located:
            located = True
            if subject.served:
                emit(("add", _passes_at_fault(subject, probe, variant, calls, emit)))
            else:
                emit(("place", _locate(subject, variant, compared.finding.code)))


def _not_loaded(probe: str, variant: Variant, error: Exception) -> Compared:
    compared = Compared(Run(probe, variant.label))
    _found(compared, CODES[probe], f"ts_infer.runtime does not load it: {essence(error)}", "load")
    return compared


def _passes_at_fault(subject: Subject, probe: str, variant: Variant, calls: int, emit: Emit) -> str:
    """Say with which option of `load` a difference is gone."""
    from ts_infer import runtime

    tried: dict[str, dict[str, Any]] = {
        f"disabled_passes={[name]}": {"disabled_passes": [name]} for name in runtime.passes()
    }
    tried |= {"optimize=False": {"optimize": False}, 'executor="legacy"': {"executor": "legacy"}}
    for text, options in tried.items():
        emit(("trying", text))
        try:
            model = serve(subject, **options)()
        except Exception:
            continue
        if _compare(_Pair(subject, model), probe, variant, calls, emit).finding is None:
            return f"with {text} it is equal"
    return "no option of load mends it"


def _compare(pair: _Pair, probe: str, variant: Variant, calls: int, emit: Emit) -> Compared:
    run = Run(probe, variant.label, dict(variant.sizes))
    compared = Compared(run)
    for call in range(calls):
        where = variant.label if calls == 1 else f"{variant.label}, call {call + 1}"
        try:
            expected = pair.call_eager(variant)
        except Exception as error:
            _refused(pair, variant, compared, error, where)
            return compared
        emit(("eager", call))
        try:
            actual = pair.call_exported(variant)
        except Exception as error:
            who = "ts_infer.runtime" if isinstance(pair.exported, _Served) else "the exported model"
            text = f"the module runs, {who} raises {essence(error)}"
            if probe in _CHECKED_BY_RUNTIME:
                run.outcome, run.refused_by = "refused", "the exported model"
                run.reason = essence(error)
            else:
                _found(compared, CODES[probe], text, where)
                if "Expected a value of type 'Tensor" in text and compared.finding is not None:
                    compared.finding.advice = _ANNOTATE
            return compared
        if call == 0:
            compared.output_shapes = [
                tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else None
                for _, leaf in leaves(actual)
            ]
        run.calls += 1
        comparison = compare(expected, actual)
        differs = comparison.difference is not None and not comparison.difference.structural
        fresh = call == 0 or not pair.subject.stateful
        if differs and fresh and _is_rounding(pair, variant, expected, actual):
            comparison = Comparison(max_abs_diff=comparison.max_abs_diff)
        if note_difference(compared, comparison, probe, where, call > 0):
            return compared
    return compared


def _is_rounding(pair: _Pair, variant: Variant, expected: Any, actual: Any) -> bool:
    """Whether results differ as the module's own do: folded weights, another order of sums."""
    with contextlib.suppress(Exception):
        if pair.subject.served:
            rounded = pair.call_shaken(variant)
            with contextlib.suppress(Exception):
                rounded.append(pair.call_double(variant))
            return is_rounding(expected, actual, rounded)
        try:
            rounded = [pair.call_double(variant)]
        except Exception:
            rounded = pair.call_shaken(variant)
        # torch's kernels sum in the order that the module's do, so that only what freezing folded
        # rounds otherwise.
        return is_rounding(expected, actual, rounded, typical=True)
    return False


def note_difference(
    compared: Compared, comparison: Comparison, probe: str, where: str, repeated: bool
) -> bool:
    """Note a comparison of outputs; return whether they differ."""
    run = compared.run
    if comparison.max_abs_diff is not None:
        run.max_abs_diff = max(run.max_abs_diff or 0.0, comparison.max_abs_diff)
    difference = comparison.difference
    if difference is None:
        return False
    code = CODES[probe]
    if difference.structural and probe in ("example", "values", "arguments", "sizes"):
        code = "structure-differs"
    elif repeated and not code.startswith("runtime"):
        code = "state-lost"
    _found(compared, code, f"{difference.where}: {difference.text}", where)
    return True


def _found(compared: Compared, code: str, text: str, where: str) -> None:
    compared.run.outcome = "differs"
    compared.finding = Finding(
        code,
        f"on {where}: {text}",
        probe=compared.run.probe,
        inputs=where,
        max_abs_diff=compared.run.max_abs_diff,
    )
    if compared.run.probe == "arguments":
        compared.finding.advice = _SCRIPT_DROPS


def _refused(
    pair: _Pair, variant: Variant, compared: Compared, error: Exception, where: str
) -> None:
    run = compared.run
    run.outcome, run.refused_by, run.reason = "refused", "the module", essence(error)
    statement = raised_explicitly(error)
    if run.probe in _CHECKED_BY_RUNTIME or (statement is None and run.probe != "sizes"):
        return
    if statement is not None and is_left_out_of_scripts(statement):
        return  # the module's own code says that a compiled one does without
    try:
        pair.call_exported(variant)
    except Exception:
        return
    _found(
        compared, "check-lost", f"the module raises {run.reason}, the exported model answers", where
    )
    if statement is not None and compared.finding is not None:
        place(compared.finding, statement)


def call_of(
    module: nn.Module, example: Example, made: Callable[[], Sequence[Any]]
) -> Callable[[], None]:
    """Return a call of a fresh copy of a module."""
    copied, _ = clone_module(module)

    def call() -> None:
        with grad_mode(), fixed_seed():
            example.call(copied, made())

    return call


def _locate(subject: Subject, variant: Variant, code: str) -> Statement | None:
    """Find the statement that went another way than on the example, or took a value out."""
    module, example = subject.module, subject.example
    if isinstance(module, torch.jit.ScriptModule):
        return None
    on_example = call_of(module, example, variants.example(example).make)
    if code != "state-lost":
        given = variant.given or example
        found = divergence(on_example, call_of(module, given, variant.make))
        if found is not None:
            return found
    return next(iter(suspects(on_example, code)), None)


def place(finding: Finding, statement: Statement) -> None:
    """Write where a finding was made into it."""
    finding.file, finding.line, finding.source = statement.file, statement.line, statement.text
    if isinstance(statement, Suspect):
        finding.message += f"\nlikely cause: the line {REASONS[statement.reason]}"


def compare_repeats(
    subject: Subject, probe: str, made: Sequence[Variant], calls: int, emit: Emit
) -> None:
    """Compare call by call on one instance, with inputs that take turns.

    Afterwards each preserved method that needs no argument is called, and one call after it.
    """
    pair = _pairs(subject)()
    compared = Compared(Run(probe, "calls in a row on one instance"))
    for call in range(calls):
        variant = made[call % len(made)]
        emit(("start", call))
        where = f"call {call + 1} in a row ({variant.label})"
        exported = functools.partial(_call_exported, pair, variant)
        try:
            expected = pair.call_eager(variant)
        except Exception as error:
            compared.run.reason = essence(error)
            with contextlib.suppress(Exception):
                exported()  # both have made the same calls
            continue
        emit(("eager", call))
        if not _repeat(compared, exported, expected, where):
            break
    for name in callable_without_arguments(subject.module, subject.methods):
        if compared.finding is not None:
            break
        with grad_mode(), fixed_seed():
            expected = getattr(pair.eager, name)()
        if _repeat(compared, getattr(pair.exported, name), expected, f"{name}()"):
            expected = pair.call_eager(made[0])
            where = f"the call after {name}()"
            _repeat(compared, functools.partial(_call_exported, pair, made[0]), expected, where)
    emit(compared)
    if compared.finding is not None and compared.finding.file is None and not subject.served:
        emit(("place", _locate(subject, made[0], "state-lost")))


def _call_exported(pair: _Pair, variant: Variant) -> Any:
    return pair.call_exported(variant)


def _repeat(compared: Compared, exported: Callable[[], Any], expected: Any, where: str) -> bool:
    """Make one call of the exported model and compare; return whether it was equal."""
    try:
        with grad_mode(), fixed_seed():
            actual = settled(exported())
    except Exception as error:
        code = CODES[compared.run.probe]
        _found(compared, code, f"the exported model raises {essence(error)}", where)
        return False
    compared.run.calls += 1
    return not note_difference(compared, compare(expected, actual), compared.run.probe, where, True)


def essence(error: BaseException) -> str:
    """Return the first line that says something, with the error's type.

    TorchScript puts its own stack first and the reason last.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A traced operator's error holds the Python stack that it was traced in.
    lines = [line for line in lines if not _FRAME.match(line) and line != "At:"]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].startswith("The following operation failed") else lines[0]
    kind = type(error).__name__
    while line.startswith(f"{kind}: "):  # said by Python, and again by TorchScript
        line = line.removeprefix(f"{kind}: ")
    return f"{kind}: {line}"


def callable_without_arguments(module: Any, names: Sequence[str]) -> list[str]:
    """Return the methods among `names`, other than forward, that need no argument."""
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


def runs_on_meta(subject: Subject) -> tuple[bool, str]:
    """Whether the exported model runs on torch's meta device, which has no data.

    A device that was baked in meets tensors of another one there.

    Returns:
        True, or False and why not; True and a reason where the module itself cannot run there.
    """

    def to_meta(values: Sequence[Any]) -> list[Any]:
        return [map_tensors(value, lambda _, tensor: tensor.to("meta")) for value in values]

    exported = jit_load(subject.archive, device_of(subject.module))
    exported.to("meta")
    # Frozen weights are constants, which `to` does not reach.
    for node in exported.graph.findAllNodes("prim::Constant", True):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            node.t_("value", node.t("value").to("meta"))
    # Optimising compares constants, which have no data any more.
    jit: Any = torch.jit  # not annotated upstream
    try:
        with torch.no_grad(), jit.optimized_execution(False):
            values = to_meta(variants.example(subject.example).make())
            result = subject.example.call(exported, values, subject.dropped)
    except Exception as error:
        text = essence(error)
        if "device" in text.lower() and "meta" in text:
            return False, text
        return True, f"it needs data: {text}"
    devices = {tensor.device.type for _, tensor in tensors_of((result,))}
    if devices - {"meta"}:
        return False, f"an output came out on {', '.join(sorted(devices - {'meta'}))}"
    return True, ""

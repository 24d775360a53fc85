"""Runs a net in the runtime and in eager, and judges what comes of it.

The reference is the module in eager. Where a trace has frozen what eager computes anew (a size, a
branch), it is the same file in ``torch.jit.load``, unoptimised. Where eager raises, what optimised
``torch.jit.load`` and ``torch.jit.freeze`` answer is right too, and what the module answers without
the statements that raise: what nothing reads may be left out.

An output may be off from the module in float64 by eight times what eager is off in float32, or what
the module in float64 moves by where every value in it is shaken by an ulp of its tensor's scale
(2^-9 of it in bfloat16), and by a few ulp of the output's scale. NaN and infinities lie where eager
has them, wherever float64 agrees with eager on them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from net import NAMESPACE, Net, names_in
from torch import Tensor, nn

import ts_infer
from ts_infer import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("wrong", "refused", "answered", "crash", "hang")
SHAKES = 6  # runs with other noise
FACTOR = 8.0
ULP = {"fp32": 2.0**-23, "bf16": 2.0**-8}
SMALLEST = {"fp32": 2.0**-147, "bf16": 2.0**-120}  # bfloat16 products take denormals for zero

Outputs = list[Any]


class NotANetError(Exception):
    """Eager cannot make it, or torch cannot save it."""


@dataclasses.dataclass
class Failure:
    """What is wrong with a call; -1 is the load."""

    kind: str
    call: int
    detail: str


@dataclasses.dataclass
class Counts:
    """What was compared."""

    calls: int = 0
    outputs: int = 0
    both_refused: int = 0


def leaves(value: Any) -> Outputs:
    """The tensors and numbers of a result."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def save(net: Net, module: nn.Module) -> bytes:
    """As stock torch does it."""
    file = io.BytesIO()
    try:
        if net.method == "trace":
            saved = torch.jit.trace(  # type: ignore[no-untyped-call]
                copy.deepcopy(module) if net.stateful else module,
                tuple(net.arguments(0)),
                check_trace=False,
            )
            if net.stateful:
                saved.load_state_dict(module.state_dict())
        else:
            saved = torch.jit.script(module)
        torch.jit.save(saved, file)
    except Exception as error:
        raise NotANetError(f"{type(error).__name__}: {error}") from error
    return file.getvalue()


def call(function: Callable[..., Any], arguments: list[Tensor]) -> Outputs | Exception:
    """Its outputs, or what it raised."""
    try:
        with torch.inference_mode():
            return leaves(function(*arguments))
    except Exception as error:
        return error


def load(data: bytes, options: dict[str, Any]) -> runtime.Model:
    """What is under test."""
    return runtime.load(data, on_log=lambda level, message: None, **options)


class References:
    """What else a call's outputs are held against; made when asked for."""

    def __init__(self, net: Net, data: bytes) -> None:
        self.net = net
        self.data = data
        self.precision: str = net.options.get("precision", "fp32")

    def _replay(self, module: Callable[..., Any], upto: int, double: bool) -> Outputs | Exception:
        """From the first call on: a trace may write to what it holds for constant."""
        outcome: Outputs | Exception = []
        for k in range(upto + 1):
            arguments = self.net.arguments(k)
            if double:
                arguments = [x.double() if x.dtype == torch.float32 else x for x in arguments]
            outcome = call(module, arguments)
        return outcome

    def jit(self, upto: int) -> Outputs | Exception:
        """torch.jit.load, not optimised."""
        with unoptimised():
            module = torch.jit.load(io.BytesIO(self.data))  # type: ignore[no-untyped-call]
            return self._replay(module, upto, False)

    def optimised_jit(self, upto: int) -> Outputs | Exception:
        """torch.jit.load as users have it, which leaves out what nothing reads though it raises."""
        module = torch.jit.load(io.BytesIO(self.data))  # type: ignore[no-untyped-call]
        outcome = self._replay(module, upto, False)
        if isinstance(outcome, Exception):
            module = torch.jit.load(io.BytesIO(self.data))  # type: ignore[no-untyped-call]
            try:
                outcome = self._replay(torch.jit.freeze(module), upto, False)
            except Exception as error:
                return error
        return outcome

    def without_what_raises(self, k: int) -> Outputs | Exception:
        """The module without the statements that raise, and those that want what they make."""
        module, arguments = self.net.make(), self.net.arguments(k)
        namespace = NAMESPACE | dict(zip(self.net.inputs, arguments, strict=True))
        namespace["self"] = module
        for line in self.net.lines:
            call(functools.partial(exec, "\n".join(line.source("")), namespace), [])
        return call(lambda: [namespace[name] for name in self.net.outputs], [])

    def jit_exact(self, upto: int) -> Outputs | Exception:
        """The file in float64."""
        with unoptimised():
            module = torch.jit.load(io.BytesIO(self.data)).double()  # type: ignore[no-untyped-call]
            return self._in_double(module, upto)

    def exact(self, upto: int) -> Outputs | Exception:
        """The module in float64."""
        return self._in_double(self.net.make().double(), upto)

    def shaken(self, upto: int, seed: int) -> Outputs | Exception:
        """The module in float64, with noise in each value."""
        generator = torch.Generator().manual_seed(seed)
        ulp = ULP[self.precision]

        def shake(value: Any) -> None:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return
            scale = finite_scale(value)
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            try:
                value.add_(noise * (scale * ulp))
            except RuntimeError:  # expanded
                return

        return self._in_double(self.net.make(noisy=True, shake=shake).double(), upto)

    def _in_double(self, module: Callable[..., Any], upto: int) -> Outputs | Exception:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return self._replay(module, upto, True)
        finally:
            torch.set_default_dtype(before)


@contextmanager
def unoptimised() -> Iterator[None]:
    """What torch.jit runs in here, it runs as it is written."""
    before = torch._C._get_graph_executor_optimize()
    torch._C._set_graph_executor_optimize(False)
    try:
        yield
    finally:
        torch._C._set_graph_executor_optimize(before)


def finite_scale(value: Tensor) -> float:
    """The largest finite magnitude."""
    value = value[torch.isfinite(value)]
    return float(value.abs().max()) if value.numel() else 0.0


def same_specials(a: Tensor, b: Tensor) -> Tensor:
    """Where both are finite, both NaN or the same infinity."""
    finite = torch.isfinite(a) & torch.isfinite(b)
    return finite | (torch.isnan(a) & torch.isnan(b)) | (a == b)


def quickly_close(got: Any, want: Any, precision: str) -> bool:
    """Whether an output is the expected one within some ulp of its scale: most are."""
    if not isinstance(want, Tensor):
        return bool(got == want)
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if torch.equal(got, want):
        return True
    if not want.is_floating_point():
        return False
    if not bool(same_specials(got, want).all()):
        return False
    finite = torch.isfinite(want)
    if bool(finite.all()):
        difference, scale = float((got - want).abs().max()), float(want.abs().max())
    else:
        difference = finite_scale(got[finite].double() - want[finite].double())
        scale = finite_scale(want)
    return difference <= 4 * ULP[precision] * scale + SMALLEST[precision]


def difference_text(got: Any, want: Any) -> str:
    """Where two outputs differ most."""
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        return f"expected {want!r}, got {got!r}"
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"expected {want.dtype} {list(want.shape)}, got {got.dtype} {list(got.shape)}"
    if not want.is_floating_point():
        return f"{int((got != want).sum())} of {want.numel()} elements differ"
    special = ~same_specials(got, want)
    if bool(special.any()):
        return (
            f"NaN or infinity: {int(special.sum())} of {want.numel()} elements, "
            f"expected {float(want[special][0])}, got {float(got[special][0])}"
        )
    off = (got.double() - want.double())[torch.isfinite(want)].abs()
    largest, scale = float(off.max()), finite_scale(want)
    return f"off by {largest:.3g} where the scale is {scale:.3g}"


class Judge:
    """Compares outputs that are not the same at first sight."""

    def __init__(self, net: Net, references: References) -> None:
        self.precision: str = net.options.get("precision", "fp32")
        self.references = references

    def difference(self, got: Outputs, want: Outputs, k: int, of_file: bool = False) -> str | None:
        """What is wrong with an output; None where all are right."""
        if len(got) != len(want):
            return f"expected {len(want)} outputs, got {len(got)}"
        exact: Outputs | Exception | None = None
        shaken: list[Outputs] = []
        for i, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            if quickly_close(mine, theirs, self.precision):
                continue
            text = f"output {i}: {difference_text(mine, theirs)}"
            if not isinstance(theirs, Tensor) or mine.shape != theirs.shape:
                return text
            if mine.dtype != theirs.dtype:
                return text
            if exact is None:
                exact = self.references.jit_exact(k) if of_file else self.references.exact(k)
            if isinstance(exact, Exception) or len(exact) != len(want):
                if not self._roughly(mine, theirs):
                    return text
                continue
            if self._within(mine, theirs, exact[i], []):
                continue
            if not shaken:
                outcomes = [self.references.shaken(k, seed) for seed in range(SHAKES)]
                shaken = [x for x in outcomes if not isinstance(x, Exception)]
                shaken = [x for x in shaken if len(x) == len(want)]
            if not self._within(mine, theirs, exact[i], [outputs[i] for outputs in shaken]):
                return text
        return None

    def _roughly(self, got: Tensor, want: Tensor) -> bool:
        """Where there is nothing in float64 to compare with."""
        if not bool(same_specials(got, want).all()):
            return False
        finite = torch.isfinite(want)
        if not want.is_floating_point():
            return False
        difference = finite_scale(got[finite].double() - want[finite].double())
        return difference <= 1000 * ULP[self.precision] * finite_scale(want)

    def _within(self, got: Tensor, want: Tensor, exact: Tensor, shaken: list[Tensor]) -> bool:
        if exact.shape != want.shape or any(x.shape != want.shape for x in shaken):
            return True  # what decides the sizes is a matter of rounding
        if not want.is_floating_point():
            unsure = exact != want
            for x in shaken:
                unsure |= x != exact
            return bool((unsure | (got == want)).all())
        got, want = got.double(), want.double()
        sure = same_specials(want, exact)
        moved = torch.zeros_like(exact)
        for x in shaken:
            sure &= same_specials(x, exact)
            moved = torch.maximum(moved, torch.nan_to_num((x - exact).abs(), 0, 0, 0))
        if not bool((same_specials(got, want) | ~sure).all()):
            return False
        finite = sure & torch.isfinite(want) & torch.isfinite(exact) & torch.isfinite(got)
        if not bool(finite.any()):
            return True
        eager_error = float((want - exact)[finite].abs().max())
        scale = float(exact[finite].abs().max())
        if not math.isfinite(scale):
            return True
        allowed = FACTOR * (eager_error + moved[finite])
        allowed = allowed + FACTOR * ULP[self.precision] * scale + SMALLEST[self.precision]
        return bool(((got - exact)[finite].abs() <= allowed).all())


def values(net: Net) -> list[dict[str, str]]:
    """For each call, what draws tensors like those that the statements of forward make."""
    described = []
    for k in range(len(net.calls)):
        texts: dict[str, str] = {}
        described.append(texts)
        namespace = NAMESPACE | dict(zip(net.inputs, net.arguments(k), strict=True))
        namespace["self"] = net.make()
        for line in net.lines:
            try:
                with torch.inference_mode():
                    exec("\n".join(line.source("")), namespace)
            except Exception:
                break
            for name in names_in(line.text.partition(" = ")[0]):
                value = namespace.get(name)
                if isinstance(value, Tensor):
                    texts[name] = _like(value, k)
    return described


def _like(value: Tensor, seed: int) -> str:
    if not value.is_floating_point():
        if value.dtype == torch.bool:
            return f"draw({', '.join(map(str, (seed, *value.shape)))}) > 0"
        return f"whole({', '.join(map(str, (seed, 3, *value.shape)))})"
    strides = value.stride()
    order = sorted(range(value.dim()), key=lambda i: -strides[i])
    sizes = [value.size(i) for i in order]
    text = f"draw({', '.join(map(str, (seed, *sizes)))})"
    if order != list(range(value.dim())):
        text += f".permute({[order.index(i) for i in range(value.dim())]})"
    scale = finite_scale(value)
    if scale and not 1e-3 < scale < 1e3:
        text += f" * {scale:.0e}"
    there = [
        name
        for name, where in (
            ("nan", torch.isnan(value)),
            ("inf", torch.isposinf(value)),
            ("-inf", torch.isneginf(value)),
        )
        if bool(where.any())
    ]
    return f"sprinkle({text}, {seed}, {', '.join(there)})" if there else text


def check(net: Net, counts: Counts | None = None, ours: bool = True) -> Failure | None:
    """Makes the calls of a net; ours: in the runtime too.

    Raises:
        NotANetError: There is nothing to compare.
    """
    counts = Counts() if counts is None else counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            net.arguments(0)
            eager = net.make()
        except Exception as error:
            raise NotANetError(f"{type(error).__name__}: {error}") from error
        return _check(net, eager, counts, ours)


def _check(net: Net, eager: nn.Module, counts: Counts, ours: bool) -> Failure | None:
    data = save(net, eager)
    references = References(net, data)
    if not ours:
        for k in range(len(net.calls)):
            call(eager, net.arguments(k))
            references.jit(k)
        return None
    judge = Judge(net, references)
    try:
        model = load(data, net.options)
    except Exception as error:
        for k in range(len(net.calls)):
            if not isinstance(call(eager, net.arguments(k)), Exception) and not isinstance(
                references.jit(k), Exception
            ):
                return Failure("refused", -1, f"load: {_first_line(error)}")
        return None
    comparable = True  # what a call that raises has left of the state is nobody's promise
    for k in range(len(net.calls)):
        want = call(eager, net.arguments(k))
        got = call(model, net.arguments(k))
        counts.calls += 1
        if isinstance(got, Exception) and not isinstance(got, ts_infer.Error):
            return Failure("refused", k, f"not an Error: {_first_line(got)}")
        if not comparable:
            continue
        failure = _compare(got, want, k, judge, counts)
        if failure is not None:
            return failure
        if net.stateful and (isinstance(got, Exception) or isinstance(want, Exception)):
            comparable = False
    return None


def _compare(
    got: Outputs | Exception, want: Outputs | Exception, k: int, judge: Judge, counts: Counts
) -> Failure | None:
    if isinstance(got, Exception):
        if isinstance(want, Exception):
            counts.both_refused += 1
            return None
        jit = judge.references.jit(k)
        if isinstance(jit, Exception) or judge.difference(jit, want, k) is not None:
            return None  # the file does not compute it
        return Failure("refused", k, _first_line(got))
    if not isinstance(want, Exception):
        counts.outputs += len(want)
        text = judge.difference(got, want, k)
        if text is None:
            return None
    jit = judge.references.jit(k)
    if isinstance(want, Exception):
        other = _unlike_all(
            got,
            k,
            judge,
            lambda: jit,
            lambda: judge.references.optimised_jit(k),
            lambda: judge.references.without_what_raises(k),
        )
        if other is None:
            return None
        if isinstance(jit, Exception):
            return Failure("answered", k, _first_line(want))
        return Failure("answered", k, f"unlike torch.jit: {other}; eager: {_first_line(want)}")
    if not isinstance(jit, Exception) and judge.difference(jit, want, k) is None:
        return Failure("wrong", k, str(text))
    # A trace may have a Python number as a tensor.
    other = _unlike_all(got, k, judge, lambda: jit, lambda: judge.references.optimised_jit(k))
    if other is None:
        return None
    kind = "answered" if isinstance(jit, Exception) else "wrong"
    return Failure(kind, k, f"unlike torch.jit: {other}")


def _unlike_all(
    got: Outputs, k: int, judge: Judge, *answers: Callable[[], Outputs | Exception]
) -> str | None:
    """What is wrong beside the first of some answers; None where it is right beside one of them."""
    first: str | None = None
    for answer in answers:
        want = answer()
        text = (
            _first_line(want)
            if isinstance(want, Exception)
            else judge.difference(got, want, k, of_file=True)
        )
        if text is None:
            return None
        first = first or text
    return first


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        if "RuntimeError:" in line:
            lines = [line]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"

"""What a case of the corpus is, and how two results are compared."""

from __future__ import annotations

import copy
import inspect
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Arguments = tuple[Any, ...] | dict[str, Any]
Expect = Literal["exported", "scripted", "refused", "right-or-refused"]

MARKER = "# <- lost"
# |actual - expected| <= atol + rtol * |expected|; freezing folds constants and reorders sums.
TOLERANCE = {torch.float16: 2e-3, torch.float32: 1e-4, torch.float64: 1e-7, torch.complex64: 1e-4}


@dataclass(frozen=True)
class Case:
    """A small model, what its export must do, and held-out inputs.

    Attributes:
        name: Unique in the corpus.
        make: Makes the module; `build` seeds it, so that two instances are equal.
        inputs: The example: a tuple of arguments, or a dict of keyword arguments.
        expect: "exported": must be exported, by whatever method; "scripted": must be exported
            with some part of it scripted; "refused": must raise ExportError; "right-or-refused".
        probes: Arguments of calls in a row on one instance. Where the module raises, the exported
            model must raise too.
        trouble: What a trace of it loses; empty where it loses nothing.
        dynamic_shapes: As for `ts_infer.export`.
        codes: A refusal names at least one of these findings.
        where: What holds the line marked `# <- lost`; default: `make`.
        trace_lies: Whether a plain `torch.jit.trace` fails or is wrong on a probe; default: unless
            `expect` is "exported".
        meta: Whether the exported model must run on the meta device too.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Arguments
    expect: Expect
    probes: list[Arguments]
    trouble: str = ""
    dynamic_shapes: Any = None
    codes: tuple[str, ...] = ()
    where: Any = None
    trace_lies: bool | None = None
    meta: bool = False

    def build(self) -> nn.Module:
        """Make the module in eval mode; always with the same weights."""
        torch.manual_seed(0)
        return self.make().eval()

    @property
    def lies(self) -> bool:
        """Whether a plain trace fails or is wrong on a probe."""
        return self.expect != "exported" if self.trace_lies is None else self.trace_lies

    @property
    def probes_leave_the_signature(self) -> bool:
        """Whether a probe has another dtype or rank than the example."""
        example = _kinds(self.inputs)
        return any(_kinds(probe) != example for probe in self.probes)

    @property
    def file(self) -> str:
        """The file of the model's source."""
        return inspect.getsourcefile(self.where or self.make) or ""

    @property
    def line(self) -> int | None:
        """The line that is marked as lost, counted from 1; None where none is."""
        lines, start = inspect.getsourcelines(self.where or self.make)
        return next((start + i for i, line in enumerate(lines) if MARKER in line), None)


def call(model: Any, arguments: Arguments, seed: int = 0) -> Any:
    """Call a model with copies of `arguments`, with seeded generators."""
    given = copy.deepcopy(arguments)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    with torch.no_grad():
        return model(**given) if isinstance(given, dict) else model(*given)


def difference(expected: Any, actual: Any) -> str | None:
    """Say how two results differ.

    Args:
        expected: The module's result.
        actual: The exported model's. A tuple may stand for a named tuple.

    Returns:
        What differs, None for equal results. NaN equals NaN.
    """
    if isinstance(expected, Tensor):
        if not isinstance(actual, Tensor) or expected.dtype != actual.dtype:
            return f"expected {expected}, got {actual}"
        tolerance = TOLERANCE.get(expected.dtype, 0.0)
        try:
            torch.testing.assert_close(
                actual, expected, rtol=tolerance, atol=tolerance / 10, equal_nan=True
            )
        except AssertionError as error:
            return str(error)
        return None
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping) or list(expected) != list(actual):
            return f"expected {expected}, got {actual}"
        return _first(difference(expected[key], actual[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        kind = list if isinstance(expected, list) else tuple
        if not isinstance(actual, kind) or len(expected) != len(actual):
            return f"expected {expected}, got {actual}"
        return _first(difference(e, a) for e, a in zip(expected, actual, strict=True))
    if isinstance(expected, float) and isinstance(actual, float) and math.isnan(expected):
        return None if math.isnan(actual) else f"expected {expected}, got {actual}"
    same = type(expected) is type(actual) and expected == actual
    return None if same else f"expected {expected}, got {actual}"


def _kinds(arguments: Arguments) -> list[tuple[torch.dtype, int]]:
    values = arguments.values() if isinstance(arguments, dict) else arguments
    return [(v.dtype, v.dim()) for v in values if isinstance(v, Tensor)]


def _first(differences: Any) -> str | None:
    return next((d for d in differences if d is not None), None)


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Standard normal numbers times `scale`, the same for the same seed."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))

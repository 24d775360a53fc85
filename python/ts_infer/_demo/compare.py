"""Measures the ways to run one model side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ts_infer import runtime
from ts_infer._errors import Error
from ts_infer.models import densetnt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from torch import Tensor

PYTHON_WAYS = ("eager Python", "torch.jit in Python", "ts_infer in Python")
BINARY = "ts_infer binary"

# One, so that a busy machine slows all ways alike: threads that wait for each other do not.
THREADS = 1
ROUNDS = 5  # that count; one before them warms up
BLOCK_S = 0.6  # of counted calls a round and way
SKIP = 2  # calls at the start of a block that do not count


@dataclass
class Row:
    """What was measured of one way to run the model."""

    name: str
    n: int  # counted calls
    first_ms: float  # the first call of a fresh process, without loading
    median_ms: float
    p90_ms: float
    ratio: float  # of the median to eager's
    max_abs_diff: float  # of any output element to eager's; inf where sizes differ


class Way(Protocol):
    """One way to run the model."""

    name: str
    first_ms: float
    outputs: Sequence[Any]  # numpy arrays

    def block(self) -> list[float]:
        """Makes calls for ``BLOCK_S`` and returns their times in ms."""


def compare(
    model_path: Path,
    seed: int,
    inputs: Mapping[str, Tensor],
    bench: Sequence[str],
    binary_outputs: Sequence[Any],
) -> list[Row]:
    """Measures eager Python, torch.jit in Python, ts_infer in Python and the binary.

    The ways take turns in blocks, so that what else the machine does hits all of them alike.

    Args:
        model_path: The exported model.
        seed: Of the eager model's weights.
        inputs: By name.
        bench: Arguments with which the binary measures the same model on the same inputs, with
            ``THREADS`` threads.
        binary_outputs: What the binary returned for them.

    Returns:
        A row a way, eager first.

    Raises:
        Error: A process failed; it has said why on stderr.
    """
    with contextlib.ExitStack() as stack:
        ways: list[Way] = [
            stack.enter_context(_PythonWay(name, model_path, seed, inputs)) for name in PYTHON_WAYS
        ]
        ways.append(_BinaryWay(bench, binary_outputs))
        rounds = [[way.block() for way in ways] for _ in range(1 + ROUNDS)][1:]
    rows: list[Row] = []
    for i, way in enumerate(ways):
        times = [ms for blocks in rounds for ms in blocks[i]]
        median_ms = statistics.median(times)
        rows.append(
            Row(
                name=way.name,
                n=len(times),
                first_ms=way.first_ms,
                median_ms=median_ms,
                p90_ms=float(np.percentile(times, 90)),
                ratio=median_ms / (rows[0].median_ms if rows else median_ms),
                max_abs_diff=_max_abs_diff(way.outputs, ways[0].outputs),
            )
        )
    return rows


def comparison_text(rows: Sequence[Row]) -> str:
    """Returns the table, and how it was measured."""
    titles = ("", "first call", "median", "p90", "ratio", "max abs diff", "n")
    lines = ["{:21}{:>12}{:>10}{:>10}{:>8}{:>14}{:>6}".format(*titles)]
    for row in rows:
        diff = "-" if row is rows[0] else f"{row.max_abs_diff:.2g}"
        lines.append(
            f"{row.name:21}{row.first_ms:12.1f}{row.median_ms:10.1f}{row.p90_ms:10.1f}"
            f"{row.ratio:8.2f}{diff:>14}{row.n:6}"
        )
    how = (
        "Times in ms; ratio of the median and largest difference of an output: to eager Python. "
        f"Each way in a process of its own, on the CPU with {THREADS} thread; "
        f"they took turns in {ROUNDS} rounds of {BLOCK_S} s, after one that warmed up. The first "
        "call is that of the fresh process, without loading."
    )
    lines += textwrap.wrap(how, len(lines[0]))
    return "\n".join(lines)


def _max_abs_diff(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    if [a.shape for a in actual] != [e.shape for e in expected]:
        return math.inf
    return max(float(np.abs(a - e).max()) for a, e in zip(actual, expected, strict=True))


class _BinaryWay:
    """The binary's own benchmark, started anew for each block."""

    name = BINARY

    def __init__(self, bench: Sequence[str], outputs: Sequence[Any]) -> None:
        options = ["--skip", str(SKIP), "--duration", str(BLOCK_S), "--json", "-"]
        self._command = [sys.executable, "-m", "ts_infer", *bench, *options]
        self.outputs = outputs
        self.first_ms = math.nan

    def block(self) -> list[float]:
        """Makes calls for ``BLOCK_S`` and returns their times in ms."""
        done = subprocess.run(self._command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            raise Error(
                f"[demo] {self.name} failed with exit status {done.returncode}; it says why above"
            )
        results = json.loads(done.stdout)["results"]
        if math.isnan(self.first_ms):
            self.first_ms = results["first_ms"]
        return [float(ms) for ms in results["latencies_ms"]]


class _PythonWay:
    """A Python process that runs the model when it is told to."""

    def __init__(
        self, name: str, model_path: Path, seed: int, inputs: Mapping[str, Tensor]
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arrays = {key: value.numpy() for key, value in inputs.items()}
        self._process = context.Process(
            target=_serve, args=(theirs, name, model_path, seed, arrays), daemon=True
        )
        self._process.start()
        theirs.close()
        self.first_ms, self.outputs = self._receive()

    def __enter__(self) -> _PythonWay:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def block(self) -> list[float]:
        """Makes calls for ``BLOCK_S`` and returns their times in ms."""
        self._connection.send(None)
        times: list[float] = self._receive()
        return times

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise Error(f"[demo] {self.name} failed; it says why above") from None


def _serve(
    connection: Connection, name: str, model_path: Path, seed: int, arrays: Mapping[str, Any]
) -> None:
    """Sends the first call's time and outputs, then the times of a block for each message."""
    torch.set_num_threads(THREADS)
    call, context = _load(name, model_path, seed)
    inputs = [torch.from_numpy(array) for array in arrays.values()]
    with context:
        first_ms, outputs = _timed(call, inputs)
        connection.send((first_ms, [output.numpy() for output in outputs]))
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            for _ in range(SKIP):
                call(*inputs)
            times: list[float] = []
            end = time.perf_counter() + BLOCK_S
            while time.perf_counter() < end:
                times.append(_timed(call, inputs)[0])
            connection.send(times)


def _load(
    name: str, model_path: Path, seed: int
) -> tuple[Callable[..., Any], contextlib.AbstractContextManager[Any]]:
    """Returns what to call, and the context that its calls are made in."""
    if name == PYTHON_WAYS[0]:
        return densetnt.make(seed), torch.inference_mode()
    if name == PYTHON_WAYS[1]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)  # the same, from torch 2.14 on
            loaded: Any = torch.jit.load(model_path)  # type: ignore[no-untyped-call]
        return loaded, torch.inference_mode()
    return runtime.load(model_path, device="cpu"), contextlib.nullcontext()


def _timed(call: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[float, Any]:
    begin = time.perf_counter()
    outputs = call(*inputs)
    return 1000 * (time.perf_counter() - begin), outputs

"""What one Python call costs: ts_infer beside torch.jit.load of the same archive.

The model is an MLP 4 -> 64 -> 4, so that the call itself is most of the time. Contestants alternate
in blocks within one run, and a ratio is the median over the rounds of the ratio within a round:
what else the machine does hits both sides alike.

    python python/benchmarks/call_overhead.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ts_infer import runtime

Call = Callable[[], object]

ROUNDS = 60
CALLS = 500  # of each contestant in a round
BASE = "torch.jit, inference mode"


def contestants(path: Path) -> dict[str, tuple[Call, Callable[[], Any]]]:
    """By name: one call, and the context that its block runs in."""
    x = torch.randn(1, 4)
    array = x.numpy()
    model = runtime.load(path, device="cpu")

    # One for each mode: a profile taken with gradients fails in inference mode.
    def stock(context: Callable[[], Any]) -> tuple[Call, Callable[[], Any]]:
        loaded: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]
        with context():
            torch.testing.assert_close(model(x), loaded(x).detach())
        return lambda: loaded(x), context

    nothing = contextlib.nullcontext
    return {
        BASE: stock(torch.inference_mode),
        "torch.jit, no_grad": stock(torch.no_grad),
        "torch.jit, as loaded": stock(nothing),
        "ts_infer": (lambda: model(x), nothing),
        "ts_infer, by name": (lambda: model(input=x), nothing),
        "ts_infer, numpy in": (lambda: model(array), nothing),
        "ts_infer, with a deadline": (lambda: model.call_within(1000, x), nothing),
    }


def measure(
    calls: dict[str, tuple[Call, Callable[[], Any]]], rounds: int
) -> dict[str, list[float]]:
    """Microseconds a call, one number a round and contestant."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-3, rounds):  # the first rounds warm up
        for name, (call, context) in calls.items():
            with context():
                begin = time.perf_counter_ns()
                for _ in range(CALLS):
                    call()
                elapsed = time.perf_counter_ns() - begin
            if number >= 0:
                times[name].append(elapsed / CALLS / 1000)
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description="What one Python call costs.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", metavar="FILE", help="write the numbers; - is stdout")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
    mlp = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp.pt"
        torch.jit.save(torch.jit.script(mlp), path)
        times = measure(contestants(path), options.rounds)

    rows = {
        name: {
            "median_us": statistics.median(values),
            "min_us": min(values),
            "ratio": statistics.median(
                value / base for value, base in zip(values, times[BASE], strict=True)
            ),
        }
        for name, values in times.items()
    }
    report = {
        "schema": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "calls_per_round": CALLS,
        "base": BASE,
        "contestants": rows,
    }
    if options.json == "-":
        json.dump(report, sys.stdout, indent=2)
        print()
        return 0
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"MLP 4-64-4, 1 thread, {options.rounds} rounds of {CALLS} calls each\n")
    print(f"{'':28}{'median us':>10}{'min us':>10}{'ratio':>8}")
    for name, row in rows.items():
        print(f"{name:28}{row['median_us']:10.2f}{row['min_us']:10.2f}{row['ratio']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What loading a file costs in time and memory: ts_infer beside torch.jit.load.

Each measurement is a fresh process on one thread that has imported both, and those of the
contestants take turns. Nothing is optimised or warmed up unless the name says so. "gate" is the
share of a load that goes into checking the file before libtorch sees it. Memory is what the process
has for itself (Anonymous in /proc/self/smaps_rollup): after the load, after a call, and for another
model of the same file. A ratio to torch.jit.load is the median over the rounds of the ratio in a
round.

    python python/benchmarks/load.py [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import first_calls  # type: ignore[import-not-found]  # it lies beside this file

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
STOCK = "torch.jit.load"
CALLS = 30
GATE = ("read", "integrity")  # steps of a load

# Of runtime.load, by the contestant's name.
CONTESTANTS: dict[str, dict[str, Any]] = {
    STOCK: {},
    "ts_infer": {"optimize": False},
    "ts_infer, weights copied": {"optimize": False, "map_weights": False},
    "ts_infer, optimised": {},
    "ts_infer, optimised, weights copied": {"map_weights": False},
    "ts_infer, as by default": {"warmup": "fast"},
}


def _anonymous() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Anonymous:")[1].split()[0])


def _load(name: str, path: str) -> tuple[Callable[..., Any], float]:
    """The model, and the ms of the gate."""
    import torch

    from ts_infer import runtime

    if name == STOCK:
        return torch.jit.load(path), 0.0  # type: ignore[no-untyped-call]
    model = runtime.load(path, device="cpu", **{"warmup": "off", **CONTESTANTS[name]})
    return model, sum(step.ms for step in model.info().load_steps if step.name in GATE)


def measure(name: str, path: str, inputs: str) -> dict[str, float]:
    """Measures in this process, which must be fresh. Times in ms, memory in bytes."""
    import torch

    from ts_infer import runtime  # noqa: F401 (what is imported is not measured)

    torch.set_num_threads(1)
    arguments = torch.load(inputs)
    with torch.inference_mode():
        empty = _anonymous()
        start = time.perf_counter()
        model, gate_ms = _load(name, path)
        load_ms = 1000 * (time.perf_counter() - start)
        loaded = _anonymous()
        start = time.perf_counter()
        model(*arguments)
        first_ms = 1000 * (time.perf_counter() - start)
        called = _anonymous()
        second = _load(name, path)
        both = _anonymous()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            model(*arguments)
            times.append(1000 * (time.perf_counter() - start))
    del second
    return {
        "load_ms": load_ms,
        "gate_ms": gate_ms,
        "load_bytes": loaded - empty,
        "call_bytes": called - empty,
        "second_bytes": both - called,
        "first_ms": first_ms,
        "call_ms": statistics.median(times),
    }


def _measure_apart(name: str, path: str, inputs: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name, path, inputs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _report(
    title: str, rounds: dict[str, list[dict[str, float]]], weights: int
) -> dict[str, dict[str, float]]:
    """Prints the table of a model, and returns its figures by contestant."""

    def ratio(name: str, value: Callable[[dict[str, float]], float], stock: str) -> float:
        pairs = zip(rounds[name], rounds[STOCK], strict=True)
        return statistics.median(value(mine) / theirs[stock] for mine, theirs in pairs)

    figures: dict[str, dict[str, float]] = {}
    rows = []
    for name, measured in rounds.items():
        figures[name] = median = {
            key: statistics.median(one[key] for one in measured) for key in measured[0]
        }
        median["load_ratio"] = ratio(name, lambda one: one["load_ms"], "load_ms")
        median["gate_share"] = statistics.median(
            one["gate_ms"] / one["load_ms"] for one in measured
        )
        median["memory_ratio"] = ratio(name, lambda one: one["load_bytes"], "load_bytes")
        median["second_to_weights"] = median["second_bytes"] / weights
        rows.append(
            [
                name,
                f"{median['load_ms']:.1f}",
                f"{median['load_ratio']:.2f}",
                f"{median['gate_share']:.3f}",
                f"{median['load_bytes'] / MIB:.1f}",
                f"{median['memory_ratio']:.3f}",
                f"{median['call_bytes'] / MIB:.1f}",
                f"{median['second_bytes'] / MIB:.1f}",
                f"{median['first_ms']:.1f}",
                f"{median['call_ms']:.2f}",
            ]
        )
    header = ["", "load ms", "ratio", "gate", "MiB", "ratio", "call", "second"]
    first_calls.print_table(title, [*header, "first ms", "call ms"], rows)
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return

    import benchmark_models  # type: ignore[import-not-found]  # it lies beside this file
    import torch

    import ts_infer
    from ts_infer import runtime

    results: dict[str, Any] = {"rounds": arguments.rounds}
    for title in ("encoder", "resnet50"):
        benchmark = benchmark_models.MODELS[title]()
        with tempfile.TemporaryDirectory() as folder:
            path, inputs = f"{folder}/model.pt", f"{folder}/inputs.pt"
            ts_infer.export(**benchmark.spec, path=path, audit="off")
            torch.save(benchmark.spec["example_inputs"], inputs)
            weights = runtime.read_model_info(path).weight_bytes
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
            for _ in range(arguments.rounds):
                for name, measured in rounds.items():
                    measured.append(_measure_apart(name, path, inputs))
        text = f"{title}: {weights / MIB:.1f} MiB of weights, {arguments.rounds} rounds"
        results[title] = {"weight_bytes": weights, "contestants": _report(text, rounds, weights)}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

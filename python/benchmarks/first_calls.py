"""What the first calls of a process cost, beside its later ones: ts_infer and torch.jit.

Each measurement is a fresh process on one thread, and those of the contestants take turns. Every
call is compared with the steady time of its own size: the same inputs, run again later in the same
process in shuffled order. A ratio to a base is the median over the rounds of the ratio in a round.

    python python/benchmarks/first_calls.py
    python python/benchmarks/first_calls.py --models densetnt,mlp --processes 9 --json numbers.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = 60  # the first calls, each of another size
CALLS = 25  # the first calls, where all are of one size
REPEATS = 3  # later calls of each size
SLOW = 2.0  # times its size's steady time
STOCK = "torch.jit, inference mode"


class Contestant(NamedTuple):
    """What loads the archive, and how."""

    name: str
    library: str  # "ts_infer" or "torch.jit"
    options: dict[str, Any]  # of runtime.load, or of load_stock


class Measured(NamedTuple):
    """One process. Times in ms."""

    load: float
    calls: list[float]  # the first ones, in order
    second: list[float]  # the same inputs in the same order again; empty where there is one size
    steady: list[float]  # of the same inputs, median of the repeats
    faults: float  # page faults a call in the repeats
    labels: list[str]  # of the inputs, their sizes

    def ratios(self) -> list[float]:
        """Of the first calls, each to the steady time of its size."""
        return [call / own for call, own in zip(self.calls, self.steady, strict=True)]

    def slow(self, calls: list[float]) -> int:
        """How many calls but the first one took more than SLOW times their size's steady time."""
        pairs = list(zip(calls, self.steady, strict=True))[1:]
        return sum(call > SLOW * own for call, own in pairs)


class Job(NamedTuple):
    """What the contestants are measured on."""

    archive: str
    inputs: str  # a file of torch.save: a list of (sizes, arguments)
    calls: int
    repeats: int
    clock: str


def load_stock(path: str, *, optimize: bool = False, **flags: bool) -> Callable[..., Any]:
    """Loads by torch.jit, with the flags of torch._C that are given set before."""
    import torch

    for name, value in flags.items():
        getattr(torch._C, name)(value)
    module: Any = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return torch.jit.optimize_for_inference(torch.jit.freeze(module.eval())) if optimize else module


def measure(library: str, options: dict[str, Any], job: Job, start: int) -> Measured:
    """Measures in this process, which must be fresh; the inputs are rotated to begin at `start`."""
    import torch

    torch.set_num_threads(1)
    inputs = torch.load(job.inputs)
    inputs = inputs[start:] + inputs[:start]
    order = [i % len(inputs) for i in range(max(job.calls, len(inputs)))]
    clock = time.perf_counter if job.clock == "wall" else time.thread_time

    context: Any = contextlib.nullcontext()
    load: Callable[[], Callable[..., Any]]
    if library == "ts_infer":
        from ts_infer import runtime

        def load() -> Callable[..., Any]:
            return runtime.load(job.archive, device="cpu", **options)
    else:
        if options.pop("inference_mode", False):
            context = torch.inference_mode()

        def load() -> Callable[..., Any]:
            return load_stock(job.archive, **options)

    def timed(what: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
        begin = clock()
        result = what(*arguments)
        return 1000 * (clock() - begin), result

    with context:
        load_ms, model = timed(load)
        calls = [timed(model, *inputs[i][1])[0] for i in order]
        second = [timed(model, *inputs[i][1])[0] for i in order if len(inputs) > 1]
        again: list[list[float]] = [[] for _ in inputs]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for seed in range(job.repeats):
            for i in random.Random(seed).sample(range(len(inputs)), len(inputs)):
                again[i].append(timed(model, *inputs[i][1])[0])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    steady = [statistics.median(times) for times in again]
    return Measured(
        load_ms,
        calls,
        second,
        [steady[i] for i in order],
        faults / (job.repeats * len(inputs)),
        ["x".join(map(str, inputs[i][0])) for i in order],
    )


def measure_all(
    contestants: Sequence[Contestant], job: Job, rotations: Sequence[int]
) -> dict[str, list[Measured]]:
    """By name: one measurement a rotation, each in a process of its own; contestants take turns."""
    measured: dict[str, list[Measured]] = {contestant.name: [] for contestant in contestants}
    for start in rotations:
        for name, library, options in contestants:
            job_text = json.dumps([library, options, job, start])
            done = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, "--measure", job_text],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                check=True,
            )
            measured[name].append(Measured(*json.loads(done.stdout)))
    return measured


def to_base(
    values: Callable[[Measured], float], mine: list[Measured], base: list[Measured]
) -> float:
    """The median over the rounds of the ratio in a round."""
    return statistics.median(values(a) / values(b) for a, b in zip(mine, base, strict=True))


def median_of(values: Callable[[Measured], float], measured: list[Measured]) -> float:
    """The median over the processes."""
    return statistics.median(map(values, measured))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a title and columns, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def changing_sizes(name: str, benchmark: Any, measured: dict[str, list[Measured]]) -> None:
    """Prints the first table of a model, and ts_infer's slowest calls."""
    rows = []
    for contestant, processes in measured.items():
        firsts = [process.ratios()[0] for process in processes]
        others = median_of(lambda process: statistics.median(process.ratios()[1:]), processes)
        later = len(processes) * (SIZES - 1)
        steady = median_of(lambda process: statistics.median(process.steady), processes)
        rows.append(
            [
                contestant,
                f"{median_of(lambda process: process.load, processes):.0f}",
                f"{median_of(lambda process: process.calls[0], processes):.1f}",
                f"{statistics.median(firsts):.2f}",
                f"{max(firsts):.2f}",
                f"{others:.2f}",
                f"{sum(process.slow(process.calls) for process in processes)} of {later}",
                f"{sum(process.slow(process.second) for process in processes)} of {later}",
                f"{steady:.2f}",
                f"{median_of(lambda process: process.faults, processes):.0f}",
            ]
        )
    ranges = ", ".join(f"{low} to {high} {dim}" for dim, (low, high) in benchmark.ranges.items())
    header = ["", "load ms", "first ms", "first/own", "worst", "others/own", f"slow, 2 to {SIZES}"]
    header += ["in 2nd pass", "steady ms", "faults"]
    print_table(f"{name}, {ranges}: {SIZES} calls, all of different sizes", header, rows)

    processes = measured["ts_infer"]
    # A size meets each process at another call; what is slow in all is not the machine's noise.
    by_size: dict[str, list[float]] = {}
    calls = []
    for number, process in enumerate(processes, start=1):
        for call, ratio in enumerate(process.ratios(), start=1):
            label = process.labels[call - 1]
            calls.append((ratio, f"{label} {ratio:.2f} (process {number}, call {call})"))
            if call > 1:
                by_size.setdefault(label, []).append(ratio)
    worst = sorted(calls, reverse=True)[:5]
    print("ts_infer's slowest calls, to their size's own:", "; ".join(text for _, text in worst))
    medians = sorted(((statistics.median(r), size) for size, r in by_size.items()), reverse=True)
    print(
        "its slowest sizes, medians of the processes, call 1 left out:",
        "; ".join(f"{size} {ratio:.2f}" for ratio, size in medians[:5]),
    )


def one_size(title: str, measured: dict[str, list[Measured]]) -> None:
    """Prints the second table of a model."""
    stock = measured[STOCK]
    ratios: dict[str, Callable[[Measured], float]] = {
        "calls 1+2": lambda process: sum(process.calls[:2]),
        "load and 1+2": lambda process: process.load + sum(process.calls[:2]),
        "steady": lambda process: process.steady[0],
    }
    times: dict[str, Callable[[Measured], float]] = {
        "load ms": lambda process: process.load,
        "call 1 ms": lambda process: process.calls[0],
        "call 2 ms": lambda process: process.calls[1],
        "steady ms": lambda process: process.steady[0],
    }
    rows = [
        [
            contestant,
            *(f"{median_of(values, processes):.3f}" for values in times.values()),
            *(f"{to_base(values, processes, stock):.3f}" for values in ratios.values()),
        ]
        for contestant, processes in measured.items()
    ]
    print_table(
        f'{title}, warmup="off"; the last columns are ratios to {STOCK}',
        ["", *times, *ratios],
        rows,
    )


def knobs(title: str, measured: dict[str, list[Measured]]) -> None:
    """Prints the third table."""
    base = next(iter(measured.values()))
    columns: dict[str, Callable[[Measured], float]] = {
        "call 1": lambda process: process.calls[0],
        "call 2": lambda process: process.calls[1],
        f"worst of 3 to {CALLS}": lambda process: max(process.calls[2:]),
        "steady": lambda process: process.steady[0],
    }
    header = [""]
    for column in columns:
        header += [f"{column} ms", "ratio"]
    rows = []
    for contestant, processes in measured.items():
        row = [contestant]
        for values in columns.values():
            row += [
                f"{median_of(values, processes):.1f}",
                f"{to_base(values, processes, base):.2f}",
            ]
        rows.append(row)
    print_table(f"{title} by torch.jit alone; ratios to default", header, rows)


KNOBS = [
    Contestant("default", "torch.jit", {}),
    Contestant("inference_mode", "torch.jit", {"inference_mode": True}),
    Contestant("optimize_for_inference", "torch.jit", {"optimize": True}),
    Contestant("executor mode off", "torch.jit", {"_jit_set_profiling_executor": False}),
    Contestant("profiling mode off", "torch.jit", {"_jit_set_profiling_mode": False}),
    Contestant(
        "the first three",
        "torch.jit",
        {"inference_mode": True, "optimize": True, "_jit_set_profiling_executor": False},
    ),
]


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description="What the first calls of a process cost.")
    parser.add_argument("--models", default="densetnt,resnet50,encoder,lstm,mlp")
    parser.add_argument("--processes", type=int, default=3, help="of each contestant (3)")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the calling thread's CPU time, for a machine that others use too",
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers of every process")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        library, how, job, start = json.loads(options.measure)
        print(json.dumps(measure(library, how, Job(*job), start)))
        return 0

    import benchmark_models  # type: ignore[import-not-found]  # it lies beside this file
    import call_overhead  # type: ignore[import-not-found]
    import torch

    import ts_infer
    from ts_infer import runtime

    names = options.models.split(",")
    unknown = set(names) - set(benchmark_models.MODELS)
    if unknown or options.processes < 1:
        known = ", ".join(benchmark_models.MODELS)
        parser.error(f"expected models of {known} and at least 1 process")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is deprecated")
    report: dict[str, Any] = {
        "schema": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "clock": options.clock,
        "processes": options.processes,
        "load_average_before": os.getloadavg()[0],
    }
    print(
        f"{report['processor']}, {report['cores']} cores; torch {report['torch']}, Python "
        f"{report['python']}, 1 thread; {options.processes} processes each, {options.clock} time; "
        f"load average {report['load_average_before']:.1f}"
    )
    stock = Contestant(STOCK, "torch.jit", {"inference_mode": True})
    executors = [
        Contestant(executor, "ts_infer", {"executor": executor, "warmup": "off"})
        for executor in runtime.executors()
    ]
    with tempfile.TemporaryDirectory() as folder:

        def job(archive: Path, inputs: list[Any], calls: int, repeats: int) -> Job:
            file = f"{archive}.inputs"
            torch.save(inputs, file)
            return Job(str(archive), file, calls, repeats, options.clock)

        benchmarks = {name: benchmark_models.MODELS[name]() for name in names}
        archives = {name: Path(folder) / f"{name}.pt" for name in names}
        for name, benchmark in benchmarks.items():
            ts_infer.export(**benchmark.spec, path=archives[name], audit="fast")

        report["changing_sizes"] = {}
        for name, benchmark in benchmarks.items():
            if not benchmark.ranges:
                continue
            drawn = benchmark.draw(SIZES)
            inputs = [(sizes, benchmark.inputs(sizes, i)) for i, sizes in enumerate(drawn)]
            rotations = [i * SIZES // options.processes for i in range(options.processes)]
            measured = measure_all(
                [
                    Contestant("ts_infer", "ts_infer", {}),
                    Contestant('ts_infer, warmup="off"', "ts_infer", {"warmup": "off"}),
                    stock,
                ],
                job(archives[name], inputs, SIZES, REPEATS),
                rotations,
            )
            report["changing_sizes"][name] = _plain(measured)
            changing_sizes(name, benchmark, measured)

        report["one_size"] = {}
        once = [0] * options.processes
        for name in names:
            if name not in ("densetnt", "mlp"):
                continue
            benchmark = benchmarks[name]
            for sizes in dict.fromkeys((benchmark.smallest(), benchmark.middle())):
                title = f"{name} {'x'.join(map(str, sizes))}".strip()
                inputs = [(sizes, benchmark.inputs(sizes, 0))]
                repeats = 2000 if name == "mlp" else CALLS
                measured = measure_all(
                    [*executors, stock], job(archives[name], inputs, CALLS, repeats), once
                )
                report["one_size"][title] = _plain(measured)
                one_size(title, measured)

        if "mlp" in names:
            calls = call_overhead.contestants(archives["mlp"])
            chosen = {key: calls[key] for key in (call_overhead.BASE, "ts_infer")}
            times = call_overhead.measure(chosen, rounds=30)
            pairs = zip(times["ts_infer"], times[call_overhead.BASE], strict=True)
            report["python_call"] = statistics.median(mine / base for mine, base in pairs)
            print(
                f"\nmlp, a Python call: {report['python_call']:.2f} of {STOCK} "
                "(call_overhead.py has more)"
            )

        if "densetnt" in names:
            # As one exports without ts_infer: not frozen, and with weights that want gradients.
            spec = benchmarks["densetnt"].spec
            plain: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                spec["module"].requires_grad_(True), spec["example_inputs"], check_trace=False
            )
            torch.jit.save(plain, Path(folder) / "plain.pt")
            sizes = benchmarks["densetnt"].middle()
            inputs = [(sizes, benchmarks["densetnt"].inputs(sizes, 0))]
            measured = measure_all(
                KNOBS, job(Path(folder) / "plain.pt", inputs, CALLS, CALLS), once
            )
            report["knobs"] = _plain(measured)
            knobs(f"densetnt {'x'.join(map(str, sizes))}", measured)

    report["load_average_after"] = os.getloadavg()[0]
    print(f"\nload average at the end: {report['load_average_after']:.1f}")
    if options.json:
        Path(options.json).write_text(json.dumps(report) + "\n", encoding="utf-8")
    return 0


def _plain(measured: dict[str, list[Measured]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [process._asdict() for process in processes] for name, processes in measured.items()
    }


if __name__ == "__main__":
    sys.exit(main())

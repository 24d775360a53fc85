"""ts_infer beside other ways to run the same models on this machine's processor.

A contestant is a process of its own for each model and number of threads. The contestants take
turns, a block of calls each and one at a time, round after round. A ratio is the median over the
rounds of the ratio within a round, so that what else the machine does hits both sides alike; its
quartiles say how far to believe it. Each round also measures the machine's peak (a matrix product
from packed weights), and every contestant's first outputs are compared with eager's.

Starts are fresh processes that take turns too. The processes that build a contestant's files have
ended before it starts; torch.compile starts with its cache filled.

    pip install -r python/benchmarks/peers.txt            (it needs g++ and ninja too)
    pip install --no-deps silero-vad
    python python/benchmarks/peers.py --models encoder,mlp --json peers.json
    ts_infer report peers.json -o peers.html

A contestant that is not installed, or cannot run a model, is a row that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import first_calls  # type: ignore[import-not-found]  # it lies beside this file
import peers_contestants as contestants  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WORKER = Path(__file__).with_name("peers_worker.py")
MODELS = (
    "densetnt",
    "densetnt-core",
    "resnet50",
    "encoder",
    "encoder-lengths",
    "mlp",
    "lstm",
    "lstm-lengths",
    "silero",
    "unet",
    "decoder",
)
BLOCK_S = 0.15
PAUSE_S = 0.02  # before a block: the threads of the last one go to sleep
BASE = "ts_infer"
PREPARE_S = 900
REPLY_S = 300
PACKAGES = ("torch", "numpy", "onnxruntime", "openvino", "onnx")
# Callers at once × intra-op threads.
THROUGHPUT = ((1, 1), (1, 2), (2, 1))
THROUGHPUT_OF = ("ts_infer", "ONNX Runtime")


class ContestantError(Exception):
    """A contestant cannot be measured; the text says why."""


class Spread(NamedTuple):
    """The median and the quartiles of values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(*values, *values, *values)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Row:
    """One contestant on one model with so many threads; None is not measured.

    Attributes:
        build_s: Making its files, which is not part of its load.
        starts: Of each start: start_ms (of the process, until the first result), load_ms,
            first_ms, second_ms, added_mib (memory, from the load to the first result), peak_mib.
        blocks_ms: Of each round: the time of a call.
        max_error: The largest absolute difference of its outputs from eager's.
        error: Why it has not been measured.
    """

    contestant: str
    model: str
    threads: int
    flops: float
    build_s: float | None = None
    starts: list[dict[str, float]] = field(default_factory=list)
    blocks_ms: list[float] = field(default_factory=list)
    max_error: float | None = None
    error: str = ""
    throughput: dict[int, list[float]] = field(default_factory=dict)  # of each round, by callers

    def start(self, what: str) -> float | None:
        """The median over the starts."""
        return statistics.median(s[what] for s in self.starts) if self.starts else None


class Worker:
    """A contestant's process."""

    def __init__(self, row: Row, folder: Path) -> None:
        """Starts it and waits for its first calls, `first`."""
        name = "".join(c if c.isalnum() else "_" for c in row.contestant)
        path = folder / f"{name}-{row.threads}.log"
        arguments = ["serve", row.contestant, folder, row.threads, time.monotonic_ns()]
        with path.open("w", encoding="utf-8") as log:
            self._process = _worker(arguments, row.threads, log, stdin=subprocess.PIPE)
        self.first = _reply(self._process, REPLY_S)

    def ask(self, command: str) -> dict[str, Any]:
        """Sends a command and waits for its reply."""
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return _reply(self._process, REPLY_S)

    def close(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()


def _worker(arguments: Sequence[Any], threads: int, log: Any, **options: Any) -> Any:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        **options,
    )


def _reply(process: Any, seconds: float) -> dict[str, Any]:
    """The next line of a process."""
    if not select.select([process.stdout], [], [], seconds)[0]:
        process.kill()
        process.wait()
        raise ContestantError(f"gave no answer in {seconds:.0f} s")
    line = process.stdout.readline()
    if not line:
        raise ContestantError(f"its process died: exit status {process.wait()}")
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        process.wait()
        raise ContestantError(reply["error"])
    return reply


class Files:
    """What is made for the contestants of one model; what is there already is not made again."""

    def __init__(self, model: str, folder: Path) -> None:
        """Makes the inputs, and computes what is expected for them."""
        self.folder = folder / model
        self.folder.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._failed: dict[Path, ContestantError] = {}
        self.seconds: dict[Path, float] = {}
        self.known = self._prepare("inputs", 1)

    def make(self, artefact: str, threads: int) -> float | None:
        """Makes an artefact, if it is not there; returns how many seconds that took."""
        path = self.folder / artefact.format(threads=threads)
        if path in self._failed:
            raise self._failed[path]
        if not path.exists():
            path.unlink(missing_ok=True)  # a link to what is gone
            try:
                self.seconds[path] = self._prepare(artefact, threads)["seconds"]
            except ContestantError as error:
                self._failed[path] = error
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                raise
        return self.seconds.get(path)

    def _prepare(self, artefact: str, threads: int) -> dict[str, Any]:
        name = "".join(c if c.isalnum() else "_" for c in artefact)
        with (self.folder / f"{name}-{threads}.log").open("w", encoding="utf-8") as log:
            process = _worker(["prepare", self._model, artefact, self.folder], threads, log)
        with process:
            return _reply(process, PREPARE_S)


def rows_of(files: Files, model: str, threads: int, names: Iterable[str]) -> list[Row]:
    """The rows of a model with so many threads, with the contestants' files made."""
    rows = []
    for name in names:
        contestant = contestants.CONTESTANTS[name]
        row = Row(name, model, threads, files.known["flops"])
        rows.append(row)
        if missing := contestant.missing():
            row.error = f"not installed: {', '.join(missing)}"
            continue
        try:
            took = [files.make(artefact, threads) for artefact in contestant.artefacts]
            row.build_s = sum(filter(None, took)) if any(took) else None
        except ContestantError as error:
            row.error = str(error)
    return rows


def start(rows: Iterable[Row], folder: Path) -> list[tuple[Row, Worker]]:
    """Starts the processes of the rows that have not failed, one after the other."""
    workers = []
    for row in rows:
        if not row.error:
            try:
                workers.append((row, Worker(row, folder)))
            except ContestantError as error:
                row.error = str(error)
    return workers


def take_turns(
    turns: Sequence[tuple[Row, Worker]], rounds: int, what: Callable[[Row, Worker], None]
) -> None:
    """Does something with each worker in each round; a round begins with another one each time."""
    for number in range(rounds):
        first = number % len(turns)
        for row, worker in (*turns[first:], *turns[:first]):
            if not row.error:
                time.sleep(PAUSE_S)
                try:
                    what(row, worker)
                except ContestantError as error:
                    row.error = str(error)


def warm_up(turns: Sequence[tuple[Row, Worker]]) -> None:
    """Lets each one call until its blocks can begin."""

    def ask(_: Row, worker: Worker) -> None:
        worker.ask(f"warm-up {BLOCK_S}")

    take_turns(turns, 1, ask)


def measure(rows: list[Row], files: Files, options: argparse.Namespace) -> None:
    """Measures starts, then blocks, of a model with so many threads."""
    turns: list[tuple[Row, Worker]] = []
    for _ in range(options.starts):
        close(turns)
        turns = start(rows, files.folder)
        for row, worker in turns:
            row.max_error = worker.first.pop("max_error", None)
            row.starts.append(worker.first)

    def block(row: Row, worker: Worker) -> None:
        row.blocks_ms.append(worker.ask("block")["ms"])

    warm_up(turns)
    take_turns(turns, options.rounds, block)
    close(turns)


def measure_throughput(rows: list[Row], files: Files, rounds: int) -> None:
    """Measures several callers at once, with one thread and more in the same rounds."""
    turns = start((row for row in rows if row.contestant in THROUGHPUT_OF), files.folder)

    def block(row: Row, worker: Worker) -> None:
        for callers, threads in THROUGHPUT:
            if threads == row.threads:
                rate = worker.ask(f"throughput {callers}")["per_second"]
                row.throughput.setdefault(callers, []).append(rate)

    if turns:
        warm_up(turns)
        take_turns(turns, rounds, block)
        close(turns)


def close(turns: Iterable[tuple[Row, Worker]]) -> None:
    """Ends the processes."""
    for _, worker in turns:
        worker.close()


def ratios(mine: Sequence[float], base: Sequence[float]) -> Spread | None:
    """Of each round; None where one of the two was not measured, or not to the end."""
    if not mine or len(mine) != len(base):
        return None
    return Spread.of([a / b for a, b in zip(mine, base, strict=True)])


def described(row: Row, rows: Sequence[Row], base: str) -> dict[str, Any]:
    """A row as a run of the JSON document; `rows` are those it was measured with."""
    by_name = {other.contestant: other for other in rows}
    peak = by_name[contestants.PEAK].blocks_ms
    ratio = ratios(row.blocks_ms, by_name[base].blocks_ms) if base in by_name else None
    share = ratios(peak, row.blocks_ms)  # the less time, the larger
    of_peak = row.flops / contestants.PEAK_FLOPS
    times = {f: row.start(f) for f in ("start_ms", "load_ms", "first_ms", "second_ms")}
    return {
        "executor": row.contestant,
        "model": {"name": row.model, "device": "cpu", "load_ms": times.pop("load_ms")},
        "threads": row.threads,
        **times,
        "steady_ms": statistics.median(row.blocks_ms) if row.blocks_ms else None,
        "ratio": ratio._asdict() if ratio else None,
        "share_of_peak": share.median * of_peak if share else None,
        "gflop": row.flops / 1e9,
        "max_error": row.max_error,
        "added_mib": row.start("added_mib"),
        "peak_mib": row.start("peak_mib"),
        "build_s": row.build_s,
        "throughput": {str(n): statistics.median(v) for n, v in row.throughput.items()},
        "error": row.error,
        "blocks_ms": row.blocks_ms,
        "starts": row.starts,
    }


def text(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, and every digit before the point."""
    if value is None:
        return "-"
    if not value or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def print_steady(runs: Sequence[dict[str, Any]], base: str, peak: Spread | None) -> None:
    """Prints what the blocks measured, of one model with so many threads."""
    rows = []
    for run in runs:
        ratio = run["ratio"]
        share = run["share_of_peak"]
        rows.append(
            [
                run["executor"],
                text(run["steady_ms"]),
                f"{ratio['median']:.2f}" if ratio else "-",
                f"{ratio['low']:.2f}-{ratio['high']:.2f}" if ratio else "-",
                f"{share:.0%}" if share is not None else "-",
                f"{run['max_error']:.0e}" if run["max_error"] is not None else "-",
            ]
        )
    model, threads, gflop = runs[0]["model"]["name"], runs[0]["threads"], runs[0]["gflop"]
    title = (
        f"{model}, {threads} thread{'' if threads == 1 else 's'}, {text(1000 * gflop)} MFLOP a call"
    )
    if peak:
        low, high = (f"{value:.0f}" for value in peak[1:])
        title += f"; peak {peak.median:.0f} ({low}-{high}) GFLOP/s"
    header = ["", "ms", f"to {base}", "quartiles", "of peak", "max error"]
    first_calls.print_table(title, header, rows)
    for run in runs:
        if run["error"]:
            print(f"{run['executor']}: {run['error']}")


def print_starts(runs: Sequence[dict[str, Any]]) -> None:
    """Prints what the starts measured."""
    columns: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "load ms": lambda run: run["model"]["load_ms"],
        "first ms": lambda run: run["first_ms"],
        "second ms": lambda run: run["second_ms"],
        "process to 1st result ms": lambda run: run["start_ms"],
        "added MiB": lambda run: run["added_mib"],
        "at most MiB": lambda run: run["peak_mib"],
        "build s": lambda run: run["build_s"],
    }
    rows = [
        [run["executor"], *(text(column(run)) for column in columns.values())]
        for run in runs
        if not run["error"]
    ]
    first_calls.print_table("starts", ["", *columns], rows)


def print_throughput(rows: Sequence[Row]) -> None:
    """Prints calls a second, to those of the same contestant's one caller on one thread."""
    found = {
        (row.contestant, callers, row.threads): rates
        for row in rows
        for callers, rates in row.throughput.items()
    }
    measured = [pair for pair in THROUGHPUT if any(pair == key[1:] for key in found)]
    lines = []
    for name in dict.fromkeys(name for name, _, _ in found):
        alone = found.get((name, 1, 1), [])
        line = [name]
        for callers, threads in measured:
            rates = found.get((name, callers, threads), [])
            ratio = ratios(rates, alone)
            line.append(f"{text(statistics.median(rates))}/s" if rates else "-")
            line.append(f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else "-")
        lines.append(line)
    if lines:
        columns = [f"{callers} x {threads}" for callers, threads in measured]
        header = ["", *(cell for column in columns for cell in (column, "to 1 x 1"))]
        first_calls.print_table("throughput: callers x threads", header, lines)


def measure_model(model: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures a model, prints its tables, and returns its runs."""
    files = Files(model, folder)
    groups = {
        threads: rows_of(files, model, threads, (contestants.PEAK, *options.contestants))
        for threads in options.threads
    }
    runs = []
    for rows in groups.values():
        measure(rows, files, options)
    if not files.known["has_state"]:
        measure_throughput([row for rows in groups.values() for row in rows], files, options.rounds)
    for rows in groups.values():
        group = [described(row, rows, options.base) for row in rows[1:]]
        flops = [contestants.PEAK_FLOPS / ms / 1e6 for ms in rows[0].blocks_ms]
        print_steady(group, options.base, Spread.of(flops) if flops else None)
        if rows[0].error:
            print(f"the peak was not measured: {rows[0].error}")
        print_starts(group)
        runs += group
    print_throughput([row for rows in groups.values() for row in rows])
    return runs


def document(options: argparse.Namespace) -> dict[str, Any]:
    """The JSON document, without its runs."""
    versions = {"ts_infer": metadata.version("ts-infer-runtime")}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "schema": 1,
        "command": "peers",
        "machine": {
            "cpu": first_calls.processor(),
            "cores": len(os.sched_getaffinity(0)),
            "machine_cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **versions},
        "options": {"base": options.base, "rounds": options.rounds, "block_s": BLOCK_S},
        "runs": [],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="ts_infer beside its peers on this machine's processor."
    )
    known = [name for name in contestants.CONTESTANTS if name != contestants.PEAK]

    def some_of(all_names: Sequence[str]) -> Callable[[str], list[str]]:
        def parse(value: str) -> list[str]:
            chosen = value.split(",")
            if unknown := set(chosen) - set(all_names):
                raise argparse.ArgumentTypeError(
                    f"expected some of {', '.join(all_names)}, got {', '.join(sorted(unknown))}"
                )
            return chosen

        return parse

    def number(value: str) -> int:
        if int(value) < 1:
            raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
        return int(value)

    def numbers(value: str) -> list[int]:
        return [number(item) for item in value.split(",")]

    parser.add_argument("--models", type=some_of(MODELS), default=MODELS, metavar="NAME,...")
    parser.add_argument("--contestants", type=some_of(known), default=known, metavar="NAME,...")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="intra-op (1,2)")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help=f"of each contestant, in blocks of {BLOCK_S} (3)"
    )
    parser.add_argument("--starts", type=number, default=3, help="processes of each (3)")
    parser.add_argument("--base", choices=known, default=BASE, help=f"of the ratios ({BASE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the files that contestants load are made, and kept for the next run",
    )
    options = parser.parse_args(arguments)
    options.rounds = max(1, round(options.seconds / BLOCK_S))

    report = document(options)
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    print(
        f"{machine['cpu']}, {machine['cores']} cores; {versions}; {options.rounds} rounds, "
        f"{options.starts} starts; load average {machine['load_average']:.1f}"
    )
    if options.folder:  # the C++ contestants have to fit the library at hand
        (options.folder / Path(contestants.NATIVE).name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for model in options.models:
            try:
                report["runs"] += measure_model(model, options.folder or Path(temporary), options)
            except ContestantError as error:
                print(f"\n{model}: {error}")
            if options.json:  # after each model, as the whole takes long
                options.json.write_text(json.dumps(report) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

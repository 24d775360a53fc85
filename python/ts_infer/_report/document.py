"""The JSON documents of `ts_infer bench`, `run`, `coldstart` and of peers.py, read as runs.

A run is one model, loaded once in one way, and the calls that were made of it. What a document
leaves out is None, or empty: documents are additive, so an older one says less.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ts_infer._errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SCHEMA = 1
COMMANDS = ("bench", "coldstart", "peers", "run")
FIRST_CALLS = 25  # of those that a document has; a cold start is all first calls
LONGEST_TEXT = 120
LARGEST = 1e15

# What XML and UTF-8 cannot hold, and what a line cannot.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Source:
    """The document that a run is from.

    Attributes:
        file: The document's file name, without the folder.
        command: "bench", "coldstart", "run", or "peers", which python/benchmarks/peers.py is.
        cpu: The processor's name.
        cores: The cores that the process could use, of those of the machine: "2 of 8".
        threads: Intra-op threads.
        versions: Of ts_infer and torch.
        interrupted: A signal ended the measurement.
    """

    file: str
    command: str
    cpu: str
    cores: str
    threads: str
    versions: str
    interrupted: bool


@dataclass(frozen=True)
class Call:
    """One of the first calls.

    Attributes:
        number: 1 is the first call after load.
        ms: Its latency.
        compiled: Graphs that it compiled; None if not measured, as the next ones.
        page_faults: Pages that the system had to map for it.
        device_allocations: Allocations of memory on the device.
    """

    number: int
    ms: float
    compiled: int | None = None
    page_faults: int | None = None
    device_allocations: int | None = None


@dataclass(frozen=True)
class Latency:
    """The distribution of the latencies of `n` calls, in milliseconds.

    A percentile is the nearest rank: with fewer than 100 calls p99 is the slowest.
    """

    n: int
    mean: float | None
    p50: float
    p90: float
    p99: float
    max: float
    calls: tuple[float, ...] = ()


@dataclass(frozen=True)
class CallParts:
    """Where the time of a call goes: means in milliseconds."""

    h2d: float
    compute: float
    d2h: float
    total: float

    @property
    def rest(self) -> float:
        """What is left: checks, conversions, and in an open loop the wait before the call."""
        return self.total - self.h2d - self.compute - self.d2h


@dataclass(frozen=True)
class LoadStep:
    """A step of the load, in milliseconds; `note` has the calls and the shapes of a warm-up."""

    name: str
    ms: float
    note: str = ""


class Spread(NamedTuple):
    """The median and the quartiles of what several rounds measured."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Peer:
    """What python/benchmarks/peers.py knows of a run beside its times; None is not measured.

    Attributes:
        base: The executor that the ratio is to.
        ratio: Of a call's time to that of the base in the same round.
        share_of_peak: Of the floating point operations that the processor can do in that time.
        max_error: The largest absolute difference of an output from that of the eager module.
        start_ms: From the start of the process to the first result.
        added_mib: Memory, from the load to the first result.
        peak_mib: The most memory that the process had by then.
        throughput: Calls a second, by the number of callers at once.
    """

    base: str
    ratio: Spread | None
    share_of_peak: float | None
    max_error: float | None
    start_ms: float | None
    added_mib: float | None
    peak_mib: float | None
    throughput: Mapping[int, float]


@dataclass(frozen=True)
class Run:
    """One model, loaded once in one way, and the calls that were made of it.

    Attributes:
        source: The document.
        model: The model's name.
        device: Where it ran.
        executor: What ran it, and what was asked for where that differs.
        settings: What else may tell it from another run, as texts: "warm-up off"; "" if unknown.
        decisions: What the load decided, and why.
        first_calls: The calls from the first on, where they were kept, up to `FIRST_CALLS`; after
            call 1 some may be missing.
        latency: The distribution of the counted calls.
        parts: The mean call's parts.
        load_ms: The whole load.
        load_steps: Its steps in order; empty if not measured.
        first_ms: The first call.
        steady_ms: What calls settle at.
        settled: From which call on: "3", "never"; "" if not measured.
        throughput: Calls a second.
        error: Why it failed; "" if it did not.
        peer: How it compares with others that ran in turns with it.
        line: Its name among the runs that differ in nothing but the executor.
        panel: What those runs have in common; "" where that is everything.
    """

    source: Source
    model: str
    device: str
    executor: str
    settings: tuple[str, ...]
    decisions: tuple[str, ...] = ()
    first_calls: tuple[Call, ...] = ()
    latency: Latency | None = None
    parts: CallParts | None = None
    load_ms: float | None = None
    load_steps: tuple[LoadStep, ...] = ()
    first_ms: float | None = None
    steady_ms: float | None = None
    settled: str = ""
    throughput: float | None = None
    error: str = ""
    peer: Peer | None = None
    line: str = ""
    panel: str = ""

    @property
    def label(self) -> str:
        """Its name among all runs."""
        return ", ".join(filter(None, (self.line, self.panel)))


def read(paths: Iterable[str]) -> list[Run]:
    """Read documents.

    Args:
        paths: Files that `--json` of the binary, or of peers.py, wrote.

    Returns:
        Their runs, in order, named so that no two have the same label.

    Raises:
        InputError: A file cannot be read, is no such document, or has no run.
    """
    return _named([run for path in paths for run in _read_file(Path(path))])


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank, as the binary has it: `values` of any order, not empty."""
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


class _Fields:
    """The fields of a JSON object; an error says where in which file the wrong one is."""

    def __init__(self, where: str, value: Any) -> None:
        if value is not None and not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        self._where = where
        self._value: Mapping[str, Any] = value or {}

    def has(self, key: str) -> bool:
        return key in self._value

    def get(self, key: str, expected: str, kinds: tuple[type, ...]) -> Any:
        value = self._value.get(key)
        if value is not None and not isinstance(value, kinds):
            raise _wrong(f"{self._where}.{key}", expected, value)
        return value

    def object(self, key: str) -> _Fields:
        return _Fields(f"{self._where}.{key}", self._value.get(key))

    def objects(self, key: str) -> list[_Fields]:
        items = self.get(key, "a list", (list,)) or []
        return [_Fields(f"{self._where}.{key}[{i}]", item) for i, item in enumerate(items)]

    def numbers(self, key: str) -> tuple[float, ...]:
        items = self.get(key, "a list of numbers", (list,)) or []
        return tuple(_number(f"{self._where}.{key}[{i}]", item) for i, item in enumerate(items))

    def number(self, key: str) -> float | None:
        value = self._value.get(key)
        return None if value is None else _number(f"{self._where}.{key}", value)

    def required(self, key: str) -> float:
        value = self.number(key)
        if value is None:
            raise _wrong(f"{self._where}.{key}", "a number", None)
        return value

    def count(self, key: str) -> int | None:
        value = self.number(key)
        return None if value is None else int(value)

    def text(self, key: str) -> str:
        return clean(self.get(key, "a text", (str,)) or "")

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(clean(str(item)) for item in self.get(key, "a list", (list,)) or [])


def _number(where: str, value: Any) -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
            if 0 <= number <= LARGEST:  # False for NaN too
                return number
    except OverflowError:
        pass
    raise _wrong(where, "a number from 0 to 1e15", value)


def clean(text: str) -> str:
    """A text of a document on one line, cut where it is long, without control characters."""
    text = " ".join(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text).split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def number_text(value: float) -> str:
    """A measured number with four significant digits, and every digit before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 3 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(digits, 0)}f}"


def _wrong(where: str, expected: str, value: Any) -> InputError:
    got = "nothing" if value is None else clean(json.dumps(value))
    return InputError(
        f"[report] {where}: the document is damaged: expected {expected}, got {got}; measure again"
    )


def _read_file(path: Path) -> list[Run]:
    name = clean(str(path))
    what = "what `ts_infer bench --json FILE` writes"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"[report] {name}: the document cannot be read: expected {what}, got "
            f"{error.strerror}; check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"[report] {name}: the document is not JSON: expected {what}, got "
            f"{clean(str(error))}; give a document of the binary"
        ) from error
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError(
            f"[report] {name}: the document is another program's: expected {what}, with a "
            "`schema`, got none; give a document of the binary"
        )
    if value["schema"] != SCHEMA:
        raise InputError(
            f"[report] {name}: the document is of another version: expected schema {SCHEMA}, got "
            f"{clean(json.dumps(value['schema']))}; use the ts_infer that wrote it"
        )
    command = value.get("command")
    if command not in COMMANDS:
        raise InputError(
            f"[report] {name}: the command has nothing to report: expected one of "
            f"{', '.join(COMMANDS)}, got {clean(json.dumps(command))}; give a document of one"
        )
    runs = list(_runs(_Fields(name, value), path.name))
    if not runs:
        raise InputError(
            f"[report] {name}: the document has no runs: expected at least one in `runs`, got "
            "none; measure again"
        )
    return runs


def _runs(document: _Fields, file: str) -> Iterator[Run]:
    source = _source(document, file)
    if source.command == "coldstart":
        for fields in document.objects("runs"):
            yield _coldstart(fields, _common(document, source, fields))
        return
    if source.command == "peers":
        base = document.object("options").text("base")
        for fields in document.objects("runs"):
            own = replace(source, threads=str(fields.count("threads") or ""))
            yield _peer(fields, _common(document, own, fields), base)
        return
    run = _common(document, source, document)
    yield (
        _bench(document.object("results"), run)
        if source.command == "bench"
        else _run(document, run)
    )


def _source(document: _Fields, file: str) -> Source:
    machine, versions = document.object("machine"), document.object("versions")
    cores, machine_cores = machine.count("cores"), machine.count("machine_cores")
    parts = [str(cores) if cores else ""]
    if machine_cores:
        parts.append(f"of {machine_cores}")
    quota = machine.number("cpu_quota")
    if quota:
        parts.append(f"(quota {quota:g})")
    threads = document.object("options").count("intra_op_threads")
    omp = machine.text("omp_num_threads")
    chosen = "" if threads is None else (str(threads) if threads else "torch's own number")
    return Source(
        file=clean(file),
        command=document.text("command"),
        cpu=machine.text("cpu"),
        cores=" ".join(filter(None, parts)),
        threads=chosen + (f" (OMP_NUM_THREADS={omp})" if omp and not threads else ""),
        versions=", ".join(
            f"{name} {versions.text(name)}" for name in ("ts_infer", "torch") if versions.text(name)
        ),
        interrupted=bool(document.get("interrupted", "true or false", (bool,))),
    )


def _common(document: _Fields, source: Source, fields: _Fields) -> Run:
    """What the three commands have alike; `fields` has the `model` of the run."""
    options, model, whole = document.object("options"), fields.object("model"), document
    used, asked = model.text("executor"), fields.text("executor") or options.text("executor")
    warmup = fields.text("warmup") or options.text("warmup")
    sizes = fields.text("sizes")
    name = model.text("name") or whole.object("model").text("name")
    device = model.text("device") or whole.object("model").text("device")
    settings = (
        name,
        device and f"on {device}",
        warmup and f"warm-up {warmup}",
        sizes and f"{sizes} sizes",
        source.threads and f"threads: {source.threads}",
        _callers(options),
        _switch(options, "optimize", "optimised", "not optimised"),
        _switch(options, "verify", "verified", ""),
        _switch(options, "reuse_memory", "memory reused", "memory not reused"),
        _switch(options, "map_weights", "weights mapped", "weights copied"),
        source.versions,
        source.cpu,
    )
    return Run(
        source=source,
        model=name or "model",
        device=device,
        executor=_executor(used, asked),
        settings=settings,
        decisions=model.texts("decisions"),
        load_ms=model.number("load_ms"),
        load_steps=tuple(_load_step(step) for step in model.objects("load_steps")),
    )


def _callers(options: _Fields) -> str:
    rate, callers = options.number("rate_qps"), options.count("concurrency")
    if rate:
        return f"{rate:g} calls a second"
    return f"{callers} caller{'' if callers == 1 else 's'}" if callers else ""


def _switch(options: _Fields, key: str, on: str, off: str) -> str:
    value = options.get(key, "true or false", (bool,))
    return "" if value is None else on if value else off


def _executor(used: str, asked: str) -> str:
    if used and asked and used != asked:
        return f"{used} (asked for {asked})"
    return used or asked or "unknown executor"


def _load_step(step: _Fields) -> LoadStep:
    shapes = step.get("shapes", "an object", (dict,)) or {}
    calls = len(step.numbers("calls_ms")) or step.count("calls")
    texts = [f"{calls} call{'' if calls == 1 else 's'}"] if calls else []
    texts += [
        f"{name} {'x'.join(map(str, shape)) if isinstance(shape, list) else shape}"
        for name, shape in sorted(shapes.items())
    ]
    return LoadStep(step.text("name") or "step", step.required("ms"), clean(", ".join(texts)))


def _settled(fields: _Fields) -> str:
    if not fields.has("settled_at"):
        return ""
    call = fields.count("settled_at")
    return str(call) if call else "never"


def _bench(results: _Fields, run: Run) -> Run:
    calls = results.numbers("latencies_ms")
    n = results.count("n") or 0
    skipped = results.count("skipped") or 0
    first = results.number("first_ms")
    kept = max(FIRST_CALLS - skipped, 0)
    first_calls = tuple(Call(skipped + i + 1, ms) for i, ms in enumerate(calls[:kept]))
    if skipped and first is not None:
        first_calls = (Call(1, first), *first_calls)
    run = replace(
        run,
        first_calls=first_calls,
        first_ms=first if first_calls else None,
        steady_ms=results.number("steady_ms") if first_calls else None,
        settled=_settled(results),
        throughput=results.number("throughput_per_s"),
    )
    if n == 0:
        return replace(run, error="no call was counted")
    total = results.required("mean_ms")
    quantiles = {key: results.required(f"{key}_ms") for key in ("p50", "p90", "p99", "max")}
    parts = {key: results.number(f"{key}_ms") or 0.0 for key in ("h2d", "compute", "d2h")}
    return replace(
        run,
        latency=Latency(n=n, mean=total, calls=calls, **quantiles),
        parts=CallParts(**parts, total=total),
    )


def _run(document: _Fields, run: Run) -> Run:
    calls = document.objects("calls")
    if not calls:
        return replace(run, error="no call was made")
    totals = [call.required("total_ms") for call in calls]
    mean = sum(totals) / len(totals)
    parts = {
        key: sum(call.number(f"{key}_ms") or 0.0 for call in calls) / len(calls)
        for key in ("h2d", "compute", "d2h")
    }
    return replace(
        run,
        first_calls=tuple(Call(i + 1, ms) for i, ms in enumerate(totals[:FIRST_CALLS])),
        first_ms=totals[0],
        latency=Latency(
            n=len(totals),
            mean=mean,
            p50=percentile(totals, 50),
            p90=percentile(totals, 90),
            p99=percentile(totals, 99),
            max=max(totals),
            calls=tuple(totals),
        ),
        parts=CallParts(**parts, total=mean),
    )


def _coldstart(fields: _Fields, run: Run) -> Run:
    calls = tuple(
        Call(
            number=i + 1,
            ms=call.required("ms"),
            compiled=call.count("compiled"),
            page_faults=call.count("page_faults"),
            device_allocations=call.count("device_allocations"),
        )
        for i, call in enumerate(fields.objects("calls"))
    )
    error = fields.text("error")
    return replace(
        run,
        first_calls=calls,
        first_ms=fields.number("first_ms") if calls else None,
        steady_ms=fields.number("steady_ms") if calls else None,
        settled=_settled(fields) if calls else "",
        error=error if error or calls else "no call was made",
    )


def _peer(fields: _Fields, run: Run, base: str) -> Run:
    ratio, throughput = fields.object("ratio"), fields.object("throughput")
    peer = Peer(
        base=base,
        ratio=Spread(*(ratio.required(name) for name in Spread._fields))
        if ratio.has("median")
        else None,
        share_of_peak=fields.number("share_of_peak"),
        max_error=fields.number("max_error"),
        start_ms=fields.number("start_ms"),
        added_mib=fields.number("added_mib"),
        peak_mib=fields.number("peak_mib"),
        throughput={n: rate for n in (1, 2) if (rate := throughput.number(str(n))) is not None},
    )
    return replace(
        run,
        first_ms=fields.number("first_ms"),
        steady_ms=fields.number("steady_ms"),
        error=fields.text("error"),
        peer=peer,
    )


def _named(runs: Sequence[Run]) -> list[Run]:
    """Gives the runs lines and panels, as short as their differences allow."""
    columns = [{run.settings[i] for run in runs} for i in range(len(runs[0].settings))]
    varying = [i for i, texts in enumerate(columns) if len(texts - {""}) > 1]  # "" is unknown
    named = [
        replace(
            run,
            line=run.executor,
            panel=", ".join(text for i in varying if (text := run.settings[i])),
        )
        for run in runs
    ]
    for difference in ("command", "file"):
        groups: dict[str, set[str]] = {}
        for run in named:
            groups.setdefault(run.label, set()).add(getattr(run.source, difference))
        named = [
            replace(run, line=f"{run.line}, {getattr(run.source, difference)}")
            if len(groups[run.label]) > 1
            else run
            for run in named
        ]
    counts = Counter(run.label for run in named)
    seen: Counter[str] = Counter()
    unique = []
    for run in named:
        seen[run.label] += 1
        number = f" {seen[run.label]}" if counts[run.label] > 1 else ""
        unique.append(replace(run, line=run.line + number))
    return unique

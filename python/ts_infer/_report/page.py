"""The page: runs, their plots and the numbers beneath, as one HTML file without a script."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from ts_infer._report import plots
from ts_infer._report.document import number_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ts_infer._report.document import Peer, Run
    from ts_infer._report.plots import Plot

NOTHING = "–"

_VARIABLES = ["; ".join(f"{k}: {v[i]}" for k, v in plots.PALETTE.items()) for i in (0, 1)]
_CSS = f"""
:root {{ color-scheme: light dark; {_VARIABLES[0]} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_VARIABLES[1]} }} }}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 {plots.FONT};
  overflow-wrap: anywhere }}
main {{ max-width: 62rem; margin: auto; padding: 1.5rem 1rem 4rem }}
h1 {{ margin: 0 0 1rem; font-size: 1.75rem; line-height: 1.2 }}
h2 {{ margin: 3rem 0 .5rem; font-size: 1.25rem; line-height: 1.2 }}
h3 {{ margin: 2rem 0 .5rem; font-size: 1rem; line-height: 1.2 }}
p {{ max-width: 46rem; margin: .5rem 0 }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0 }}
dt {{ color: var(--muted) }}
dd {{ margin: 0 }}
a {{ color: var(--blue) }}
figure {{ margin: 1rem 0 .5rem }}
figure svg {{ display: block; width: 100%; height: auto }}
figure svg.narrow {{ display: none; max-width: 28rem }}
figcaption, .scroll + p {{ color: var(--muted); font-size: .875rem }}
.scroll {{ overflow-x: auto; width: fit-content; max-width: 100%; margin: 1rem 0 .5rem;
  border: 1px solid var(--grid) }}
table {{ width: max-content; border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums }}
caption {{ padding: .4rem .6rem; text-align: left; color: var(--muted); max-width: 100vw }}
th, td {{ padding: .3rem .6rem; border-top: 1px solid var(--grid); text-align: left;
  vertical-align: top; overflow-wrap: normal; max-width: 24rem }}
th {{ font-weight: 600 }}
tbody th {{ max-width: 12rem; font-weight: 400 }}
.number {{ text-align: right; white-space: nowrap }}
thead .number {{ white-space: normal; max-width: 8rem }}
ul {{ margin: .5rem 0; padding-left: 1.2rem }}
@media (max-width: {plots.NARROW_BELOW - 1}px) {{
  dl {{ grid-template-columns: 1fr; gap: 0 }}
  dd {{ margin-bottom: .4rem }}
  figure svg.wide {{ display: none }}
  figure svg.narrow {{ display: block }}
}}
"""
# Nothing is fetched, and a reader's browser is told so.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_COMPARED = (
    "A row a run; further left is faster. The load is what a process waits for before its first "
    "call, steady is what calls settle at, and p99 is what the slowest call in a hundred takes."
)
_FIRST_CALLS = (
    "A line a run, a point a call, from the first after the load on. A line that starts high "
    "makes its first users wait; one that is flat from call 1 on does not. The scale is "
    "logarithmic: the same step up is the same factor."
)
_GAP = " A line is broken where calls were skipped uncounted: bench with --skip 0 keeps them."
_LATENCY = (
    "How often each latency came, a row a run, with the same scale; the marks are percentiles. "
    "Half of the calls took at most p50, 99 of 100 at most p99; with fewer than 100 calls p99 is "
    "the slowest, so look at n beside it."
)
_CALL_PARTS = (
    "The mean call of each run from left to right: inputs to the device (h2d), the model "
    "(compute), outputs back (d2h), and the rest, which is checks and conversions on the host and, "
    "under a rate of calls, the wait. On the host nothing is copied. Where the inputs "
    "are on the device already, a call only enqueues and all of it is the rest."
)
_LOAD = (
    "Each load from its beginning on, step by step. Warm-up calls are in it when they were made: "
    "what they take here, the first calls do not take later."
)
_PEERS = (
    "Ways to run the same model, a table for each model and number of threads. Their processes "
    "took turns, a block of calls each. A ratio is the median over the rounds of the ratio in a "
    "round, below 1 is faster, and half of the rounds were between its quartiles: where these "
    "include 1, the two are alike. The share is that of the floating point operations that a "
    "matrix product did in the same time. The error is the largest absolute difference from the "
    "eager module, so one that is much larger than the others' computes with fewer digits."
)


def page(runs: Sequence[Run]) -> tuple[str, list[Plot]]:
    """Make the page.

    Args:
        runs: As `document.read` returns them, at least one.

    Returns:
        The HTML text, and the plots that are on it. The same runs give the same text.
    """
    every, peers = runs, [(run, run.peer) for run in runs if run.peer is not None]
    runs = [run for run in runs if run.peer is None]
    drawn = {
        plot.name: plot
        for draw in (
            plots.first_calls,
            plots.latency,
            plots.call_parts,
            plots.load,
            plots.compared,
        )
        if (plot := draw(runs)) is not None
    }
    is_broken = any(run.first_calls[1].number > 2 for run in runs if len(run.first_calls) > 1)
    first_calls_text = _FIRST_CALLS + (_GAP if is_broken else "")
    sections = (
        _section(
            "First calls", first_calls_text, drawn.get("first_calls"), _first_calls_tables(runs)
        ),
        _section("Latency", _LATENCY, drawn.get("latency"), _latency_table(runs)),
        _section(
            "Where the time of a call goes",
            _CALL_PARTS,
            drawn.get("call_parts"),
            _call_parts_table(runs),
        ),
        _section("Load", _LOAD, drawn.get("load"), _load_table(runs)),
        _section("Runs compared", _COMPARED, drawn.get("compared"), _compared_table(runs)),
    )
    beside, peer_plots = _peers(peers)
    names = _distinct(run.model for run in every)
    title = f"Latency of {names}"
    parts = (_heading(title, every), *filter(None, (*sections, beside)), _sources(every))
    body = "\n".join(parts)
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
    return text, [*drawn.values(), *peer_plots]


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(text for text in texts if text)) or NOTHING


def _heading(title: str, runs: Sequence[Run]) -> str:
    facts = {
        "Model": (run.model for run in runs),
        "Device": (run.device for run in runs),
        "Executor": (run.executor for run in runs),
        "Processor": (run.source.cpu for run in runs),
        "Cores": (run.source.cores for run in runs),
        "Threads": (run.source.threads for run in runs),
        "Versions": (run.source.versions for run in runs),
    }
    items = "\n".join(
        f"<dt>{key}</dt><dd>{escape(_distinct(texts))}</dd>" for key, texts in facts.items()
    )
    failed = [f"{run.label}: {run.error}" for run in runs if run.error]
    failed += [
        f"{file}: interrupted; its numbers are those until then"
        for file in dict.fromkeys(run.source.file for run in runs if run.source.interrupted)
    ]
    notes = "".join(f"<li>{escape(text)}</li>" for text in failed)
    return f"<h1>{escape(title)}</h1>\n<dl>\n{items}\n</dl>" + (
        f"\n<p>Not measured, or in part:</p>\n<ul>{notes}</ul>" if notes else ""
    )


def _section(title: str, how_to_read: str, plot: Plot | None, tables: str) -> str:
    if not tables:
        return ""
    figure = _figure(plot) if plot is not None else ""
    return f"<section>\n<h2>{title}</h2>\n<p>{how_to_read}</p>\n{figure}{tables}\n</section>"


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.standalone.encode()).decode()
    return (
        f"<figure>\n{_classed(plot.wide, 'wide')}\n{_classed(plot.narrow, 'narrow')}\n"
        f'<figcaption><a download="{plot.name}.svg" href="data:image/svg+xml;base64,{data}">'
        f"Download this plot as SVG</a></figcaption>\n</figure>\n"
    )


def _classed(svg: str, name: str) -> str:
    return svg.replace("<svg ", f'<svg class="{name}" ', 1)


Cell = str | float | int | None


def _table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table in a box of its own; the first column is the rows' headings."""
    rows = [list(row) for row in rows]
    is_number = [
        all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(head))
    ]

    def cell(value: Cell, column: int) -> str:
        text = escape(_cell_text(value))
        if column == 0:
            return f'<th scope="row">{text}</th>'
        return f"<td{kind(column)}>{text}</td>"

    def kind(column: int) -> str:
        return ' class="number"' if column > 0 and is_number[column] else ""

    heads = "".join(f'<th scope="col"{kind(i)}>{escape(t)}</th>' for i, t in enumerate(head))
    lines = "\n".join(
        f"<tr>{''.join(cell(value, i) for i, value in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )


def _cell_text(value: Cell) -> str:
    if value is None or value == "":
        return NOTHING
    return number_text(value) if isinstance(value, float) else str(value)


def _first_calls_tables(runs: Sequence[Run]) -> str:
    runs = [run for run in runs if run.first_calls]
    if not runs:
        return ""
    columns = [{call.number: call.ms for call in run.first_calls} for run in runs]
    numbers = sorted({number for column in columns for number in column})
    tables = [
        _table(
            "Latency of each call, ms",
            ["call", *(run.label for run in runs)],
            ([number, *(column.get(number) for column in columns)] for number in numbers),
        )
    ]
    measured = [run for run in runs if any(call.compiled is not None for call in run.first_calls)]
    if measured:
        tables.append(_first_calls_costs(measured))
    return "\n".join(tables)


def _first_calls_costs(runs: Sequence[Run]) -> str:
    rows: list[list[Cell]] = []
    for run in runs:
        calls = run.first_calls
        compiling = [str(call.number) for call in calls if call.compiled]
        rows.append(
            [
                run.label,
                len(calls),
                sum(call.compiled or 0 for call in calls),
                ", ".join(compiling) or "none",
                calls[0].page_faults,
                sum(call.page_faults or 0 for call in calls[1:]),
                sum(call.device_allocations or 0 for call in calls),
            ]
        )
    return _table(
        "What the calls did beside computing",
        [
            "run",
            "calls",
            "graphs compiled",
            "by calls",
            "page faults, call 1",
            "page faults, later",
            "allocations on the device",
        ],
        rows,
    )


def _latency_table(runs: Sequence[Run]) -> str:
    found = [(run, run.latency) for run in runs if run.latency is not None]
    if not found:
        return ""
    return _table(
        "Latency, ms",
        ["run", "n", "mean", "p50", "p90", "p99", "max", "calls a second"],
        ([r.label, v.n, v.mean, v.p50, v.p90, v.p99, v.max, r.throughput] for r, v in found),
    )


def _call_parts_table(runs: Sequence[Run]) -> str:
    found = [(run, run.latency, run.parts) for run in runs if run.latency and run.parts]
    if not found:
        return ""
    return _table(
        "Means, ms",
        ["run", "n", "h2d", "compute", "d2h", "the rest", "total"],
        ([r.label, v.n, p.h2d, p.compute, p.d2h, p.rest, p.total] for r, v, p in found),
    )


def _load_table(runs: Sequence[Run]) -> str:
    rows: list[list[Cell]] = []
    for run in runs:
        begin = 0.0
        for step in run.load_steps:
            rows.append([run.label, step.name, begin, step.ms, step.note])
            begin += step.ms
        if run.load_steps and run.load_ms is not None and plots.load_rest(run) > 0:
            rows.append([run.label, "the rest", begin, plots.load_rest(run), ""])
        if run.load_ms is not None:
            rows.append([run.label, "the whole load", 0.0, run.load_ms, ""])
    if not rows:
        return ""
    return _table(
        "Steps of the load, ms", ["run", "step", "begins at", "takes", "calls and shapes"], rows
    )


def _compared_table(runs: Sequence[Run]) -> str:
    head = ["run", "load, ms", "first call, ms", "steady, ms", "settled from call", "p99, ms", "n"]
    rows: list[list[Cell]] = []
    for run in runs:
        t = plots.times(run)
        rows.append(
            [
                run.label,
                t["load"],
                t["first call"],
                t["steady"],
                int(run.settled) if run.settled.isdigit() else run.settled,
                t["p99"],
                run.latency.n if run.latency else None,
            ]
        )
    return _table("One row a run", head, rows) if rows else ""


def _peers(runs: Sequence[tuple[Run, Peer]]) -> tuple[str, list[Plot]]:
    """The section of the runs that took turns, and its plots."""
    groups: dict[str, list[tuple[Run, Peer]]] = {}
    for run, peer in runs:
        title = f"{run.model}, threads: {run.source.threads}, {run.source.file}"
        groups.setdefault(title, []).append((run, peer))
    texts, drawn = [], []
    for number, (title, group) in enumerate(groups.items(), start=1):
        plot = plots.peers(f"peers_{number}", title, group)
        texts.append(f"<h3>{escape(title)}</h3>")
        if plot is not None:
            drawn.append(plot)
            texts.append(_figure(plot))
        texts.append(_peers_table(title, group))
    return _section("Peers", _PEERS, None, "\n".join(texts)), drawn


def _peers_table(title: str, group: Sequence[tuple[Run, Peer]]) -> str:
    head = [
        "",
        "a call, ms",
        f"to {group[0][1].base}",
        "lower quartile",
        "upper quartile",
        "% of peak",
        "largest error",
        "load, ms",
        "first call, ms",
        "process to first result, ms",
        "memory added, MiB",
        "memory at most, MiB",
        "a second, 1 caller",
        "a second, 2 callers",
    ]
    rows = [
        [
            run.executor,
            run.steady_ms,
            *(p.ratio or (None, None, None)),
            None if p.share_of_peak is None else 100 * p.share_of_peak,
            None if p.max_error is None else f"{p.max_error:.0e}",
            run.load_ms,
            run.first_ms,
            p.start_ms,
            p.added_mib,
            p.peak_mib,
            p.throughput.get(1),
            p.throughput.get(2),
        ]
        for run, p in group
    ]
    return _table(title, head, rows)


def _sources(runs: Sequence[Run]) -> str:
    rows = [
        [
            run.label,
            run.source.file,
            "peers.py" if run.peer else f"ts_infer {run.source.command}",
            run.model,
            run.device,
            run.source.cpu,
            run.source.cores,
            run.source.threads,
            run.source.versions,
            "; ".join(run.decisions),
        ]
        for run in runs
    ]
    head = [
        "run",
        "document",
        "command",
        "model",
        "device",
        "processor",
        "cores",
        "threads",
        "versions",
        "decisions of the load",
    ]
    table = _table("Where each run is from", head, rows)
    return (
        "<section>\n<h2>Documents</h2>\n<p>What was measured, where, and how the model was "
        f"loaded.</p>\n{table}\n</section>"
    )

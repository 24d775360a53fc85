"""Runs as SVG: each plot in two widths for the page, and alone on white to paste elsewhere.

On the page a plot's colours are CSS variables, so that it follows the theme. What tells two things
apart is never the colour alone: markers, line styles and hatches do too.
"""

from __future__ import annotations

import copy
import io
import math
import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ts_infer._report.document import number_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from ts_infer._report.document import Peer, Run

# CSS variables: in light, in dark. The hues are Okabe and Ito's, told apart by the colour-blind.
PALETTE = {
    "--paper": ("#ffffff", "#15181b"),
    "--ink": ("#1b1e21", "#e4e7ea"),
    "--muted": ("#5a6066", "#a3abb3"),
    "--grid": ("#dde0e3", "#353b41"),
    "--blue": ("#0072b2", "#3fa2e0"),
    "--vermilion": ("#d55e00", "#f5843c"),
    "--green": ("#009e73", "#22c596"),
    "--purple": ("#cc79a7", "#e39ac3"),
    "--orange": ("#e69f00", "#f2b830"),
    "--sky": ("#56b4e9", "#a9dcfa"),
}
PAPER, INK, MUTED, GRID, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    light for light, _ in PALETTE.values()
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# CSS pixels at a page of that width; below NARROW_BELOW the page shows the narrow drawing.
WIDE, NARROW, NARROW_BELOW = 760, 330, 620
SMALLEST = 1e-9  # ms that a log scale shows

# Colour, marker and line style.
_LINES: Sequence[tuple[str, str, Any]] = (
    (BLUE, "o", "-"),
    (VERMILION, "s", "--"),
    (GREEN, "^", "-."),
    (PURPLE, "D", ":"),
    (INK, "v", (0, (5, 1, 1, 1, 1, 1))),
    (ORANGE, "P", (0, (8, 2))),
    (SKY, "X", (0, (2, 1))),
)
_CALL_PARTS = {
    "h2d": (SKY, "////"),
    "compute": (BLUE, ""),
    "d2h": (GREEN, "\\\\\\\\"),
    "the rest": (ORANGE, "+++"),
}
_LOAD_STEPS = {
    "read": (SKY, "////"),
    "integrity": (PURPLE, "xxxx"),
    "libraries": (INK, "||||"),
    "deserialise": (BLUE, ""),
    "optimise": (GREEN, "\\\\\\\\"),
    "prepare": (VERMILION, "----"),
    "warm-up": (ORANGE, ""),
    "the rest": (MUTED, "+++"),
    "steps unknown": (MUTED, ""),
}
_QUANTILES = {
    "p50": ("o", BLUE),
    "p90": ("D", GREEN),
    "p99": ("^", VERMILION),
    "max": ("|", INK),
}
_TIMES = {
    "load": ("s", GREEN),
    "first call": ("^", VERMILION),
    "steady": ("o", BLUE),
    "p99": ("|", INK),
}

_CHARACTER = 6.6  # px, of DejaVu Sans at the size below; the fonts of browsers are narrower
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.8,
    "legend.borderaxespad": 0.5,
    "legend.borderpad": 0,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 11,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 11,
}

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: Of its file, without the suffix.
        standalone: An SVG file: explicit colours on white.
        wide: The `svg` element for a page, in CSS variables of `PALETTE`.
        narrow: That for a page below `NARROW_BELOW` px.
    """

    name: str
    standalone: str
    wide: str
    narrow: str


def first_calls(runs: Sequence[Run]) -> Plot | None:
    """The latency of call 1, 2, 3 … on a log scale: a line a run, a panel a setting."""
    runs = [run for run in runs if _positive(call.ms for call in run.first_calls)]
    if not runs:
        return None
    panels: dict[str, list[tuple[str, Run]]] = {}
    for run in runs:
        panels.setdefault(run.panel, []).append((run.line, run))
    if all(len(lines) == 1 for lines in panels.values()):
        panels = {"": [(run.label, run) for run in runs]}
    names = list(dict.fromkeys(name for lines in panels.values() for name, _ in lines))
    styles = {name: _LINES[i % len(_LINES)] for i, name in enumerate(names)}
    calls = [call for run in runs for call in run.first_calls]
    low, high = _range(call.ms for call in calls)
    last = max(call.number for call in calls)
    has_compiled = any(call.compiled for call in calls)

    def draw(width: int) -> Figure:
        handles: dict[str, Any] = {
            name: Line2D([], [], color=color, marker=marker, linestyle=dashes)
            for name, (color, marker, dashes) in styles.items()
        }
        if has_compiled:
            handles["the call compiled"] = Line2D([], [], linestyle="", **_RING)
        columns = min(len(panels), 2 if width == WIDE else 1)
        rows = math.ceil(len(panels) / columns)
        height = (250 if width == WIDE or rows > 1 else 230) * rows
        figure = _figure(width, height, handles)
        all_axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        for i, (axes, (panel, lines)) in enumerate(zip(all_axes, panels.items(), strict=False)):
            for name, run in lines:
                color, marker, dashes = styles[name]
                points = run.first_calls
                x, y = _with_gaps(points)
                axes.plot(x, y, color=color, marker=marker, linestyle=dashes, clip_on=False)
                rings = [call for call in points if call.compiled and call.ms >= SMALLEST]
                if rings:
                    x, y = [call.number for call in rings], [call.ms for call in rings]
                    axes.plot(x, y, linestyle="", clip_on=False, **_RING)
            if len(panels) > 1:
                title = panel or ", ".join(dict.fromkeys(run.source.command for _, run in lines))
                axes.set_title(_lines(title, width / columns - 60))
            axes.set_xlim(0.5, last + 0.5)
            step = 5 * math.ceil(last / 30)
            axes.xaxis.set_major_locator(FixedLocator([1, *range(step, last + 1, step)]))
            axes.tick_params(labelbottom=True, labelleft=True)
            axes.set_yscale("log")
            axes.set_ylim(low, high)
            _log_ticks(axes.yaxis, low, high, most=8)
            if i % columns == 0:
                axes.set_ylabel("latency, ms (log scale)")
            if i + columns >= len(panels):
                axes.set_xlabel("call since the load")
        return figure

    labels = ", ".join(run.label for run in runs)
    return _plot(
        "first_calls",
        "Latency of the first calls",
        f"Lines of latency in milliseconds, on a log scale, over the number of the call: {labels}.",
        draw,
    )


def latency(runs: Sequence[Run]) -> Plot | None:
    """The distribution of each run's latencies, with its percentiles."""
    pairs = [(run, run.latency) for run in runs if run.latency and run.latency.p50 >= SMALLEST]
    if not pairs:
        return None
    low, high = _range(v for _, r in pairs for v in (*r.calls, r.p50, r.max))

    def draw(width: int) -> Figure:
        edges = np.geomspace(low, high, 90 if width == WIDE else 60)
        labels = [
            f"{run.label}: {number_text(found.p50)}\N{NO-BREAK SPACE}ms" for run, found in pairs
        ]
        handles = {
            name: Line2D([], [], linestyle="", **_marker(*style))
            for name, style in _QUANTILES.items()
        }
        figure, axes = _rows(width, labels, handles)
        for row, (_, found) in enumerate(pairs):
            counts, _ = np.histogram(np.clip(found.calls, low, high), edges)
            if counts.any():
                heights = row - 0.36 * counts / counts.max()
                axes.stairs(heights, edges, baseline=row, fill=True, color=BLUE, alpha=0.35)
            axes.plot([low, high], [row, row], color=GRID, linewidth=0.8, zorder=1)
            for name, style in _QUANTILES.items():
                axes.plot(getattr(found, name), row, clip_on=False, **_marker(*style))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _log_ticks(axes.xaxis, low, high, most=9 if width == WIDE else 6)
        axes.set_xlabel("latency, ms (log scale); the number is p50")
        return figure

    labels = ", ".join(run.label for run, _ in pairs)
    return _plot(
        "latency",
        "Distribution of the latency",
        f"A histogram of latencies in milliseconds, with p50, p90, p99 and max, of each of: "
        f"{labels}.",
        draw,
    )


def call_parts(runs: Sequence[Run]) -> Plot | None:
    """Where the time of a mean call goes: one stacked bar a run."""
    bars = []
    for run in runs:
        if run.parts is not None and run.parts.total >= SMALLEST:
            parts = run.parts
            values = (parts.h2d, parts.compute, parts.d2h, max(parts.rest, 0))
            bars.append((run.label, parts.total, list(zip(_CALL_PARTS, values, strict=True))))
    return _bars(
        "call_parts",
        "Where the time of a call goes",
        bars,
        _CALL_PARTS,
        "mean time of a call, ms",
    )


def load(runs: Sequence[Run]) -> Plot | None:
    """The steps of each load on a time line."""
    bars = []
    for run in runs:
        if run.load_ms is not None and run.load_ms >= SMALLEST:
            steps = [(step.name, step.ms) for step in run.load_steps]
            rest = "the rest" if steps else "steps unknown"
            steps.append((rest, max(load_rest(run), 0)))
            bars.append((run.label, run.load_ms, steps))
    names = {name for _, _, steps in bars for name, ms in steps if ms > 0}
    styles = {name: style for name, style in _LOAD_STEPS.items() if name in names}
    for i, name in enumerate(sorted(names - set(styles))):
        styles[name] = (_LINES[i % len(_LINES)][0], "++++")
    return _bars("load", "Time line of the load", bars, styles, "since the load began, ms")


def compared(runs: Sequence[Run]) -> Plot | None:
    """Load, first call, steady latency and p99 of several runs on one scale."""
    rows = []
    for run in runs:
        values = {name: ms for name, ms in times(run).items() if ms and ms >= SMALLEST}
        if values:
            rows.append((run.label, values))
    if len(rows) < 2:
        return None
    low, high = _range(value for _, values in rows for value in values.values())
    shown = [name for name in _TIMES if any(name in values for _, values in rows)]

    def draw(width: int) -> Figure:
        handles = {name: Line2D([], [], linestyle="", **_marker(*_TIMES[name])) for name in shown}
        figure, axes = _rows(width, [label for label, _ in rows], handles)
        for row, (_, values) in enumerate(rows):
            ends = [min(values.values()), max(values.values())]
            axes.plot(ends, [row - 0.15] * 2, color=MUTED, linewidth=1)
            for name, value in values.items():
                axes.plot(value, row - 0.15, clip_on=False, **_marker(*_TIMES[name]))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _log_ticks(axes.xaxis, low, high, most=9 if width == WIDE else 6)
        axes.set_xlabel("ms (log scale)")
        return figure

    return _plot(
        "compared",
        "Runs compared",
        "Marks of load time, first call, steady latency and p99 in milliseconds, on a log scale, "
        f"of: {', '.join(label for label, _ in rows)}.",
        draw,
    )


def peers(name: str, title: str, group: Sequence[tuple[Run, Peer]]) -> Plot | None:
    """The ratios of a group that took turns, with their quartiles."""
    rows = [(run.executor, peer.ratio) for run, peer in group if peer.ratio is not None]
    if not rows:
        return None
    low, high = _range([1.0, *(value for _, ratio in rows for value in ratio)])
    median, quartiles = _QUANTILES["p50"], "lower to upper quartile"

    def draw(width: int) -> Figure:
        handles = {
            "median": Line2D([], [], linestyle="", **_marker(*median)),
            quartiles: Line2D([], [], color=MUTED, linewidth=3),
        }
        labels = [f"{executor}: {number_text(ratio.median)}" for executor, ratio in rows]
        figure, axes = _rows(width, labels, handles)
        axes.axvline(1, color=MUTED, linewidth=1)
        for row, (_, ratio) in enumerate(rows):
            axes.plot([ratio.low, ratio.high], [row - 0.15] * 2, color=MUTED, linewidth=3)
            axes.plot(ratio.median, row - 0.15, clip_on=False, **_marker(*median))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        _log_ticks(axes.xaxis, low, high, most=9 if width == WIDE else 6)
        axes.set_xlabel(f"time of a call to that of {group[0][1].base} (log scale)")
        return figure

    executors = ", ".join(executor for executor, _ in rows)
    return _plot(name, title, f"Medians and quartiles of the ratios of: {executors}.", draw)


def load_rest(run: Run) -> float:
    """What no step of a load accounts for, in milliseconds."""
    return (run.load_ms or 0.0) - sum(step.ms for step in run.load_steps)


def times(run: Run) -> dict[str, float | None]:
    """What `compared` compares, in milliseconds."""
    p99 = run.latency.p99 if run.latency else None
    return {"load": run.load_ms, "first call": run.first_ms, "steady": run.steady_ms, "p99": p99}


_RING: Mapping[str, Any] = {
    "marker": "o",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": INK,
    "markeredgewidth": 1,
}


def _marker(marker: str, color: str) -> dict[str, Any]:
    is_line = marker == "|"
    return {
        "marker": marker,
        "color": color,
        "markersize": 13 if is_line else 7,
        "markeredgecolor": color if is_line else PAPER,
        "markeredgewidth": 1.8 if is_line else 0.8,
        "zorder": 3,
    }


def _positive(values: Iterable[float]) -> list[float]:
    return [value for value in values if value >= SMALLEST]


def _range(values: Iterable[float]) -> tuple[float, float]:
    """Limits of a log axis around the values that it can show."""
    positive = _positive(values)
    low, high = min(positive), max(positive)
    margin = max((high / low) ** 0.04, 1.03)
    return low / margin, high * margin


def _with_gaps(calls: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Points of a line that is broken where calls are missing."""
    x: list[float] = []
    y: list[float] = []
    for call in calls:
        if x and call.number != x[-1] + 1:
            x.append(math.nan)
            y.append(math.nan)
        x.append(call.number)
        y.append(call.ms if call.ms >= SMALLEST else math.nan)
    return x, y


def _log_ticks(axis: Axis, low: float, high: float, most: int) -> None:
    """Plain numbers at 1, 2, 5 of each decade, fewer or evenly spaced as the range needs it."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    step = math.ceil(len(decades) / most)
    choices = [[m * 10.0**e for e in decades for m in ms] for ms in ((1, 2, 5), (1, 3), (1,))]
    choices.append([10.0**e for e in decades if e % step == 0])
    inside = [[t for t in ticks if low <= t <= high] for ticks in choices]
    ticks = next((ticks for ticks in inside if len(ticks) <= most), inside[-1])
    if len(ticks) < 3:
        even = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in even if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))


def _lines(text: str, width: float) -> str:
    """A text in at most two lines of so many px."""
    columns = max(int(width / _CHARACTER), 12)
    return "\n".join(textwrap.wrap(text, columns, max_lines=2, placeholder=" …"))


def _figure(width: int, height: float, handles: Mapping[str, Any]) -> Figure:
    """A figure of so many px, made higher by the legend above it."""
    labels = [_lines(name, width - 50) for name in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(int(width / (longest * _CHARACTER + 48)), 1)
    columns = min(columns, len(labels))
    rows = [labels[i :: math.ceil(len(labels) / columns)] for i in range(len(labels))]
    lines = sum(max(label.count("\n") + 1 for label in row) for row in rows if row)
    figure = Figure(figsize=(width / 72, (height + 16 * lines) / 72))
    figure.set_layout_engine("constrained", w_pad=4 / 72, h_pad=4 / 72)
    figure.legend(list(handles.values()), labels, loc="outside upper left", ncols=columns)
    return figure


def _rows(width: int, labels: Sequence[str], handles: Mapping[str, Any]) -> tuple[Figure, Axes]:
    """Axes with a row a run, each under its label."""
    texts = [_lines(label, width - 20) for label in labels]
    figure = _figure(width, 52 * len(labels) + 50, handles)
    axes = figure.subplots()
    for row, text in enumerate(texts):
        axes.text(
            0, row - 0.45, text, transform=axes.get_yaxis_transform(), va="bottom", linespacing=1
        )
    axes.set_ylim(len(labels) - 0.75, -1.05 if any("\n" in text for text in texts) else -0.85)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    return figure, axes


def _bars(
    name: str,
    title: str,
    bars: Sequence[tuple[str, float, Sequence[tuple[str, float]]]],
    styles: Mapping[str, tuple[str, str]],
    axis_label: str,
) -> Plot | None:
    """Stacked bars: a label, a total and the parts of each."""
    if not bars:
        return None

    def draw(width: int) -> Figure:
        handles = {
            part: Patch(facecolor=color, hatch=hatch, edgecolor=PAPER, linewidth=0.5)
            for part, (color, hatch) in styles.items()
        }
        labels = [f"{label}: {number_text(total)}\N{NO-BREAK SPACE}ms" for label, total, _ in bars]
        figure, axes = _rows(width, labels, handles)
        for row, (_, _, parts) in enumerate(bars):
            left = 0.0
            for part, ms in parts:
                if ms > 0:
                    color, hatch = styles[part]
                    axes.barh(
                        row - 0.17,
                        ms,
                        left=left,
                        height=0.4,
                        color=color,
                        hatch=hatch,
                        edgecolor=PAPER,
                        linewidth=0.5,
                    )
                left += ms
        axes.set_xlim(0, max(max(total, sum(ms for _, ms in parts)) for _, total, parts in bars))
        axes.xaxis.set_major_locator(MaxNLocator(8 if width == WIDE else 5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.10g}"))
        axes.set_xlabel(axis_label)
        return figure

    labels = ", ".join(label for label, _, _ in bars)
    return _plot(
        name,
        title,
        f"Stacked bars of {', '.join(styles)}, in milliseconds, of: {labels}.",
        draw,
    )


def _plot(name: str, title: str, description: str, draw: Callable[[int], Figure]) -> Plot:
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        wide, narrow = _svg(draw(WIDE)), _svg(draw(NARROW))
    return Plot(
        name,
        _standalone(wide, title, description),
        _inline(wide, f"{name}-wide", title, description),
        _inline(narrow, f"{name}-narrow", title, description),
    )


def _svg(figure: Figure) -> ET.Element:
    """A figure as SVG, without what names matplotlib's fonts or styles the whole page."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    root = ET.fromstring(file.getvalue())
    for definitions in root.findall(f"{{{_SVG}}}defs"):
        for style in definitions.findall(f"{{{_SVG}}}style"):
            definitions.remove(style)
    for element in root.iter():
        for paint in ("fill", "stroke"):
            if (color := element.get(paint, "")).startswith("#"):
                del element.attrib[paint]
                element.set("style", f"{paint}: {color}; {element.get('style', '')}")
        if "style" in element.attrib:
            # One property since matplotlib 3.9 or so, the shorthand before.
            style_text = re.sub(r"(font-family: )[^;]+", rf"\g<1>{FONT}", element.attrib["style"])
            style_text = re.sub(r"(font: [^;]*?[\d.]+px )[^;]+", rf"\g<1>{FONT}", style_text)
            element.set("style", style_text)
    for unwanted in ("width", "height", "version"):
        root.attrib.pop(unwanted, None)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return root


def _describe(root: ET.Element, prefix: str, title: str, description: str) -> None:
    """Names a drawing for who cannot see it; `prefix` keeps its ids apart from other drawings'."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{prefix}-{value}")
            elif key == f"{{{_XLINK}}}href":
                element.set(key, value.replace("#", f"#{prefix}-", 1))
            else:
                element.set(key, value.replace("url(#", f"url(#{prefix}-"))
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = text
        root.insert(position, element)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")


def _text(root: ET.Element) -> str:
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _standalone(drawing: ET.Element, title: str, description: str) -> str:
    root = copy.deepcopy(drawing)
    width, height = root.attrib["viewBox"].split()[2:]
    root.set("width", width)
    root.set("height", height)
    root.insert(0, ET.Element(f"{{{_SVG}}}rect", width="100%", height="100%", fill=PAPER))
    _describe(root, "plot", title, description)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_text(root)}\n'


def _inline(drawing: ET.Element, prefix: str, title: str, description: str) -> str:
    root = copy.deepcopy(drawing)
    variables = {light: name for name, (light, _) in PALETTE.items()}
    for element in root.iter():
        if "style" in element.attrib:
            style = re.sub(
                r"#[0-9a-f]{6}\b",
                lambda found: f"var({variables[found[0]]})" if found[0] in variables else found[0],
                element.attrib["style"],
            )
            element.set("style", style)
    _describe(root, prefix, title, description)
    return _text(root)

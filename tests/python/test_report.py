"""`ts_infer report`: documents to numbers, and the page in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ts_infer import InputError
from ts_infer.__main__ import main
from ts_infer._report import document
from ts_infer._report.page import page
from ts_infer._report.plots import PALETTE

DATA = Path(__file__).parents[1] / "data" / "report"
BENCHES = [str(DATA / "bench_legacy.json"), str(DATA / "bench_profiling.json")]
COLDSTART = str(DATA / "coldstart.json")
RUN = str(DATA / "run.json")
ALL = [*BENCHES, RUN, COLDSTART]
PLOTS = {"first_calls", "latency", "call_parts", "load", "compared"}


def load(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def changed(tmp_path: Path, path: str, **changes: Any) -> str:
    """A copy of a document with other values: `results__n=0` is document["results"]["n"]."""
    value = load(path)
    for key, new in changes.items():
        *parents, last = key.split("__")
        inner = value
        for parent in parents:
            inner = inner[parent]
        inner[last] = new
    copy = tmp_path / f"changed_{Path(path).name}"
    copy.write_text(json.dumps(value), encoding="utf-8")
    return str(copy)


class Tables(HTMLParser):
    """The tables of a page by caption, as rows of texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._text: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td", "caption"):
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        text = "".join(self._text or [])
        if tag == "caption":
            self.tables[text] = self._rows
        elif tag in ("th", "td"):
            self._rows[-1].append(text)
        if tag in ("th", "td", "caption"):
            self._text = None


def row_of(table: list[list[str]], label: str) -> dict[str, str]:
    (row,) = (row for row in table if row[0] == label)
    return dict(zip(table[0], row, strict=True))


def check_numbers(shown: dict[str, str], expected: dict[str, float]) -> None:
    """Each shown text has at least four significant digits of what is expected."""
    assert {name: float(shown[name]) for name in expected} == pytest.approx(expected, rel=5.1e-4)


def test_read_gives_the_numbers_of_a_bench() -> None:
    (run,) = document.read(BENCHES[:1])
    results = load(BENCHES[0])["results"]
    assert [call.ms for call in run.first_calls] == results["latencies_ms"][:25]
    assert [call.number for call in run.first_calls][:3] == [1, 2, 3]
    assert run.latency is not None
    assert run.parts is not None
    assert (run.latency.n, run.latency.p99) == (results["n"], results["p99_ms"])
    assert run.parts.compute == results["compute_ms"]
    assert run.parts.rest == pytest.approx(results["mean_ms"] - results["compute_ms"])
    assert (run.first_ms, run.steady_ms) == (results["first_ms"], results["steady_ms"])
    assert run.load_ms == load(BENCHES[0])["model"]["load_ms"]
    assert run.load_steps == ()


def test_read_leaves_a_gap_where_a_bench_skipped_calls(tmp_path: Path) -> None:
    (run,) = document.read([changed(tmp_path, BENCHES[0], results__skipped=10)])
    assert [call.number for call in run.first_calls][:3] == [1, 11, 12]
    assert run.first_calls[0].ms == load(BENCHES[0])["results"]["first_ms"]
    assert "--skip 0" in page([run])[0]


def test_read_gives_the_numbers_of_a_run() -> None:
    (run,) = document.read([RUN])
    totals = [call["total_ms"] for call in load(RUN)["calls"]]
    assert run.latency is not None
    assert run.latency.calls == tuple(totals)
    assert run.latency.p50 == sorted(totals)[2]
    assert run.latency.p99 == max(totals)
    assert run.steady_ms is None


def test_read_gives_the_runs_of_a_coldstart() -> None:
    runs = document.read([COLDSTART])
    assert [run.label for run in runs] == [
        "prepared, warm-up fast",
        "prepared, warm-up off",
        "profiling, warm-up fast",
        "profiling, warm-up off",
        "simple, warm-up off",
    ]
    profiling = runs[3]
    assert [call.compiled for call in profiling.first_calls] == [3, 2, 0, 0, 0]
    assert profiling.settled == "3"
    assert runs[0].load_steps[-1].note == "2 calls, vector_data 256x19x128"
    assert runs[4].error == "[run] dense_tnt: out of memory"


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0)])
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert document.percentile([4.0, 2.0, 1.0, 3.0], percent) == expected


def test_percentiles_are_those_that_the_binary_computed() -> None:
    for path in BENCHES:
        results = load(path)["results"]
        for percent in (50, 90, 99):
            shown = document.percentile(results["latencies_ms"], percent)
            assert shown == pytest.approx(results[f"p{percent}_ms"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (0.0489218, "0.04892"),
        (1.0, "1.000"),
        (41.202295, "41.20"),
        (999.96, "1000.0"),
        (123456.7, "123457"),
        (-0.25, "-0.2500"),
    ],
)
def test_number_text_keeps_four_digits(value: float, expected: str) -> None:
    assert document.number_text(value) == expected


def test_runs_that_differ_in_nothing_get_different_labels() -> None:
    labels = [run.label for run in document.read([BENCHES[0], BENCHES[0], RUN, COLDSTART])]
    assert len(set(labels)) == len(labels)
    assert labels[:2] == ["legacy 1", "legacy 2"]


def test_label_has_the_executor_that_was_asked_for_where_another_ran(tmp_path: Path) -> None:
    (run,) = document.read([changed(tmp_path, BENCHES[0], options__executor="prepared")])
    assert run.label == "legacy (asked for prepared)"


def test_page_has_the_numbers_of_every_document() -> None:
    html, plots = page(document.read(ALL))
    assert {plot.name for plot in plots} == PLOTS
    check_tables(html)


def check_tables(html: str) -> None:
    """Compares the tables of the page of ALL with its documents."""
    tables = Tables(html).tables
    calls = tables["Latency of each call, ms"]
    for path, label in zip(BENCHES, ("legacy", "profiling"), strict=True):
        value = load(path)
        results = value["results"]
        column = calls[0].index(label)
        shown = [float(row[column]) for row in calls[1:]]
        assert shown == pytest.approx(results["latencies_ms"][:25], rel=5.1e-4)
        names = ("mean", "p50", "p90", "p99", "max")
        latency = row_of(tables["Latency, ms"], label)
        assert latency["n"] == str(results["n"])
        check_numbers(latency, {name: results[f"{name}_ms"] for name in names})
        parts = {name: results[f"{name}_ms"] for name in ("h2d", "compute", "d2h")}
        check_numbers(row_of(tables["Means, ms"], label), parts)
        compared = {
            "load, ms": value["model"]["load_ms"],
            "first call, ms": results["first_ms"],
            "steady, ms": results["steady_ms"],
            "settled from call": results["settled_at"],
        }
        check_numbers(row_of(tables["One row a run"], label), compared)
    steps = [row for row in tables["Steps of the load, ms"] if row[0] == "prepared, warm-up fast"]
    expected = load(COLDSTART)["runs"][0]["model"]["load_steps"]
    assert [row[1] for row in steps] == [
        *(s["name"] for s in expected),
        "the rest",
        "the whole load",
    ]
    assert [float(row[3]) for row in steps[:-2]] == pytest.approx([s["ms"] for s in expected])
    costs = row_of(tables["What the calls did beside computing"], "profiling, warm-up off")
    assert (costs["graphs compiled"], costs["by calls"]) == ("5", "1, 2")
    assert costs["page faults, call 1"] == "2000"


def test_page_of_the_same_documents_is_the_same() -> None:
    assert page(document.read(ALL))[0] == page(document.read(ALL))[0]


def test_page_fetches_nothing_and_has_no_script() -> None:
    html, _ = page(document.read(ALL))
    assert not re.search(r"<(script|img|iframe|object|embed)\b", html)
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'href="([^"]*)"', html))
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(ids := re.findall(r'\bid="([^"]*)"', html)) == len(set(ids))


def test_page_says_what_failed() -> None:
    assert (
        "simple, warm-up off: [run] dense_tnt: out of memory" in page(document.read([COLDSTART]))[0]
    )


def test_page_escapes_what_documents_say(tmp_path: Path) -> None:
    name = '<script>alert("1")</script> & $x^$ \x00\ud800 \u65e5'
    html, plots = page(document.read([changed(tmp_path, BENCHES[0], model__name=name)]))
    assert "<script" not in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; $x^$ �� 日" in html
    for plot in plots:
        ET.fromstring(plot.standalone)


def test_page_of_calls_that_were_not_counted_has_the_load_alone(tmp_path: Path) -> None:
    path = changed(tmp_path, BENCHES[0], results={"n": 0, "skipped": 0, "latencies_ms": []})
    html, plots = page(document.read([path]))
    assert {plot.name for plot in plots} == {"load"}
    assert "no call was counted" in html


def test_page_of_many_runs_draws_them_all(tmp_path: Path) -> None:
    runs = load(COLDSTART)["runs"][:1] * 12
    runs = [{**run, "executor": f"executor {i}", "model": {}} for i, run in enumerate(runs)]
    plot = page(document.read([changed(tmp_path, COLDSTART, runs=runs)]))[1][0]
    assert all(f"executor {i}" in plot.narrow for i in range(12))


def test_standalone_plot_has_colours_of_its_own_and_real_text() -> None:
    for plot in page(document.read(ALL))[1]:
        root = ET.fromstring(plot.standalone)
        assert "var(" not in plot.standalone
        assert root[0].tag.endswith("title")
        assert root[0].text
        texts = [element for element in root.iter() if element.tag.endswith("}text")]
        assert any("ms" in (text.text or "") for text in texts)
        assert not re.search("#[0-9a-f]{6}", plot.wide + plot.narrow), "a colour of no theme"


def test_command_writes_the_page_and_the_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "report.html", tmp_path / "new" / "svg"
    assert main(["report", *ALL, "-o", str(out), "--svg", str(folder)]) == 0
    assert capsys.readouterr().out == f"written: {out} (8 runs, 5 plots)\n"
    html = out.read_text(encoding="utf-8")
    assert {path.stem for path in folder.iterdir()} == PLOTS
    for name, data in re.findall(
        r'download="(\w+)\.svg" href="data:image/svg\+xml;base64,([^"]+)"', html
    ):
        assert (folder / f"{name}.svg").read_bytes() == base64.b64decode(data)


def test_command_does_not_import_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from ts_infer.__main__ import main; "
        f"status = main(['report', {RUN!r}, '-o', {str(tmp_path / 'r.html')!r}]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: expected .*, got No such file"),
        ("{", "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        (b"\xff\xfe", "is not JSON: "),
        ("[]", "is another program's: expected .* got none"),
        ('{"schema": 2, "command": "bench"}', "another version: expected schema 1, got 2"),
        ('{"schema": 1, "command": "verify"}', 'expected one of bench, .*, got "verify"'),
        ('{"schema": 1, "command": "coldstart", "runs": []}', "has no runs: "),
        ('{"schema": 1, "command": "bench", "results": 3}', r"results: .* an object, got 3"),
        (
            '{"schema": 1, "command": "bench", "results": {"latencies_ms": [1, "x"]}}',
            r'results.latencies_ms\[1\]: .* a number from 0 to 1e15, got "x"; measure again',
        ),
        ('{"schema": 1, "command": "run", "calls": [{}]}', r"calls\[0\].total_ms: .* got nothing"),
        ('{"schema": 1, "command": "run", "model": {"load_ms": NaN}}', "model.load_ms: .* got NaN"),
    ],
)
def test_command_says_what_is_wrong_with_a_document(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | bytes | None,
    message: str,
) -> None:
    path = tmp_path / "document.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["report", str(path), "-o", str(tmp_path / "report.html")]) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(InputError, match=message):
        document.read([str(path)])


def test_command_says_where_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", RUN, "-o", str(tmp_path / "nowhere" / "report.html")]) == 1
    assert "the file cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["-o", "x.html"], [RUN], [RUN, "-o", "x", "--sv"]])
def test_command_refuses_bad_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["report", *arguments])


def test_command_reads_what_the_binary_writes(
    tmp_path: Path, binary: str, affine_path: Path
) -> None:
    target = [str(affine_path), "--shape", "x=2x3", "--device", "cpu", "--intra-op-threads", "1"]
    documents = {
        "bench": ["bench", *target, "--duration", "0.05", "--skip", "0"],
        "run": ["run", *target, "--iterations", "3"],
        "coldstart": ["coldstart", *target, "--calls", "4"],
    }
    paths = {name: tmp_path / f"{name}.json" for name in documents}
    for name, arguments in documents.items():
        command = [binary, *arguments, "--json", str(paths[name])]
        subprocess.run(command, check=True, capture_output=True)
    out = tmp_path / "report.html"
    assert main(["report", *map(str, paths.values()), "-o", str(out)]) == 0
    results = load(str(paths["bench"]))["results"]
    (row,) = (
        row
        for row in Tables(out.read_text(encoding="utf-8")).tables["Latency, ms"]
        if row[1] == str(results["n"])
    )
    cold = load(str(paths["coldstart"]))
    text = out.read_text(encoding="utf-8")
    for run in cold["runs"]:
        assert f"{run['first_ms']:.4g}" in text
    assert float(row[3]) == pytest.approx(results["p50_ms"], rel=5.1e-4)


@dataclass
class Browser:
    """Headless Chromium."""

    program: str
    folder: Path
    console: list[str] = field(default_factory=list)

    def dom(self, path: Path, *flags: str) -> str:
        """The page's document after its load; what it said on the console is in `console`."""
        result = subprocess.run(
            [
                self.program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={self.folder}",
                "--enable-logging=stderr",
                "--v=0",
                "--hide-scrollbars",
                "--dump-dom",
                *flags,
                path.as_uri(),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.console = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
        return result.stdout


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return Browser(program, tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def report_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert main(["report", *ALL, "-o", str(path)]) == 0
    return path


def test_page_renders_in_chromium_without_console_errors(
    browser: Browser, report_path: Path, tmp_path: Path
) -> None:
    html = browser.dom(report_path)
    assert browser.console == []
    assert html.count("<svg ") == 2 * len(PLOTS)
    check_tables(html)
    fetching = tmp_path / "fetching.html"
    text = report_path.read_text(encoding="utf-8")
    fetching.write_text(text.replace("<main>", '<main><img src="http://localhost:9/x.png">'))
    browser.dom(fetching)
    assert browser.console, "a fetch is refused and heard of"


# Shows the page in a frame of a given width, which a window may not have, and writes what it sees.
_FRAME = """<!DOCTYPE html>
<iframe src="report.html" style="width:{width}px; height:800px; border:0"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const root = page.documentElement;
  const style = element => page.defaultView.getComputedStyle(element);
  const shown = [...page.querySelectorAll("svg")].filter(svg => style(svg).display != "none");
  const texts = shown.flatMap(svg => [...svg.querySelectorAll("text")].map(text => [svg, text]));
  const outside = texts.filter(([svg, text]) => {{
    const box = svg.getBoundingClientRect(), inner = text.getBoundingClientRect();
    return inner.left < box.left - 1 || inner.right > box.right + 1 ||
           inner.top < box.top - 1 || inner.bottom > box.bottom + 1;
  }});
  document.body.textContent = "SEEN" + JSON.stringify({{
    width: root.clientWidth,
    needed: root.scrollWidth,
    background: style(page.body).backgroundColor,
    ink: style(page.body).color,
    drawings: shown.map(svg => svg.classList[0]),
    smallest: Math.min(...texts.map(([, text]) => text.getBoundingClientRect().height)),
    colors: [...new Set(texts.map(([, text]) => style(text).fill))],
    outside: outside.map(([, text]) => text.textContent),
  }}) + "SEEN";
}});
</script>
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 700, 1600])
def test_page_fits_every_width_in_both_themes(
    browser: Browser, report_path: Path, width: int, theme: str
) -> None:
    frame = report_path.with_name("frame.html")
    frame.write_text(_FRAME.format(width=width), encoding="utf-8")
    preference = f"--blink-settings=preferredColorScheme={int(theme == 'light')}"
    html = browser.dom(frame, preference, "--allow-file-access-from-files")
    seen = json.loads(html.split("SEEN")[-2])
    assert browser.console == []
    assert seen["width"] == width
    assert seen["needed"] <= width, "the page goes sideways"
    assert seen["drawings"] == ["narrow" if width < 620 else "wide"] * len(PLOTS)
    paper, ink = (
        "rgb({}, {}, {})".format(*bytes.fromhex(PALETTE[name][theme == "dark"][1:]))
        for name in ("--paper", "--ink")
    )
    assert (seen["background"], seen["ink"]) == (paper, ink)
    assert seen["colors"] == [ink]
    assert seen["outside"] == [], "text is cut off"
    assert seen["smallest"] >= 10, "text is too small to read"

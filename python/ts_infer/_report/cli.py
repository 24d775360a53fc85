"""The command `ts_infer report RUN.json… -o report.html`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ts_infer._errors import Error

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Make one page of measurements: it opens offline, in light and dark, on a phone and on a screen.

RUN.json is what `ts_infer bench`, `ts_infer run`, `ts_infer coldstart` or
python/benchmarks/peers.py wrote with --json; give several to compare them. The page has the first
calls of each executor, the latencies with their percentiles, where the time of a call goes, the
time line of the load and the ratios to peers, each with its numbers and with an SVG to download.

exit status: 0 written, 2 bad arguments, 4 a document that cannot be used, 1 anything else
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the `report` verb takes to its parser."""
    parser.add_argument("documents", metavar="RUN.json", nargs="+", help="what --json wrote")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="the page to write"
    )
    parser.add_argument(
        "--svg", metavar="DIR", type=Path, help="write each plot as an SVG file there too"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Args:
        args: Parsed by a parser with `add_arguments`.

    Returns:
        The exit status, 0.

    Raises:
        InputError: A document cannot be used.
        Error: A file cannot be written.
    """
    from ts_infer._report.document import read

    runs = read(args.documents)
    # It announces there that it builds its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from ts_infer._report.page import page  # imports matplotlib, which takes a second

    text, plots = page(runs)
    _write(args.output, text)
    for plot in plots if args.svg is not None else ():
        _write(args.svg / f"{plot.name}.svg", plot.standalone, make_folder=True)
    counts = f"{_count(len(runs), 'run')}, {_count(len(plots), 'plot')}"
    print(f"written: {args.output} ({counts})")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _write(path: Path, text: str, *, make_folder: bool = False) -> None:
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise Error(
            f"[report] {path}: the file cannot be written: expected a folder to write to, got "
            f"{error.strerror}; choose another place"
        ) from error

"""The command `ts_infer compile MODEL [-o FILE.pt2] [--module PKG.MODULE:FACTORY]`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import ts_infer
from ts_infer._cli import EXIT_STATUS, naming, write_json
from ts_infer._export.cli import options_of

if TYPE_CHECKING:
    import argparse

DESCRIPTION = f"""\
Compile a model to an AOTInductor package (.pt2), which `ts_infer run` takes like an archive.

With --module, torch.export reads the module that the archive was made from; without, torch's
converter reads the archive's TorchScript. The package is compared with the archive at the corners
of the declared sizes, and on other values, before it is written.

exit status: 0 written, 6 it cannot be compiled or differs, {EXIT_STATUS}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the `compile` verb takes to its parser."""
    parser.add_argument("model", metavar="MODEL", help="an archive that `ts_infer export` wrote")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the package; default: MODEL with the suffix .pt2"
    )
    parser.add_argument(
        "--module",
        metavar="PKG.MODULE:FACTORY",
        help="what makes the module, as for `ts_infer export`",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON (- for stdout)")


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Args:
        args: Parsed by a parser with `add_arguments`.

    Returns:
        The exit status.

    Raises:
        Error: There is no package, and why.
    """
    logger, progress = logging.getLogger("ts_infer.compile"), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(progress)
    logger.setLevel(logging.INFO)
    try:
        with naming("compile", args.model):
            module = options_of(args.module)["module"] if args.module else None
            report = ts_infer.compile(args.model, args.output, module)
    except ts_infer.CompileError as error:
        if error.report is not None:
            write_json(args.json, "compile", error.report.to_dict())
        raise
    finally:
        logger.removeHandler(progress)
        logger.setLevel(level)
    write_json(args.json, "compile", report.to_dict())
    if args.json != "-":
        print(report)
    return 0

"""The command `ts_infer audit MODEL [--module PKG.MODULE:FACTORY]`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ts_infer._cli import AUDIT_FAILED, EXIT_STATUS, UsageError, naming
from ts_infer._errors import InputError
from ts_infer._export.cli import options_of, show
from ts_infer._export.report import ALLOWABLE, AUDIT_LEVELS

if TYPE_CHECKING:
    import argparse

DESCRIPTION = f"""\
Audit a TorchScript archive, whoever made it.

With --module, the archive is compared with the module that it was made from, by every probe of
`ts_infer export`. Without, it is looked at by itself: what its graph holds, whether it computes
its golden sample, whether calls in a row agree, and which sizes it takes.

exit status: 0 nothing found, 6 there are findings, {EXIT_STATUS}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the `audit` verb takes to its parser."""
    parser.add_argument("model", metavar="MODEL", help="the archive")
    parser.add_argument(
        "--module",
        metavar="PKG.MODULE:FACTORY",
        help="what makes the module, as for `ts_infer export`",
    )
    parser.add_argument(
        "--input",
        metavar="NAME=FILE.npy",
        action="append",
        default=[],
        help="an input of forward or a part of one (sensors.imu, clips[0]), or NAME=VALUE for a "
        "number; without --module",
    )
    parser.add_argument(
        "--library",
        metavar="FILE",
        action="append",
        default=[],
        help="a shared library that registers custom operators or classes",
    )
    parser.add_argument(
        "--audit", choices=AUDIT_LEVELS, default="full", help="how deep; default: full"
    )
    parser.add_argument(
        "--allow",
        metavar="CODE",
        action="append",
        default=[],
        choices=tuple(ALLOWABLE),
        help="accept findings with this code",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON (- for stdout)")


def _read_input(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--input: expected NAME=FILE.npy or NAME=VALUE, got {text}")
    if value.endswith(".npy"):
        try:
            return name, torch.from_numpy(np.load(value))
        except (OSError, EOFError, TypeError, ValueError) as error:
            raise InputError(
                f"[input] --input {text}: expected a .npy file of numbers, got {error}"
            ) from error
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Args:
        args: Parsed by a parser with `add_arguments`.

    Returns:
        The exit status.

    Raises:
        Error: The archive cannot be audited, and why.
    """
    with naming("audit", args.module or args.model):
        from ts_infer._export.archive_audit import audit

        load_library: Any = torch.ops.load_library
        for library in args.library:
            load_library(library)
        given: dict[str, Any] = {"allow": args.allow}
        if args.module:
            options = options_of(args.module)
            for name in ("module", "example_inputs", "dynamic_shapes", "preserved_methods"):
                if name in options:
                    given[name] = options[name]
        elif args.input:
            given["example_inputs"] = dict(map(_read_input, args.input))
        report = audit(args.model, audit=args.audit, **given)
    show(report, args.json)
    return 0 if report.ok else AUDIT_FAILED

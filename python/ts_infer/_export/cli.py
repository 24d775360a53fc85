"""The command `ts_infer export PKG.MODULE:FACTORY -o model.pt`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_infer._cli import EXIT_STATUS, UsageError, naming, write_json
from ts_infer._errors import ExportError
from ts_infer._export.report import ALLOWABLE, LEVELS

if TYPE_CHECKING:
    import argparse

    from ts_infer._export.report import ExportReport

_KEYS = (
    "module",
    "example_inputs",
    "method",
    "dynamic_shapes",
    "name",
    "output_names",
    "preserved_methods",
    "warmup_shapes",
    "audit",
    "allow",
)

DESCRIPTION = f"""\
Export a PyTorch module to one file, checked against the module.

FACTORY is called without arguments and returns (module, example_inputs), or a dict of arguments
for ts_infer.export: module, example_inputs, and any of method, dynamic_shapes, name,
output_names, preserved_methods, warmup_shapes, audit, allow. The current directory is
searched first.

exit status: 0 exported, 6 the audit failed, {EXIT_STATUS}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the `export` verb takes to its parser."""
    parser.add_argument("factory", metavar="PKG.MODULE:FACTORY", help="what makes the module")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where to write")
    parser.add_argument(
        "--method",
        choices=("auto", "trace", "script", "hybrid"),
        help="how to export; auto, the default, scripts what a trace would lose",
    )
    parser.add_argument(
        "--audit",
        choices=LEVELS,
        help="how deep to compare with the module; default: full",
    )
    parser.add_argument(
        "--allow",
        metavar="CODE",
        action="append",
        default=[],
        choices=tuple(ALLOWABLE),
        help=f"accept findings with this code: {', '.join(ALLOWABLE)}",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON (- for stdout)")


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Args:
        args: Parsed by a parser with `add_arguments`.

    Returns:
        The exit status.

    Raises:
        Error: There is no file, and why.
    """
    with naming("export", args.factory):
        from ts_infer._export.exporter import export

        options = options_of(args.factory)
        options |= {k: v for k in ("method", "audit") if (v := getattr(args, k))}
        options["allow"] = [*options.get("allow", ()), *args.allow]
        try:
            report = export(**options, path=args.output)
        except ExportError as error:
            if error.report is not None:
                write_json(args.json, "export", error.report.to_dict())
            raise
    show(report, args.json)
    return 0


def options_of(spec: str) -> dict[str, Any]:
    """Call the factory that `PKG.MODULE:FACTORY` names and return its arguments for export.

    Raises:
        UsageError: There is no such factory, or it returns something else.
    """
    from ts_infer._export.capture import watch_warnings

    module_name, colon, factory_name = spec.partition(":")
    if not (module_name and colon and factory_name):
        raise UsageError(
            "the factory cannot be found: expected PKG.MODULE:FACTORY, got no module or no "
            "factory; for example my_models.gate:make"
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with watch_warnings():  # a module under @torch.jit.script warns when it is imported
            module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(
            f"the module cannot be imported: expected {module_name} in {folder} or installed, "
            f"got {type(error).__name__}: {error}; check the name and the current directory"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise UsageError(
            f"the factory cannot be found: expected a function {factory_name} in "
            f"{module.__file__}, got {'nothing' if factory is None else type(factory).__name__}; "
            "check its name"
        )
    with watch_warnings():
        made = factory()
    if isinstance(made, tuple) and len(made) == 2:
        made = {"module": made[0], "example_inputs": made[1]}
    if not isinstance(made, Mapping) or not {"module", "example_inputs"} <= set(made):
        raise UsageError(
            "the factory returned something else: expected (module, example_inputs) or a dict "
            f"with these keys, got {type(made).__name__}; return what ts_infer.export takes"
        )
    unknown = [str(key) for key in made if key not in _KEYS]
    if unknown:
        raise UsageError(
            f"the factory returned unknown keys: expected {', '.join(_KEYS)}, got "
            f"{', '.join(unknown)}; remove them"
        )
    return dict(made)


def show(report: ExportReport, json_path: str | None) -> None:
    """Print a report, and write it as JSON to a file; `-` prints nothing but JSON."""
    write_json(json_path, report.verb, report.to_dict())
    if json_path != "-":
        print(report)

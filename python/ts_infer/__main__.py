"""``python -m ts_infer``, which is also the ``ts_infer`` command on PATH.

Verbs that need Python run here; everything else is the compiled binary's.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ts_infer
from ts_infer._cli import exit_code
from ts_infer._compat import torch_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

# A verb's module has DESCRIPTION, add_arguments(parser) and run(args) -> exit code.
VERBS = {
    "audit": "ts_infer._export.audit_cli",
    "compile": "ts_infer._export.compile_cli",
    "demo": "ts_infer._demo",
    "export": "ts_infer._export.cli",
    "report": "ts_infer._report.cli",
}

_FOLDERS = {"--cmake-dir": "share/cmake/ts_infer", "--include-dir": "include"}


def _installed(relative: str) -> Path:
    """A file or folder of the package; an editable install has two roots."""
    for root in ts_infer.__path__:
        if (path := Path(root) / relative).exists():
            return path
    raise FileNotFoundError(
        f"{relative} is not in {', '.join(ts_infer.__path__)}: ts_infer is not installed whole; "
        "in its source folder run: pip install ."
    )


def _exec_binary(arguments: Sequence[str]) -> int:
    binary = _installed("bin/ts_infer")
    environment = dict(os.environ)
    torch = torch_dir()
    # The binary looks for libtorch in the folder beside its package.
    if torch is not None and not (binary.parents[2] / "torch" / "lib").is_dir():
        paths = [str(torch / "lib"), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    sys.stdout.flush()
    os.execve(binary, ["ts_infer", *arguments], environment)


def _run_verb(arguments: Sequence[str]) -> int:
    verb, *rest = arguments
    module = importlib.import_module(VERBS[verb])
    parser = argparse.ArgumentParser(
        prog=f"ts_infer {verb}",
        description=module.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    try:
        return int(module.run(parser.parse_args(rest)))
    except (ts_infer.Error, MemoryError) as error:
        print(f"ts_infer: {str(error) or 'out of memory'}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code; a command of the binary does not return."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    first = arguments[0] if arguments else ""
    try:
        if first in _FOLDERS:
            print(_installed(_FOLDERS[first]))
            return 0
        if first in VERBS:
            return _run_verb(arguments)
        return _exec_binary(arguments)
    except FileNotFoundError as error:
        print(f"ts_infer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""The ``ts_infer`` command on PATH: apart from the package, so that it can say why that fails."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        from ts_infer.__main__ import main as run
    except ImportError as error:
        print(f"ts_infer: {error}", file=sys.stderr)
        return 1
    return run()

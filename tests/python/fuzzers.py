"""Running the fuzzers of tests/fuzz."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "fuzz"
TIMEOUT_S = 300


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since it forks."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(FUZZ)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

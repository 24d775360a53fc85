"""What `#include <ts_infer/ts_infer.h>` costs a consumer's translation unit, in CPU seconds.

python python/benchmarks/include_cost.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

import ts_infer


def _cpu_seconds(source: str, include: Path) -> float:
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "unit.cpp"
        unit.write_text(source, encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            ["c++", "-std=c++17", f"-I{include}", "-c", unit, "-o", f"{folder}/unit.o"], check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measures and prints, beside two headers that everybody knows."""
    include = next(path for root in ts_infer.__path__ if (path := Path(root) / "include").exists())
    for header in ("ts_infer/ts_infer.h", "functional", "iostream"):
        seconds = [_cpu_seconds(f"#include <{header}>\n", include) for _ in range(5)]
        print(f"<{header}>".ljust(24), f"{statistics.median(seconds):.2f} s of CPU, median of 5")


if __name__ == "__main__":
    main()

"""Loads, calls, fails and destroys models for a while, and watches what the process holds.

python tests/soak.py --seconds 1800

Prints resident memory as it goes, and at the end how much more memory, file handles and threads
there are in the last quarter than in the first one. The first fifth of the time, in which
allocators grow to what they need, does not count. The exit code is 1 where something grew.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "python"))

from archives import Affine, Counter, archive_bytes

from ts_infer import ExecutionError, InputError, ModelLoadError, runtime

MIB = 2**20
ALLOWED_MIB = 8.0  # of resident memory: what an allocator's arenas vary by
CALLERS = 4


def resident_mib() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def open_files() -> int:
    """File handles of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def running_threads() -> int:
    """Of this process, those of C++ too."""
    return len(list(Path("/proc/self/task").iterdir()))


def call_in_threads(model: runtime.Model, x: torch.Tensor) -> None:
    """New threads each time: what is kept for one goes with it."""

    def call() -> None:
        for _ in range(20):
            model(x)

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def refuse(model: runtime.Model, path: Path) -> None:
    """Every kind of error."""
    for bad in ((), (1,), (torch.ones(2), 1.0, 1, 1)):
        try:
            model(*bad)
        except InputError:
            continue
        raise AssertionError(bad)
    try:
        model(torch.ones(7))
    except ExecutionError:
        pass
    else:
        raise AssertionError
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    try:
        runtime.load(bytes(damaged))
    except ModelLoadError:
        return


def step(folder: Path) -> None:
    """What an application does in its life, once."""
    x = torch.ones(2, 3)
    plain = runtime.load(folder / "affine.pt")
    counter = runtime.load((folder / "counter.pt").read_bytes())
    runtime.read_model_info(folder / "affine.pt")
    call_in_threads(plain, x)
    copy = counter.clone()
    counter(x)
    counter.run_method("reset")
    copy(x)
    plain.call_within(60_000, x)
    refuse(plain, folder / "affine.pt")


def main() -> int:
    """Runs for so many seconds; returns the exit code."""
    parser = argparse.ArgumentParser(description="Does memory stay what it is?")
    parser.add_argument("--seconds", type=float, default=120)
    seconds = parser.parse_args().seconds
    begin = time.monotonic()
    samples: list[tuple[float, float, int, int]] = []
    steps = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "affine.pt").write_bytes(archive_bytes(Affine()))
        (folder / "counter.pt").write_bytes(archive_bytes(Counter()))
        while (now := time.monotonic() - begin) < seconds:
            step(folder)
            steps += 1
            if not samples or now - samples[-1][0] > seconds / 100:
                gc.collect()
                samples.append((now, resident_mib(), open_files(), running_threads()))
                print(f"{now:7.1f} s  {steps:6} steps  {samples[-1][1]:8.1f} MiB", flush=True)
    settled = [sample for sample in samples if sample[0] > seconds / 5]
    quarter = max(1, len(settled) // 4)
    first, last = settled[:quarter], settled[-quarter:]
    memory, files, threads = (
        statistics.median(sample[i] for sample in last)
        - statistics.median(sample[i] for sample in first)
        for i in (1, 2, 3)
    )
    print(
        f"{steps} steps in {seconds:.0f} s: resident {memory:+.1f} MiB, "
        f"file handles {files:+.0f}, threads {threads:+.0f}"
    )
    return 1 if memory > ALLOWED_MIB or files > 0 or threads > 0 else 0


if __name__ == "__main__":
    sys.exit(main())

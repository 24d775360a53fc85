"""The processes of peers.py: one makes an artefact, one serves a contestant, which it loads once.

    peers_worker.py prepare MODEL ARTEFACT FOLDER       ARTEFACT "inputs": what the others read
    peers_worker.py serve CONTESTANT FOLDER THREADS STARTED

A server writes a line of JSON for its first calls, then one for each command that it reads:

    warm-up SECONDS     calls until its blocks of so many seconds are steady
    block               {"ms": of a call}
    throughput CALLERS  {"per_second": calls of so many threads}
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peers_contestants as contestants  # type: ignore[import-not-found]  # it lies beside this file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

INPUTS = "inputs"
WARM_UP_S = 1.0  # at least, and at least 5 passes over the inputs
LEAD_IN = 0.1  # of a block's length, before it and not counted: what ran before left cold caches


def make_inputs(model: Any, folder: Path) -> dict[str, Any]:
    """Writes the inputs and what is expected for them; returns what is known of the model.

    Expected is what the eager module computes, or torch.jit where that is not shipped.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    module: Any
    if model.spec:
        module = model.spec["module"]
    else:
        path = model.files[contestants.ARCHIVE]
        module = torch.jit.load(path)  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        expected = [module(*arguments) for arguments in model.inputs]
    write_arrays(folder / "inputs.npz", model.inputs)
    write_arrays(folder / "expected.npz", [flat(results) for results in expected])

    # Fused operators count as nothing.
    torch.backends.mha.set_fastpath_enabled(False)
    counter = FlopCounterMode(display=False)
    unfused = torch.backends.mkldnn.flags(enabled=False)
    with torch.no_grad(), unfused, sdpa_kernel(SDPBackend.MATH), counter:
        for arguments in model.inputs:
            module(*arguments)
    return {
        "flops": counter.get_total_flops() / len(model.inputs),
        "has_state": bool(model.files),
    }


def prepare(model_name: str, artefact: str, folder: Path) -> dict[str, Any]:
    """Makes an artefact of a model, in `folder`; returns the seconds that it took."""
    import peers_models  # type: ignore[import-not-found]
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = peers_models.MODELS[model_name]()
    if artefact == INPUTS:
        return make_inputs(model, folder)
    if artefact in model.files:
        (folder / artefact).symlink_to(model.files[artefact])
        return {"seconds": 0.0}
    path = folder / artefact.format(threads=torch.get_num_threads())
    begin = time.perf_counter()
    contestants.ARTEFACTS[artefact](model, path)
    return {"seconds": time.perf_counter() - begin}


def flat(value: Any) -> list[Any]:
    """The arrays in a result, depth first."""
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in flat(item)]
    return [value]


def write_arrays(path: Path, calls: Sequence[Sequence[Any]]) -> None:
    """Writes arrays of calls, as `read_arrays` reads them."""
    arrays = {
        f"{i:04}/{j:04}": np.asarray(array)
        for i, call in enumerate(calls)
        for j, array in enumerate(call)
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> list[list[Any]]:
    """Reads arrays of calls."""
    calls: dict[str, list[Any]] = {}
    with np.load(path) as archive:
        for name in sorted(archive):
            calls.setdefault(name.partition("/")[0], []).append(archive[name])
    return list(calls.values())


def difference(results: list[list[Any]], expected: list[list[Any]]) -> float:
    """The largest absolute difference.

    Raises:
        ValueError: The shapes differ, or there is no difference to speak of.
    """
    largest = 0.0
    for mine, theirs in zip(results, expected, strict=True):
        shapes = [array.shape for array in mine], [array.shape for array in theirs]
        if shapes[0] != shapes[1]:
            raise ValueError(f"outputs of shapes {shapes[0]} where eager has {shapes[1]}")
        for a, b in zip(mine, theirs, strict=True):
            error = float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
            if not np.isfinite(error):
                raise ValueError("outputs that are not finite")
            largest = max(largest, error)
    return largest


def resident_mib(field: str) -> float:
    """This process's memory: VmRSS is what it has now, VmHWM the most that it had."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


class Server:
    """A contestant in this process."""

    def __init__(self, name: str, folder: Path, threads: int, started: int) -> None:
        """Loads and makes the first calls; `started` is when the process was, in ns."""
        contestant = contestants.CONTESTANTS[name]
        for library in contestant.libraries:
            importlib.import_module(library)
        if "torch" in sys.modules:
            importlib.import_module("torch").set_num_threads(threads)
        arrays = [[]] if name == contestants.PEAK else read_arrays(folder / "inputs.npz")
        memory = resident_mib("VmRSS")
        begin = time.perf_counter()
        self.loaded = contestant.load(contestants.Job(folder, arrays, threads))
        load = time.perf_counter() - begin
        self.times: list[float] = []
        with self.loaded.context():
            results = [self._timed(self.loaded.inputs[0])]
            first_result = time.monotonic_ns()
            memory = resident_mib("VmRSS") - memory
            results += [self._timed(arguments) for arguments in self.loaded.inputs[1:]]
            if len(self.times) == 1:
                self._timed(self.loaded.inputs[0])
        self.first: dict[str, Any] = {
            "start_ms": (first_result - started) / 1e6,
            "load_ms": 1000 * load,
            "first_ms": self.times[0],
            "second_ms": self.times[1],
            "added_mib": memory,
            "peak_mib": resident_mib("VmHWM"),
        }
        if name != contestants.PEAK:
            expected = read_arrays(folder / "expected.npz")
            found = [[np.asarray(array) for array in flat(result)] for result in results]
            self.first["max_error"] = difference(found, expected)
        self.passes = 1
        self.seconds = 0.0

    def _timed(self, arguments: tuple[Any, ...]) -> Any:
        begin = time.perf_counter()
        result = self.loaded.call(*arguments)
        self.times.append(1000 * (time.perf_counter() - begin))
        return result

    def repeat(self, passes: int) -> None:
        """Calls with each of the inputs in turn, so many times over."""
        if self.loaded.repeat is not None:
            self.loaded.repeat(passes)
            return
        call, inputs = self.loaded.call, self.loaded.inputs
        for _ in range(passes):
            for arguments in inputs:
                call(*arguments)

    def warm_up(self, seconds: float) -> dict[str, Any]:
        """Calls until the blocks can begin, and chooses how many passes one has."""
        self.seconds = seconds
        with self.loaded.context():
            begin = time.perf_counter()
            passes = 0
            while passes < 5 or time.perf_counter() - begin < WARM_UP_S:
                self.repeat(1)
                passes += 1
            begin = time.perf_counter()
            self.repeat(passes // 2)
            took = time.perf_counter() - begin
        self.passes = max(1, round(seconds * (passes // 2) / took))
        return {"passes": self.passes}

    def block(self) -> dict[str, Any]:
        """Measures one block."""
        with self.loaded.context():
            begin = time.perf_counter()
            for arguments in self.loaded.inputs:
                self.loaded.call(*arguments)
                if time.perf_counter() - begin > LEAD_IN * self.seconds:
                    break
            begin = time.perf_counter()
            self.repeat(self.passes)
            took = time.perf_counter() - begin
        return {"ms": 1000 * took / self.passes / len(self.loaded.inputs)}

    def throughput(self, callers: int) -> dict[str, Any]:
        """Measures one block of several callers at once."""

        def work(_: int) -> None:
            with self.loaded.context():
                self.repeat(self.passes)

        if callers == 1:
            # Here: a second team of OpenMP's, of another thread, would make both slower.
            begin = time.perf_counter()
            work(0)
            took = time.perf_counter() - begin
        else:
            with ThreadPoolExecutor(callers) as pool:
                begin = time.perf_counter()
                list(pool.map(work, range(callers)))
                took = time.perf_counter() - begin
        return {"per_second": callers * self.passes * len(self.loaded.inputs) / took}


def serve(name: str, folder: Path, threads: int, started: int, replies: TextIO) -> None:
    """Serves a contestant until there are no more commands."""

    def reply(value: dict[str, Any]) -> None:
        replies.write(json.dumps(value) + "\n")
        replies.flush()

    server = Server(name, folder, threads, started)
    reply(server.first)
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "warm-up": lambda seconds: server.warm_up(float(seconds)),
        "block": server.block,
        "throughput": lambda callers: server.throughput(int(callers)),
    }
    for line in sys.stdin:
        command, *arguments = line.split()
        reply(commands[command](*arguments))


def reason(error: BaseException) -> str:
    """What was wrong first, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(re.sub("\x1b\\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {text}"[:200]


def main() -> int:
    """Does what the arguments say; an error is a reply too."""
    warnings.simplefilter("ignore")
    # What libraries print must not end up among the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    what, *arguments = sys.argv[1:]
    try:
        if what == "prepare":
            model, artefact, folder = arguments
            replies.write(json.dumps(prepare(model, artefact, Path(folder))) + "\n")
        else:
            name, folder, threads, started = arguments
            serve(name, Path(folder), int(threads), int(started), replies)
    except Exception as error:
        traceback.print_exc()
        replies.write(json.dumps({"error": reason(error)}) + "\n")
    replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

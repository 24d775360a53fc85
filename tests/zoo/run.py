"""Exports the modules of the zoo, and holds ts_infer's answers against theirs.

    pip install -r tests/zoo/requirements.txt
    python tests/zoo/run.py                        # all, a line each
    python tests/zoo/run.py timm --json zoo.json   # those whose name has "timm" in it

Each is exported in a process of its own, as its users would: by method "auto" with the full audit.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from cases import CASES, shims

import ts_infer
from ts_infer import runtime
from ts_infer._export.outputs import settled

LIMIT_S = 600


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export a module, and compare and time it; in this process."""
    shims.install()
    torch.manual_seed(0)
    model = CASES[name].make()
    path = folder / "model.pt"
    start = time.perf_counter()
    try:
        report = ts_infer.export(
            model.module,
            model.inputs,
            path,
            dynamic_shapes=model.dynamic_shapes,
            **model.options,
        )
    except ts_infer.ExportError as error:
        findings = error.report.findings if error.report else []
        first = findings[0]
        return {
            "outcome": "refused",
            "codes": [finding.code for finding in findings],
            "line": f"{first.file}:{first.line}: {first.source}" if first.line else "",
            "reason": first.message[:600],
            "advice": first.advice[:300],
            "export_s": time.perf_counter() - start,
        }
    found: dict[str, Any] = {
        "outcome": "exported",
        "method": report.method,
        "scripted": [part.name for part in report.scripted],
        "notes": report.notes,
        "export_s": time.perf_counter() - start,
        "megabytes": path.stat().st_size / 1e6,
    }
    start = time.perf_counter()
    loaded = runtime.load(path, device="cpu")
    found["load_s"] = time.perf_counter() - start
    found["decisions"] = loaded.info().decisions
    try:
        for inputs in (model.inputs, *model.others):
            _compare(model, loaded, inputs)
    except Exception as error:
        return {**found, "outcome": "wrong", "reason": f"{type(error).__name__}: {error}"[:600]}
    return {**found, **_times(model, path, loaded)}


def _call(module: Any, inputs: Any, grad: bool = False) -> Any:
    with torch.enable_grad() if grad else torch.inference_mode():
        return module(**inputs) if isinstance(inputs, dict) else module(*inputs)


def _compare(model: Any, loaded: Any, inputs: Any) -> None:
    torch.manual_seed(0)  # for modules that draw
    expected = settled(_call(model.module, copy.deepcopy(inputs), model.grad))
    torch.manual_seed(0)
    actual = _call(loaded, copy.deepcopy(inputs))
    left, right = (torch.utils._pytree.tree_leaves(value) for value in (expected, actual))
    assert len(left) == len(right), f"{len(left)} and {len(right)} results"
    for one, other in zip(left, right, strict=True):
        if isinstance(one, torch.Tensor):
            scale = float(one.abs().max()) if one.is_floating_point() and one.numel() else 0.0
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * max(scale, 1e-3))
        else:
            assert one == other, f"{one!r} and {other!r}"


def _times(model: Any, path: Path, loaded: Any) -> dict[str, float]:
    """Median seconds of a call: of the module, of torch.jit.load's, of ts_infer's, in turns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = torch.jit.load(path)  # type: ignore[no-untyped-call]
    contestants = {"eager_s": model.module, "stock_s": stock, "call_s": loaded}
    for contestant in contestants.values():
        for _ in range(3):
            _call(contestant, model.inputs, model.grad)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + 3
    while time.perf_counter() < end or len(times["call_s"]) < 3:
        for name, contestant in contestants.items():
            start = time.perf_counter()
            _call(contestant, model.inputs, model.grad)
            times[name].append(time.perf_counter() - start)
    return {name: sorted(seen)[len(seen) // 2] for name, seen in times.items()}


def child(name: str) -> None:
    """Measure one, and print it as JSON on the last line."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(name, Path(folder))
    result["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print("\n" + json.dumps(result), flush=True)
    os._exit(0)  # some packages leave threads behind


def run(name: str) -> dict[str, Any]:
    """Measure one in a process of its own."""
    command = [sys.executable, __file__, "--child", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"name": name, "outcome": "failed", "reason": f"no end after {LIMIT_S} s"}
    try:
        return {"name": name, **json.loads(done.stdout.splitlines()[-1])}
    except (IndexError, ValueError):
        return {"name": name, "outcome": "failed", "reason": (done.stderr or "no output")[-800:]}


def line(result: dict[str, Any]) -> str:
    """One result, for the terminal."""
    text = f"{result['outcome']:9}{result['name']:50}"
    if "export_s" in result:
        text += f"export {result['export_s']:6.1f} s  "
    if "call_s" in result:
        text += (
            f"{result['method']}{'+script' if result['scripted'] else ''}  "
            f"call {1e3 * result['call_s']:8.3f} ms, "
            f"stock x {result['stock_s'] / result['call_s']:.2f}, "
            f"eager x {result['eager_s'] / result['call_s']:.2f}"
        )
    if "reason" in result:
        text += (
            " ".join(result.get("codes", [])) + "\n    " + result["reason"].replace("\n", "\n    ")
        )
        if result.get("line"):
            text += "\n    at " + result["line"]
    return text


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what a case's name has in it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
    wanted = [n for n in CASES if not arguments.names or any(w in n for w in arguments.names)]
    results = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(run, wanted):
            results.append(result)
            print(line(result), flush=True)
            if arguments.json:
                Path(arguments.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    outcomes = [result["outcome"] for result in results]
    print(", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes)))


if __name__ == "__main__":
    main()

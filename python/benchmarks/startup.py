"""From the start of a process to the first result of DenseTNT: the binary against Python.

Both do the same job: load the archive, read the scene's inputs, run once, write the outputs. There
is one call only, so the binary does not warm up.
Processes alternate in one run; the figure is the median of the ratios of neighbours.

    python python/benchmarks/startup.py [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import ts_infer
from ts_infer.models import densetnt

PYTHON_JOB = """
import sys
import numpy as np
import torch
folder = sys.argv[1]
with torch.inference_mode():
    model = torch.jit.load(folder + "/model.pt")
    names = sys.argv[2:]
    outputs = model(*(torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in names))
for i, output in enumerate(outputs):
    np.save(f"{folder}/python_{i}.npy", output.numpy())
"""


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    binary = next(
        path for root in ts_infer.__path__ if (path := Path(root) / "bin" / "ts_infer").exists()
    )
    with tempfile.TemporaryDirectory() as folder:
        ts_infer.export(**densetnt.export_spec(), path=Path(folder) / "model.pt")
        inputs = densetnt.scene_to_inputs(densetnt.default_scene())
        for name, tensor in inputs.items():
            np.save(Path(folder) / f"{name}.npy", tensor.numpy())
        python = [sys.executable, "-W", "ignore", "-c", PYTHON_JOB, folder, *inputs]
        ours = [
            str(binary),
            "run",
            f"{folder}/model.pt",
            "--warmup",
            "off",
            "--quiet",
            "--output-dir",
            folder,
        ]
        for name in inputs:
            ours += ["--input", f"{name}={folder}/{name}.npy"]
        _seconds(python), _seconds(ours)
        pairs = [(_seconds(ours), _seconds(python)) for _ in range(arguments.rounds)]

    ratios = [mine / theirs for mine, theirs in pairs]
    result = {
        "binary_s": statistics.median(pair[0] for pair in pairs),
        "python_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": arguments.rounds,
    }
    print(f"ts_infer run         {result['binary_s']:.3f} s (median of {arguments.rounds})")
    print(f"Python torch.jit     {result['python_s']:.3f} s")
    spread = f"{result['ratio_min']:.3f} to {result['ratio_max']:.3f}"
    print(f"ratio                {result['ratio']:.3f} ({spread})")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

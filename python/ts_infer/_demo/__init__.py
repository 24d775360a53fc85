"""The command `ts_infer demo`: one model the whole way, from a Python module to the binary."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_infer._errors import Error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from torch import Tensor

ITERATIONS = 30
STEPS = 5

DESCRIPTION = """\
Export DenseTNT, a trajectory predictor, and run it on a generated traffic scene.

Exports the model, runs the compiled binary on the scene, measures eager Python, torch.jit in
Python and ts_infer side by side, and draws what was predicted. The weights are random: the
predictions show that the model runs, not how good it is. Everything runs on the CPU,
with one thread.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the `demo` verb takes to its parser."""
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        type=Path,
        default=Path("ts_infer_demo"),
        help="where to write; what an earlier demo left there is written over (ts_infer_demo)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the scene and of the weights (0)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Args:
        args: Parsed by a parser with `add_arguments`.

    Returns:
        The exit status, 0.

    Raises:
        Error: The folder cannot be written, or the binary failed.
    """
    folder: Path = args.output_dir
    _make_folder(folder)
    progress = _Progress()

    progress.step("Making the scene and the model (the first import of torch takes a moment)")
    import numpy as np
    import torch

    import ts_infer
    from ts_infer._demo.compare import PYTHON_WAYS, THREADS, compare, comparison_text
    from ts_infer.models import densetnt

    torch.set_num_threads(THREADS)
    scene = densetnt.generate_scene(args.seed)
    inputs = densetnt.scene_to_inputs(scene)
    densetnt.save_scene(scene, folder / "scene.json")
    (folder / "inputs").mkdir(exist_ok=True)
    for name, tensor in inputs.items():
        np.save(folder / "inputs" / f"{name}.npy", tensor.numpy())
    _say(f"{len(scene.agents)} agents, {len(scene.lanes)} pieces of lanes; the inputs:")
    for name, tensor in inputs.items():
        _say(f"  {name:20}{_dtype(tensor):9}{'x'.join(map(str, tensor.shape))}")

    progress.step("Exporting DenseTNT; the export is compared with the module at other sizes too")
    model_path = folder / "densetnt.pt"
    spec = densetnt.export_spec() | {"module": densetnt.make(args.seed)}
    report = ts_infer.export(**spec, path=model_path)
    for line in str(report).splitlines():
        _say(line)

    progress.step(f"Running the compiled binary {ITERATIONS} times on the scene; no Python in it")
    files = [f"--input={name}={folder / 'inputs' / f'{name}.npy'}" for name in inputs]
    target = [str(model_path), *files, "--device", "cpu", "--intra-op-threads", str(THREADS)]
    outputs_dir = folder / "outputs"
    _run_binary(["run", *target, "--iterations", str(ITERATIONS), "--output-dir", str(outputs_dir)])
    predicted = [np.load(outputs_dir / f"{name}.npy") for name in densetnt.OUTPUT_NAMES]

    ways = [*PYTHON_WAYS, "ts_infer binary"]
    progress.step(f"Measuring {', '.join(ways[:-1])} and the {ways[-1]} side by side")
    rows = compare(model_path, args.seed, inputs, ["bench", *target], predicted)
    for line in comparison_text(rows).splitlines():
        _say(line)

    progress.step("Drawing the scene and what the binary predicted for it")
    picture = folder / "scene.png"
    note = f"{args.seed} is the seed of the random, untrained weights"
    has_picture = _draw(scene, predicted, picture, note)

    _summary(folder, has_picture=has_picture, seconds=progress.seconds)
    return 0


class _Progress:
    """Numbers the steps and says when each began."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._step = 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def step(self, text: str) -> None:
        self._step += 1
        print(f"\n[{self._step}/{STEPS}, {self.seconds:.1f} s] {text}", flush=True)


def _say(text: str) -> None:
    print(f"  {text}".rstrip(), flush=True)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Error(
            f"[demo] {folder}: the folder cannot be written: expected one to write files to, got "
            f"{error}; choose another --output-dir"
        ) from error


def _run_binary(arguments: Sequence[str]) -> None:
    """Runs the binary with its output on ours."""
    _say("$ " + shlex.join(["ts_infer", *arguments]))
    print(flush=True)
    status = subprocess.run([sys.executable, "-m", "ts_infer", *arguments], check=False).returncode
    if status != 0:
        raise Error(f"[demo] the binary failed with exit status {status}; it says why above")


def _draw(scene: Any, outputs: Sequence[Any], path: Path, note: str) -> bool:
    """Draws the picture; where that is impossible, says so and returns False."""
    import torch

    from ts_infer.models import densetnt

    # It announces there that it builds its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    path.unlink(missing_ok=True)
    try:
        densetnt.draw(scene, [torch.from_numpy(array) for array in outputs], path, note=note)
    except ImportError as error:
        _say(f"no picture: {error}")
        return False
    _say(str(path))
    return True


def _summary(folder: Path, *, has_picture: bool, seconds: float) -> None:
    written: Mapping[str, str] = {
        "densetnt.pt": "the exported model; stock torch.jit.load opens it too",
        "scene.json": "the scene: agents, lanes, and what the target did next",
        "inputs/*.npy": "the model's four inputs",
        "outputs/*.npy": "the binary's four outputs",
        **({"scene.png": "agents, lanes, goals by score, six trajectories"} if has_picture else {}),
    }
    print(f"\nDone in {seconds:.0f} s. Written:")
    for name, what in written.items():
        _say(f"{folder / name!s:32}{what}")
    model = str(folder / "densetnt.pt")
    loading = f"runtime.load({json.dumps(model)})"  # in double quotes: the shell's are single
    program = f"from ts_infer import runtime; print({loading}.signature)"
    print("\nWhat to try next:")
    for command in (
        ["ts_infer", "inspect", model],
        ["ts_infer", "bench", model, "--shape", "vector_data=64x19x128", "--duration", "3"],
        ["python", "-c", program],
        ["ts_infer", "export", "ts_infer.models.decision_gate:export_spec", "-o", "gate.pt"],
    ):
        _say(shlex.join(command))

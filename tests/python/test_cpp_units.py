"""The C++ unit tests, built against the torch of this environment and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import ts_infer
from ts_infer.models import decision_gate, densetnt

ROOT = Path(__file__).parents[2]
LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
)


def _require_tools() -> None:
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the C++ unit tests are not built")
    if not any((Path(library) / "cmake/GTest/GTestConfig.cmake").exists() for library in LIBRARIES):
        pytest.skip("GoogleTest is not installed (Debian: libgtest-dev libgmock-dev)")
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("the sources are not here")


def _export_archives(folder: Path) -> None:
    """What the fake device must compute as the host does."""
    folder.mkdir()
    gate = {"module": decision_gate.make(), "example_inputs": decision_gate.example_inputs()}
    convolutions = {
        "module": nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(),
        "example_inputs": torch.randn(1, 3, 9, 12),
        "dynamic_shapes": {"input": {3: Dim("width", min=3, max=40)}},
    }
    specs = {"densetnt": densetnt.export_spec(), "gate": gate, "convolutions": convolutions}
    for name, spec in specs.items():
        ts_infer.export(**spec, path=folder / f"{name}.pt", audit="fast")


@pytest.mark.slow
def test_cpp_unit_tests_pass(tmp_path: Path) -> None:
    _require_tools()
    archives = tmp_path / "archives"
    _export_archives(archives)
    build = ROOT / "build" / "tests"
    environment = dict(
        os.environ,
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        TS_INFER_TEST_ARCHIVES=str(archives),
    )

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"

    run(
        "cmake",
        "--preset",
        "tests",
        f"-DTS_INFER_TORCH_DIR={Path(torch.__file__).parent}",
    )
    run("cmake", "--build", build)
    ctest = ("ctest", "--test-dir", build, "--no-tests=error", "--output-on-failure")
    run(*ctest)

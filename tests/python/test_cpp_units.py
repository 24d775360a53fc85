"""The C++ unit tests, built against the torch of this environment and run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_cpp_unit_tests_pass() -> None:
    _require_tools()
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    build = ROOT / "build" / "dev"
    environment = dict(
        os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"

    torch_dir = Path(spec.origin).parent
    run(
        "cmake",
        "--preset",
        "dev",
        f"-DTS_INFER_TORCH_DIR={torch_dir}",
        "-DTS_INFER_BUILD_BENCHMARKS=OFF",
    )
    run("cmake", "--build", build)
    # In one process each: ctest loads libtorch anew for every test.
    for tests in ("ts_infer_tests", "ts_infer_device_tests"):
        run(build / "bin" / tests, "--gtest_brief=1")
    # A mutant is late only for some milliseconds, and may live once where the machine is busy.
    run("ctest", "--test-dir", build, "-L", "mutant", "-j2", "--repeat", "until-pass:3")

"""Helpers and fixtures of the installation tests."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2]


def run(*command: str | Path) -> str:
    """Runs a command that must succeed and returns its stdout."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _find(program: str) -> str | None:
    # A virtual environment's tools, also where it is not activated.
    return shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)


@pytest.fixture(scope="session")
def cmake() -> str:
    """Path of CMake, where a compiler is there too."""
    found = _find("cmake")
    if found is None:
        pytest.skip("cmake is missing: run `pip install cmake`")
    if _find("c++") is None:
        pytest.skip("there is no C++ compiler `c++`: run `apt-get install g++`")
    if _find("ninja") is None and _find("make") is None:
        pytest.skip("ninja is missing: run `pip install ninja`")
    return found


@pytest.fixture(scope="session")
def generator() -> list[str]:
    """CMake arguments that choose ninja where it is there."""
    ninja = _find("ninja")
    return ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []


@pytest.fixture(scope="session")
def cmake_dir() -> Path:
    """What ``python -m ts_infer --cmake-dir`` prints."""
    return Path(run(sys.executable, "-m", "ts_infer", "--cmake-dir").strip())


@pytest.fixture(scope="session")
def torch_root() -> Path:
    """Folder of the torch in this environment."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent

"""Writes ts_infer/_C.pyi from the extension that is installed: run it after a change of bindings.

python python/bindings/write_stubs.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "ts_infer" / "_C.pyi"


def generate() -> str:
    """What the stub should be. Needs pybind11-stubgen and ruff."""
    with tempfile.TemporaryDirectory() as folder:
        # The extension finds torch's libraries once torch is imported.
        program = "import torch, pybind11_stubgen; pybind11_stubgen.main()"
        _run("-c", program, "ts_infer._C", "--exit-code", "-o", folder)
        stub = Path(folder) / "ts_infer" / STUB.name
        config = STUB.parents[2] / "pyproject.toml"
        for step in (["check", "--select=I,W,D200,D212", "--fix", "--unsafe-fixes"], ["format"]):
            _run("-m", "ruff", *step, "--quiet", f"--config={config}", str(stub))
        text = stub.read_text(encoding="utf-8")
    return "# Written by python/bindings/write_stubs.py.\n# ruff: noqa: N999\n" + text


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[1]} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Writes ts_infer/_C.pyi.").parse_args()
    STUB.write_text(generate(), encoding="utf-8")
    print(STUB)

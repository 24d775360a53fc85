"""python/ts_infer/_C.pyi says what the extension has."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "python" / "bindings" / "write_stubs.py"


def test_stubs_match_the_extension() -> None:
    for tool in ("pybind11_stubgen", "ruff"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed")
    script = runpy.run_path(str(SCRIPT))
    expected = script["generate"]()
    actual = script["STUB"].read_text(encoding="utf-8")
    assert actual == expected, f"run python {SCRIPT}"

"""Finds the recorded CommonRoad scenarios, which are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "TS_INFER_SCENARIOS"


def scenario_paths() -> list[Path]:
    """Returns the CommonRoad XML files; none, where there is no folder of them."""
    folder = os.environ.get(VARIABLE)
    root = Path(folder) if folder else Path(__file__).parents[3] / "shared" / "scenarios"
    return sorted(root.glob("*.xml"))


def scenario_params() -> list[object]:
    """Returns a parameter a scenario for ``parametrize``; one that skips, if there are none."""
    paths = scenario_paths()
    if not paths:
        reason = f"no recorded scenarios: set {VARIABLE} to a folder of CommonRoad files"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=path.stem) for path in paths]

"""Modules that others ship, by field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cases import audio, flows, graphs, language, molecules, robots, vision

if TYPE_CHECKING:
    from cases.case import Case

FIELDS = (vision, language, audio, robots, molecules, graphs, flows)
CASES: dict[str, Case] = {case.name: case for field in FIELDS for case in field.CASES}

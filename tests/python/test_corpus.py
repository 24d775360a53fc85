"""Over a corpus of small models: an export is right on held-out inputs, or it is refused."""

from __future__ import annotations

import copy
import io
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from archives import jit_load
from corpus import CASES
from corpus.checks import check_export, mistake

if TYPE_CHECKING:
    from pathlib import Path

    from corpus.case import Case

every_case = pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES])


def plain_trace(case: Case) -> Any:
    """What torch alone gives: traced, saved, loaded, in the module's first state."""
    inputs = copy.deepcopy(case.inputs)
    given: dict[str, Any] = {
        "example_kwarg_inputs" if isinstance(inputs, dict) else "example_inputs": inputs
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace
        traced = trace(case.build(), **given, strict=False, check_trace=False)
        traced.load_state_dict(case.build().state_dict())
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    buffer.seek(0)
    return jit_load(buffer)


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@every_case
def test_case_is_as_it_says(case: Case) -> None:
    """The bad ones are bad: a plain trace fails or is wrong on a probe. The others are right."""
    assert mistake(case, case.build) is None  # two instances are equal
    try:
        traced = plain_trace(case)
    except Exception as error:
        text: str | None = f"the trace fails: {error}"
    else:
        text = mistake(case, lambda: traced)
    assert (text is not None) == case.lies, text


@every_case
def test_export_is_right_or_refused(case: Case, tmp_path: Path) -> None:
    check_export(case, tmp_path / "model.pt")

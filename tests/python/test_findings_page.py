"""The page of findings: one section a code, and every example does what it says."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ts_infer
from ts_infer._errors import ExportError
from ts_infer._export.report import ALLOWABLE, FATAL, FINDINGS_PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CODES = [*ALLOWABLE, *FATAL]
# An example of the one would take longer than its budget, and of the other be a fault of ours.
WITHOUT_EXAMPLE = ("example-unchecked", "runtime-differs")


@dataclass(frozen=True)
class Section:
    """A heading, and the python blocks below it, joined."""

    heading: str
    code: str

    def load(self, folder: Path) -> ModuleType:
        """Run the section as a module of its own; torch.jit reads its source."""
        path = folder / f"{re.sub(r'[^a-z]', '_', self.heading.lower())}.py"
        path.write_text(self.code, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        vars(module)["path"] = folder / "model.pt"
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module


def sections() -> Iterator[Section]:
    text = Path(FINDINGS_PAGE).read_text(encoding="utf-8")
    head, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    (preamble,) = blocks(head)
    for part in parts:
        heading, body = part.split("\n", 1)
        yield Section(heading, "\n\n".join([preamble, *blocks(body)]))


def blocks(text: str) -> list[str]:
    assert text.count("```") == 2 * text.count("```python")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


SECTIONS = {section.heading: section for section in sections()}


def test_every_code_has_one_section_and_every_section_a_code() -> None:
    text = Path(FINDINGS_PAGE).read_text(encoding="utf-8")
    headings = re.findall(r"^## ([a-z]+(?:-[a-z]+)+)$", text, flags=re.MULTILINE)
    assert sorted(headings) == sorted(CODES)


def test_links_lead_to_headings() -> None:
    text = Path(FINDINGS_PAGE).read_text(encoding="utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in SECTIONS}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


@pytest.mark.parametrize("heading", [h for h in SECTIONS if h not in CODES])
@pytest.mark.filterwarnings("ignore:Converting a tensor")  # which is what it shows
def test_example_runs(heading: str, tmp_path: Path) -> None:
    SECTIONS[heading].load(tmp_path)


@pytest.mark.parametrize("code", [code for code in CODES if code not in WITHOUT_EXAMPLE])
def test_example_is_refused_with_the_code_and_the_remedy_exported(
    code: str, tmp_path: Path
) -> None:
    module = SECTIONS[code].load(tmp_path)
    lost: Any = module.lost if hasattr(module, "lost") else module.Lost().eval()
    kept: Any = module.kept if hasattr(module, "kept") else module.Kept().eval()
    path, options = tmp_path / "model.pt", getattr(module, "options", {})
    with pytest.raises(ExportError) as caught:
        ts_infer.export(lost, module.example, path, **{"method": "trace", **options})
    assert caught.value.report is not None
    assert code in {finding.code for finding in caught.value.report.findings}, str(caught.value)
    assert ts_infer.export(kept, module.example, path, **options).ok

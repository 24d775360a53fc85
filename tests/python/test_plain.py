"""What the audit makes of arguments that are no tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ts_infer
from ts_infer._export import arguments, plain
from ts_infer._export.scan import Taken

if TYPE_CHECKING:
    from pathlib import Path

    from ts_infer._export.report import ExportReport, Probe

X = torch.ones(3)


class Everything(nn.Module):
    def forward(
        self,
        x: torch.Tensor,
        flag: bool,
        count: int,
        factor: float,
        word: str,
        mask: torch.Tensor | None = None,
        some: list[int] | None = None,
    ) -> torch.Tensor:
        y = x * factor + count
        if mask is not None:
            y = y * mask
        if some is not None:
            y = y + len(some)
        if word == "negative":
            y = -y
        return y if flag else y + 1


def bound(values: Any, module: nn.Module | None = None) -> arguments.Example:
    return arguments.bind(module or Everything(), values)


def labels(made: plain.Plain) -> list[str]:
    return [variant.label for variant in (*made.alone, *made.more, *made.extremes)]


def probe(report: ExportReport, name: str) -> Probe:
    (found,) = (p for p in report.probes if p.name == name)
    return found


TAKEN = [
    Taken("x", "Tensor"),
    Taken("flag", "bool"),
    Taken("count", "int"),
    Taken("factor", "float"),
    Taken("word", "str"),
    Taken("mask", "Optional[Tensor]", has_default=True),
    Taken("some", "Optional[List[int]]", has_default=True),
]


def test_every_argument_is_varied() -> None:
    made = plain.variants_of(bound((X, False, 7, 0.5, "word")), TAKEN, [30, 0.25, "negative"])
    found = labels(made)
    assert made.skipped == []
    assert [variant.label for variant in made.alone] == [
        "flag=True",
        "count=8",
        "factor=1.5",
        "word='wordð'",
        "mask=a tensor of float32[3]",
        "some=[1]",
    ]
    for label in (
        "count=0",
        "count=-1",
        "count=30",
        "count=31",
        "factor=0.25",
        "factor=nan",
        "factor=-inf",
        "word=''",
        "word='wor'",
        "word='negative'",
        "some=[]",
        "every number, flag and string changed",
    ):
        assert label in found
    assert len(found) == len(set(found))


def test_variants_bind_what_they_change_and_leave_the_rest_out() -> None:
    made = plain.variants_of(bound((X, False, 7, 0.5, "word")), TAKEN, ())
    by_label = {v.label: v for v in (*made.alone, *made.more, *made.extremes)}
    flag = by_label["flag=True"]
    assert flag.given is not None
    assert flag.given.names == ("x", "flag", "count", "factor", "word")
    assert flag.make()[1:] == (True, 7, 0.5, "word")
    mask = by_label["mask=a tensor of float32[3]"]
    assert mask.given is not None
    assert mask.given.names == ("x", "flag", "count", "factor", "word", "mask")
    assert mask.given.call(Everything(), mask.make()).tolist() == [8.5, 8.5, 8.5]
    # Fresh at each call: a model may write into them.
    assert mask.make()[0] is not mask.make()[0]
    nan = by_label["factor=nan"]
    assert math.isnan(nan.make()[3])


def test_defaults_are_left_out_where_the_example_gives_them() -> None:
    made = plain.variants_of(bound((X, False, 7, 0.5, "word", X, [1])), TAKEN, ())
    by_label = {v.label: v for v in made.more}
    assert by_label["mask left out (its default is None)"].make()[-1] == [1]
    assert {"mask=None", "some=None", "some[0]=2"} <= set(labels(made))
    assert by_label["some left out (its default is None)"].given is not None


def test_none_is_tried_where_the_type_allows_it() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, count: int | None, sizes: list[int | None]) -> None:
            pass

    given = bound((X, 3, [1, None]), Model())
    taken = [
        Taken("x", "Tensor"),
        Taken("count", "Optional[int]"),
        Taken("sizes", "List[Optional[int]]"),
    ]
    found = labels(plain.variants_of(given, taken, ()))
    assert {"count=None", "sizes[0]=None", "sizes[0]=2", "sizes[1]=1"} <= set(found)


def test_containers_are_varied_place_by_place() -> None:
    class Model(nn.Module):
        def forward(self, nested: Any, many: list[int]) -> None:
            pass

    given = bound(({"a": (1, "b"), "c": [True, X]}, list(range(9))), Model())
    taken = [Taken("nested", "Dict[str, Any]"), Taken("many", "List[int]")]
    made = plain.variants_of(given, taken, ())
    found = [variant.label for variant in made.alone]
    assert found == [
        "nested.a[0]=2",
        "nested.a[1]='bð'",
        "nested.c[0]=False",
        "all of many changed",
        "many[0]=1",
        "many[8]=9",
    ]
    by_label = {variant.label: variant for variant in made.alone}
    assert by_label["all of many changed"].make()[1] == list(range(1, 10))
    assert by_label["nested.a[1]='bð'"].make()[0]["a"] == (1, "bð")


@pytest.mark.parametrize(
    ("kind", "index", "item"),
    [
        ("List[int]", 3, "int"),
        ("Optional[List[Optional[str]]]", 0, "Optional[str]"),
        ("Dict[str, List[int]]", 0, "List[int]"),
        ("Tuple[int, Dict[str, Tuple[int, float]], str]", 1, "Dict[str, Tuple[int, float]]"),
        ("Tuple[int, Dict[str, Tuple[int, float]], str]", 2, "str"),
        ("Any", 0, ""),
    ],
)
def test_types_of_items(kind: str, index: int, item: str) -> None:
    assert plain._type_of_item(kind, index) == item


def test_what_cannot_be_varied_is_said() -> None:
    class Model(nn.Module):
        def forward(
            self, x: torch.Tensor, dtype: torch.dtype, nothing: Any, fixed: int = 3
        ) -> torch.Tensor:
            return x

    taken = [Taken("x", "Tensor"), Taken("dtype", "int"), Taken("nothing", "Optional[Foo]")]
    made = plain.variants_of(bound((X, torch.float32, None), Model()), taken, ())
    assert labels(made) == []
    assert made.skipped == [
        "fixed is 3: the exported model does not take it",
        "dtype: a dtype is not varied",
        "nothing: is None, and no example shows a Foo for it",
    ]


def test_report_says_what_was_varied_and_what_not(tmp_path: Path) -> None:
    report = ts_infer.export(
        Everything().eval(), (X, False, 7, 0.5, "word"), tmp_path / "m.pt", method="script"
    )
    found = probe(report, "arguments")
    assert (found.outcome, found.reason) == ("passed", "")
    assert "word='negative'" in [run.inputs for run in report.runs if run.probe == "arguments"]
    assert "factor=nan" in [run.inputs for run in report.runs if run.probe == "extremes"]

    class Default(nn.Module):
        def forward(self, x: torch.Tensor, flag: bool = False) -> torch.Tensor:
            return -x if flag else x

    report = ts_infer.export(Default().eval(), X, tmp_path / "m.pt")
    found = probe(report, "arguments")
    assert found.outcome == "skipped"
    assert found.reason == "flag is False: the exported model does not take it"
    report = ts_infer.export(nn.Identity().eval(), X, tmp_path / "m.pt", audit="fast")
    assert probe(report, "arguments").reason == "every input is a tensor"


def test_what_the_module_refuses_is_no_finding(tmp_path: Path) -> None:
    class Strict(nn.Module):
        def forward(self, x: torch.Tensor, rows: int) -> torch.Tensor:
            if rows != 3:
                raise ValueError("expected 3 rows")
            return x.reshape(rows)

    report = ts_infer.export(Strict().eval(), (X, 3), tmp_path / "m.pt")
    found = probe(report, "arguments")
    assert found.outcome == "skipped"
    assert "refused by the module (rows=4: ValueError: expected 3 rows)" in found.reason


def test_fast_audit_flips_a_flag(tmp_path: Path) -> None:
    class Lost(nn.Module):
        def forward(self, x: torch.Tensor, word: str) -> torch.Tensor:
            return x * len(word)

    with pytest.raises(ts_infer.ExportError, match="on word='Normandyð': ") as caught:
        ts_infer.export(Lost().eval(), (X, "Normandy"), tmp_path / "m.pt", audit="fast")
    assert caught.value.report is not None
    (finding,) = caught.value.report.findings
    assert finding.code == "values-differ"
    assert "counts and cuts strings by their bytes" in finding.advice

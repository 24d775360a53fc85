"""Inputs in dicts, lists and tuples are held against what the archive declares, leaf by leaf."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from archives import archive_bytes
from torch import Tensor, nn
from torch.export import Dim

import ts_infer
from ts_infer import runtime
from ts_infer.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from conftest import RunBinary

B = Dim("b", min=1, max=4)
ONES = torch.ones(2, 3)


class Sensors(nn.Module):
    """A constant of the trace at the declared sizes, and beside it a plain input."""

    def forward(self, sensors: dict[str, Tensor], scale: Tensor) -> Tensor:
        imu, gps = sensors["imu"], sensors["gps"]
        imu = imu * 2 if imu.shape[0] > 6 else imu * 3
        return (imu + gps) * scale


SENSORS = ({"imu": ONES, "gps": torch.ones(3)}, torch.ones(2, 1))
SENSOR_SHAPES = {"sensors": {"imu": {0: B}}, "scale": {0: B}}


class Clips(nn.Module):
    def forward(self, clips: list[Tensor]) -> Tensor:
        return clips[0] + clips[1]


class SumOfList(nn.Module):
    def forward(self, clips: list[Tensor]) -> Tensor:
        total = torch.zeros(3)
        for clip in clips:
            total = total + clip.sum(0)
        return total


class SumOfDict(nn.Module):
    def forward(self, parts: dict[str, Tensor]) -> Tensor:
        total = torch.zeros(3)
        for part in parts.values():
            total = total + part
        return total


class Masked(nn.Module):
    """One key that must be there, one that the example has and need not, one that it has not."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"]
        if "mask" in batch:
            x = x * batch["mask"]
        if "bias" in batch:
            x = x + batch["bias"]
        return x


class Deep(nn.Module):
    def forward(self, tree: dict[str, list[tuple[Tensor, Tensor]]], x: Tensor) -> Tensor:
        left, right = tree["a"][1]
        return tree["a"][0][0] + left * right + x


class IntKeys(nn.Module):
    def forward(self, table: dict[int, Tensor]) -> Tensor:
        return table[3] + table[-1]


class OddKeys(nn.Module):
    def forward(self, table: dict[str, Tensor]) -> Tensor:
        return table["a.b"] + table["größe"] + table['say "x"'] + table[""]


# As a class its annotations would be strings here, which TorchScript does not resolve.
Point = NamedTuple("Point", [("x", Tensor), ("y", Tensor)])  # noqa: UP014


class Points(nn.Module):
    def forward(self, p: Point, rest: list[Point]) -> Tensor:
        total = p.x + p.y
        for point in rest:
            total = total + point.x * point.y
        return total


class MaybeList(nn.Module):
    def forward(self, x: Tensor, extra: list[Tensor] | None = None) -> Tensor:
        if extra is not None:
            for tensor in extra:
                x = x + tensor
        return x


class MixedTuple(nn.Module):
    def forward(self, pair: tuple[int, Tensor], sizes: list[int]) -> Tensor:
        return pair[1] * pair[0] + len(sizes)


def export(
    module: nn.Module, inputs: Any, path: Path, shapes: Any = None, **options: Any
) -> dict[str, Any]:
    """Exports, and returns the manifest."""
    options = {"audit": "fast", **options}
    ts_infer.export(module.eval(), inputs, path, dynamic_shapes=shapes, **options)
    return manifest_of(path)


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("ts_infer/manifest.json"))
        found: dict[str, Any] = json.loads(archive.read(name))
        return found


def leaf_names(model: runtime.Model, argument: int = 0) -> list[str]:
    return [leaf.name for leaf in model.signature.inputs[argument].leaves]


def refuses(model: runtime.Model, *arguments: Any, what: str, **named: Any) -> None:
    with pytest.raises(ts_infer.InputError) as caught:
        model(*arguments, **named)
    assert what in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sensors") / "model.pt"
    export(Sensors(), SENSORS, path, SENSOR_SHAPES, audit="full")
    return path


# What the manifest says.


def test_manifest_describes_each_leaf(sensors: Path) -> None:
    b = {"name": "b", "min": 1, "max": 4}
    assert manifest_of(sensors)["schema"] == 1
    assert manifest_of(sensors)["inputs"] == [
        {
            "name": "sensors",
            "type": "Dict[str, Tensor]",
            "leaves": [
                {"name": "sensors.imu", "type": "Tensor", "dtype": "float32", "shape": [b, 3]},
                {"name": "sensors.gps", "type": "Tensor", "dtype": "float32", "shape": [3]},
            ],
            "any_length": False,
            "any_keys": False,
        },
        {"name": "scale", "type": "Tensor", "dtype": "float32", "shape": [b, 1]},
    ]
    assert manifest_of(sensors)["warmup_shapes"] == [
        {"sensors.imu": [4, 3], "sensors.gps": [3], "scale": [4, 1]},
        {"sensors.imu": [1, 3], "sensors.gps": [3], "scale": [1, 1]},
    ]


def test_signature_has_a_line_for_each_leaf(sensors: Path) -> None:
    text = str(runtime.load(sensors, device="cpu").signature)
    assert "  sensors: Dict[str, Tensor]\n    sensors.imu: float32[b=1..4, 3]\n" in text
    assert "    sensors.gps: float32[3]\n  scale: float32[b=1..4, 1]\n" in text
    info = runtime.read_model_info(sensors)
    assert info.signature is not None
    leaves = info.signature.inputs[0].leaves
    assert [leaf.name for leaf in leaves] == ["sensors.imu", "sensors.gps"]
    assert leaves[0].dtype is torch.float32
    assert leaves[0].shape is not None
    assert leaves[0].shape[0].max == 4


# What is refused.


@pytest.mark.parametrize(
    ("given", "scale", "what"),
    [
        (
            {"imu": torch.ones(8, 3), "gps": torch.ones(3)},
            torch.ones(8, 1),
            '"sensors.imu": dimension 0: expected 1 or more and at most 4 (b), got 8',
        ),
        (
            {"imu": ONES, "gps": torch.ones(4)},
            torch.ones(2, 1),
            '"sensors.gps": dimension 0: expected 3, got 4',
        ),
        (
            {"imu": ONES.double(), "gps": torch.ones(3)},
            torch.ones(2, 1),
            '"sensors.imu": dtype: expected float32, got float64',
        ),
        (
            {"imu": torch.ones(3), "gps": torch.ones(3)},
            torch.ones(2, 1),
            '"sensors.imu": rank: expected 2, got 1',
        ),
        (
            {"imu": ONES, "gps": torch.ones(3)},
            torch.ones(3, 1),
            '"scale": dimension 0: expected 2, as "b" is elsewhere in this call, got 3',
        ),
        (
            {"imu": ONES},
            torch.ones(2, 1),
            '"sensors.gps": expected a value, got a dict without this key',
        ),
        (
            {"imu": ONES, "gsp": torch.ones(3)},
            torch.ones(2, 1),
            '"sensors.gsp": expected one of sensors.imu, sensors.gps, got an unknown key',
        ),
        (
            {"imu": ONES, "gps": torch.ones(3), "lidar": ONES},
            torch.ones(2, 1),
            '"sensors.lidar": expected one of ',
        ),
        (
            {"imu": ONES, "gps": 3},
            torch.ones(2, 1),
            '"sensors.gps": expected Tensor, got int',
        ),
    ],
)
def test_what_is_not_as_declared_is_an_input_error(
    given: Any, scale: Tensor, what: str, sensors: Path
) -> None:
    model = runtime.load(sensors, device="cpu")
    expected = Sensors()(*SENSORS)
    for arguments, named in (((given, scale), {}), ((), {"sensors": given, "scale": scale})):
        refuses(model, *arguments, what=f"input {what}", **named)
        torch.testing.assert_close(model(*SENSORS), expected)


def test_every_declared_size_is_right(sensors: Path) -> None:
    model = runtime.load(sensors, device="cpu")
    for rows in (1, 2, 4):
        given = ({"gps": torch.randn(3), "imu": torch.randn(rows, 3)}, torch.randn(rows, 1))
        torch.testing.assert_close(model(*given), Sensors()(*given))


@pytest.mark.parametrize("method", ["trace", "script"])
def test_code_that_names_the_elements_fixes_their_number(method: str, path: Path) -> None:
    export(Clips(), ([ONES, ONES * 2],), path, method=method)
    model = runtime.load(path, device="cpu")
    assert leaf_names(model) == ["clips[0]", "clips[1]"]
    torch.testing.assert_close(model([ONES, ONES]), ONES * 2)
    refuses(model, [ONES, ONES, ONES], what='input "clips": expected 2 elements, got 3')
    refuses(model, [ONES], what='input "clips": expected 2 elements, got 1')
    refuses(model, [ONES, torch.ones(3, 3)], what='input "clips[1]": dimension 0: expected 2')


def test_scripted_code_that_goes_over_a_list_takes_any_length(path: Path) -> None:
    shapes = {"clips": [{0: B}, {0: B}]}
    export(SumOfList(), ([ONES, ONES],), path, shapes, method="script")
    model = runtime.load(path, device="cpu")
    assert "clips: List[Tensor] (any length)" in str(model.signature)
    for count in (0, 1, 2, 5):
        clips = [torch.randn(3, 3) for _ in range(count)]
        torch.testing.assert_close(model(clips), SumOfList()(clips))
    # What the example does not have is as what it has.
    refuses(model, [ONES] * 3 + [ONES.double()], what='input "clips[3]": dtype: expected float32')
    refuses(model, [ONES] * 2 + [torch.ones(5, 3)], what='input "clips[2]": dimension 0')
    refuses(model, [ONES] * 2 + [torch.ones(3, 3)], what='"clips[2]": dimension 0: expected 2, as')


def test_elements_of_sizes_of_their_own_may_be_followed_by_such(path: Path) -> None:
    shapes = {"clips": [{0: Dim("first", max=9)}, {0: Dim("second", max=9)}]}
    export(SumOfList(), ([ONES, torch.ones(5, 3)],), path, shapes, method="script")
    model = runtime.load(path, device="cpu")
    clips = [torch.randn(rows, 3) for rows in (1, 9, 4, 3)]
    torch.testing.assert_close(model(clips), SumOfList()(clips))
    refuses(model, [*clips, torch.ones(10, 3)], what='input "clips[4]": dimension 0')


def test_scripted_code_that_goes_over_a_dict_takes_any_keys(path: Path) -> None:
    export(SumOfDict(), ({"a": torch.ones(3), "b": torch.ones(3)},), path, audit="full")
    model = runtime.load(path, device="cpu")
    assert model.signature.inputs[0].any_keys
    for keys in ("", "a", "xyz"):
        parts = {key: torch.randn(3) for key in keys}
        torch.testing.assert_close(model(parts), SumOfDict()(parts))
    refuses(model, {"z": torch.ones(4)}, what='input "parts.z": dimension 0: expected 3, got 4')


def test_keys_that_scripted_code_asks_for_need_not_be_there(path: Path) -> None:
    example = {"x": ONES, "mask": torch.ones(3)}
    export(Masked(), (example,), path, method="script")
    model = runtime.load(path, device="cpu")
    assert [(leaf.name, leaf.has_default) for leaf in model.signature.inputs[0].leaves] == [
        ("batch.x", False),
        ("batch.mask", True),
        ("batch.bias", True),
    ]
    for batch in (example, {"x": ONES}, {"x": ONES, "bias": ONES}):
        torch.testing.assert_close(model(batch), Masked()(batch))
    refuses(model, {"mask": ONES}, what='input "batch.mask": rank')
    refuses(model, {"mask": torch.ones(3)}, what='input "batch.x": expected a value')
    refuses(model, {"x": ONES, "bios": ONES}, what='input "batch.bios": expected one of ')


def test_leaves_two_deep_share_dims_with_plain_inputs(path: Path) -> None:
    tree = {"a": [(ONES, ONES), (ONES, ONES)]}
    shapes = {"tree": {"a": [({0: B}, {0: B}), ({0: B}, {0: B})]}, "x": {0: B}}
    export(Deep(), (tree, ONES), path, shapes, audit="full")
    model = runtime.load(path, device="cpu")
    assert leaf_names(model) == ["tree.a[0][0]", "tree.a[0][1]", "tree.a[1][0]", "tree.a[1][1]"]

    def made(*rows: int) -> tuple[Any, Tensor]:
        given = [torch.randn(count, 3) for count in rows]
        return {"a": [(given[0], given[1]), (given[2], given[3])]}, given[4]

    for rows in (1, 4):
        given = made(*[rows] * 5)
        torch.testing.assert_close(model(*given), Deep()(*given))
    refuses(model, *made(3, 3, 3, 2, 3), what='input "tree.a[1][1]": dimension 0: expected 3, as')
    refuses(model, *made(3, 3, 3, 3, 4), what='input "x": dimension 0: expected 3, as')
    refuses(model, {"a": [(ONES, ONES)]}, ONES, what='input "tree.a": expected 2 elements, got 1')
    refuses(model, {"a": [(ONES, ONES), (ONES,)]}, ONES, what='input "tree.a[1]": expected Tuple')
    refuses(model, {"a": [], "b": []}, ONES, what='input "tree.a": expected 2 elements, got 0')


@pytest.mark.parametrize("method", ["trace", "script"])
def test_keys_that_are_no_strings(method: str, path: Path) -> None:
    export(IntKeys(), ({3: ONES, -1: ONES},), path, method=method)
    model = runtime.load(path, device="cpu")
    assert leaf_names(model) == ["table[3]", "table[-1]"]
    torch.testing.assert_close(model({-1: ONES, 3: ONES}), ONES * 2)
    refuses(model, {3: ONES}, what='input "table[-1]": expected a value')
    refuses(model, {3: ONES, -1: ONES, 0: ONES}, what='input "table[0]": expected one of ')
    refuses(model, {3: ONES[0], -1: ONES}, what='input "table[3]": rank')


def test_keys_that_a_path_could_not_hold(path: Path) -> None:
    table = {"a.b": ONES, "größe": ONES, 'say "x"': ONES, "": ONES}
    export(OddKeys(), (table,), path)
    model = runtime.load(path, device="cpu")
    names = ['table["a.b"]', "table.größe", r'table["say \"x\""]', 'table[""]']
    assert leaf_names(model) == names
    torch.testing.assert_close(model(table), ONES * 4)
    for name, key in zip(names, table, strict=True):
        refuses(model, {**table, key: ONES[0]}, what=f'input "{name}": rank')


def test_fields_of_named_tuples(path: Path) -> None:
    export(Points(), (Point(ONES, ONES), [Point(ONES, ONES)]), path, method="script")
    model = runtime.load(path, device="cpu")
    assert leaf_names(model) == ["p.x", "p.y"]
    assert leaf_names(model, 1) == ["rest[0].x", "rest[0].y"]
    given = (Point(ONES, ONES), [(ONES, ONES)] * 3)
    torch.testing.assert_close(model(*given), ONES * 5)
    refuses(model, Point(ONES, ONES[0]), [], what='input "p.y": rank')
    bad = [Point(ONES, ONES), Point(ONES, ONES[0])]
    refuses(model, Point(ONES, ONES), bad, what='input "rest[1].y": rank: expected 2, got 1')
    refuses(model, Point(ONES, 3), [], what='input "p.y": expected Tensor, got int')  # type: ignore[arg-type]


def test_a_container_that_need_not_be_there(path: Path) -> None:
    export(MaybeList(), (ONES, [ONES]), path, method="script")
    model = runtime.load(path, device="cpu")
    for extra in (None, [], [ONES], [ONES, ONES]):
        torch.testing.assert_close(model(ONES, extra), MaybeList()(ONES, extra))
    torch.testing.assert_close(model(ONES), ONES)
    refuses(model, ONES, [ONES[0]], what='input "extra[0]": rank: expected 2, got 1')


def test_a_tensor_that_need_not_be_there_is_held_too(path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
            return x if scale is None else x * scale

    shapes = {"x": {0: B}, "scale": {0: B}}
    export(Scaled(), (ONES, ONES), path, shapes, method="script")
    model = runtime.load(path, device="cpu")
    torch.testing.assert_close(model(ONES), ONES)
    torch.testing.assert_close(model(ONES, None), ONES)
    refuses(model, ONES, torch.ones(3, 3), what='input "scale": dimension 0: expected 2, as "b"')
    refuses(model, ONES, ONES.double(), what='input "scale": dtype')


def test_what_an_empty_example_does_not_say_is_not_checked(path: Path) -> None:
    export(SumOfList(), ([],), path, method="script")
    model = runtime.load(path, device="cpu")
    assert leaf_names(model) == []
    torch.testing.assert_close(model([ONES, ONES]), torch.full((3,), 4.0))


def test_what_is_no_tensor_stands_beside_the_leaves_that_are(path: Path) -> None:
    found = export(MixedTuple(), ((2, ONES), [1, 2]), path, method="script")
    assert found["inputs"][0]["leaves"] == [
        {"name": "pair[0]", "type": "int"},
        {"name": "pair[1]", "type": "Tensor", "dtype": "float32", "shape": [2, 3]},
    ]
    assert found["inputs"][1] == {"name": "sizes", "type": "List[int]"}
    model = runtime.load(path, device="cpu")
    torch.testing.assert_close(model((3, ONES), [1]), ONES * 4)
    refuses(model, (3, ONES[0]), [1], what='input "pair[1]": rank')
    refuses(model, (3.5, ONES), [1], what='input "pair[0]": expected int')


# Files of before, and files that are wrong.


def with_manifest(source: Path, target: Path, document: Mapping[str, Any]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith("ts_infer/manifest.json"):
                data = json.dumps(document).encode()
            new.writestr(member, data)
    return target


def test_a_manifest_without_leaves_is_read_as_before(sensors: Path, tmp_path: Path) -> None:
    document = manifest_of(sensors)
    document["inputs"][0] = {"name": "sensors", "type": "Dict[str, Tensor]"}
    document["warmup_shapes"] = []
    model = runtime.load(with_manifest(sensors, tmp_path / "old.pt", document), device="cpu")
    assert model.signature.inputs[0].leaves == []
    given = ({"imu": torch.ones(8, 3), "gps": torch.ones(3)}, torch.ones(2, 1))
    assert model({**given[0], "more": ONES}, torch.ones(1, 1)).shape == (8, 3)


@pytest.mark.parametrize(
    "names",
    [
        ["sensors[0]"],
        ["other.imu"],
        ["sensors.imu", "sensors.imu"],
        ["sensors.imu", "sensors.imu.x"],
        ["sensors"] * 2,
        ["sensors."],
        ['sensors["imu'],
        ["sensors[imu]"],
        ["sensors.imu[999999999999]"],
        ["sensors[{}]"],
        [""],
    ],
)
def test_paths_that_do_not_fit_are_a_load_error(
    names: list[str], sensors: Path, tmp_path: Path
) -> None:
    document = manifest_of(sensors)
    document["inputs"][0]["leaves"] = [{"name": name} for name in names]
    path = with_manifest(sensors, tmp_path / "wrong.pt", document)
    with pytest.raises(ts_infer.ModelLoadError, match="its manifest describes the input"):
        runtime.load(path, device="cpu")


def test_a_list_with_a_gap_is_a_load_error() -> None:
    manifest = {
        "schema": 1,
        "name": "m",
        "inputs": [{"name": "clips", "leaves": [{"name": "clips[1]"}, {"name": "clips[0]"}]}],
    }
    with pytest.raises(ts_infer.ModelLoadError, match=r"the input clips\[1\]"):
        runtime.load(archive_bytes(Clips(), manifest), device="cpu")


# The export's options.


def test_dims_and_warm_up_shapes_by_path(path: Path) -> None:
    found = export(
        Sensors(),
        SENSORS,
        path,
        {"sensors.imu": {0: B}, "scale": {0: B}},
        warmup_shapes=[{"sensors.imu": [3, 3], "sensors.gps": [3], "scale": [3, 1]}],
    )
    assert found["inputs"][0]["leaves"][0]["shape"][0] == {"name": "b", "min": 1, "max": 4}
    assert found["warmup_shapes"] == [{"sensors.imu": [3, 3], "sensors.gps": [3], "scale": [3, 1]}]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"dynamic_shapes": {"sensors.img": {0: B}}},
            r"sensors\.gps, got sensors\.img",
        ),
        ({"dynamic_shapes": {"sensors": {"imu": {5: B}}}}, r"sensors\.imu: expected a dim from 0"),
        ({"warmup_shapes": [{"scale": [2, 1]}]}, r"expected the shapes of sensors\.imu, sensors"),
        (
            {"warmup_shapes": [{"sensors.imu": [2, 9], "sensors.gps": [3], "scale": [2, 1]}]},
            r"sensors\.imu: expected the example's shape",
        ),
    ],
)
def test_options_that_do_not_fit_name_the_path(
    options: dict[str, Any], what: str, path: Path
) -> None:
    with pytest.raises(ValueError, match=what):
        ts_infer.export(Sensors().eval(), SENSORS, path, audit="fast", **options)


def test_audit_of_the_archive_runs_its_declared_sizes(sensors: Path) -> None:
    report = ts_infer.audit(sensors)
    sizes = [run.inputs for run in report.runs if run.probe == "sizes"]
    assert "b=4" in sizes
    assert "sensors.imu, dim 1: 4 instead of 3" in sizes


def test_audit_takes_leaves_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stock.pt"
    path.write_bytes(archive_bytes(Deep()))
    for name in ("left", "right"):
        np.save(tmp_path / f"{name}.npy", np.ones((2, 3), np.float32))
    names = ["tree.a[0][0]", "tree.a[0][1]", "tree.a[1][0]", "tree.a[1][1]", "x"]
    files = [f"--input={name}={tmp_path}/left.npy" for name in names]
    assert main(["audit", str(path), *files]) == 0
    assert "inputs: those that were given" in capsys.readouterr().out
    assert main(["audit", str(path), *files[1:]]) == 1
    assert "tree.a[0]: expected all parts of a Tuple[Tensor, Tensor]" in capsys.readouterr().err


# Warm-up and golden sample.


def test_load_warms_up_the_corners(sensors: Path) -> None:
    info = runtime.load(sensors, device="cpu").info()
    shapes = [step.shapes for step in info.load_steps if step.name == "warm-up"]
    assert shapes == [
        {"sensors.imu": [4, 3], "sensors.gps": [3], "scale": [4, 1]},
        {"sensors.imu": [1, 3], "sensors.gps": [3], "scale": [1, 1]},
    ]
    given = [{"sensors.imu": [3, 3], "scale": [3, 1]}]
    info = runtime.load(sensors, device="cpu", warmup_shapes=given).info()
    assert [step.shapes for step in info.load_steps if step.name == "warm-up"] == given
    with pytest.raises(ts_infer.ModelLoadError, match=r"expected one of sensors\.imu, "):
        runtime.load(sensors, device="cpu", warmup_shapes=[{"sensors": [3, 3]}])


def test_warm_up_takes_the_values_of_the_golden_sample(path: Path) -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, words: dict[str, list[Tensor]]) -> Tensor:
            rows: Tensor = self.table(words["a"][0] - 90)
            return rows + words["a"][1]

    n = Dim("n", min=1, max=8)
    words = {"a": [torch.full((3,), 95), torch.ones(3, 4)]}
    export(Lookup(), (words,), path, {"words": {"a": [{0: n}, {0: n}]}})
    info = runtime.load(path, device="cpu").info()
    shapes = [step.shapes for step in info.load_steps if step.name == "warm-up"]
    assert shapes[0] == {"words.a[0]": [8], "words.a[1]": [8, 4]}
    assert runtime.verify(path, device="cpu").ok


# The binary.


def test_binary_takes_files_and_shapes_of_leaves(
    sensors: Path, ts_infer: RunBinary, tmp_path: Path
) -> None:
    imu, gps = np.full((3, 3), 2, np.float32), np.arange(3, dtype=np.float32)
    scale = np.full((3, 1), 10, np.float32)
    for name, array in (("imu", imu), ("gps", gps), ("scale", scale)):
        np.save(tmp_path / f"{name}.npy", array)
    files = ["--input", "sensors.imu=imu.npy", "--input", "sensors.gps=gps.npy"]
    result = ts_infer("run", sensors, *files, "--input", "scale=scale.npy", "--json", "-")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    (output,) = document["outputs"]
    assert output["values"] == pytest.approx(((imu * 3 + gps) * scale).ravel().tolist())
    assert [(entry["name"], entry["source"]) for entry in document["inputs"]] == [
        ("sensors.imu", "imu.npy"),
        ("sensors.gps", "gps.npy"),
        ("scale", "scale.npy"),
    ]
    leaves = document["model"]["signature"]["inputs"][0]["leaves"]
    assert [leaf["name"] for leaf in leaves] == ["sensors.imu", "sensors.gps"]

    result = ts_infer(
        "run", sensors, "--input", "sensors.gps=gps.npy", "--shape", "sensors.imu=3x3"
    )
    assert result.returncode == 0, result.stderr
    assert "input sensors.imu is random: float32 3x3, seed 0" in result.stderr
    assert "input scale is random: float32 3x1, seed 0" in result.stderr
    assert "sensors.gps is random" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--shape", "sensors.imu=8x3"], 'input "sensors.imu": dimension 0: expected 1 or more'),
        (
            ["--shape", "sensors=1x3"],
            "no input 'sensors': expected one of sensors.imu, sen",
        ),
        (["--shape", "sensors.imu=3"], "the shape given for 'sensors.imu': expected 2 dimensions"),
        (["--input", "sensors.gps=gps.npy"], 'input "sensors.gps": dtype: expected float32'),
        (["--input", "sensors.gsp=gps.npy"], "no input 'sensors.gsp'"),
    ],
)
def test_binary_names_the_leaf_that_is_wrong(
    arguments: list[str], what: str, sensors: Path, ts_infer: RunBinary, tmp_path: Path
) -> None:
    np.save(tmp_path / "gps.npy", np.arange(3.0))
    result = ts_infer("run", sensors, *arguments)
    assert result.returncode == 4
    assert what in result.stderr


def test_binary_measures_verifies_and_inspects(sensors: Path, ts_infer: RunBinary) -> None:
    result = ts_infer("bench", sensors, "--duration", "0.1", "--shape", "sensors.imu=2x3")
    assert result.returncode == 0, result.stderr
    assert ts_infer("verify", sensors).returncode == 0
    result = ts_infer("coldstart", sensors, "--calls", "3", "--json", "-")
    assert result.returncode == 0, result.stderr
    shapes = [call["shapes"] for run in json.loads(result.stdout)["runs"] for call in run["calls"]]
    assert all(set(each) == {"sensors.imu", "sensors.gps", "scale"} for each in shapes)
    result = ts_infer("inspect", sensors)
    assert "    sensors.imu: float32[b=1..4, 3]\n" in result.stdout
    document = json.loads(ts_infer("inspect", sensors, "--json", "-").stdout)
    leaf = document["signature"]["inputs"][0]["leaves"][0]
    assert leaf["shape"] == [{"name": "b", "min": 1, "max": 4}, 3]


def test_binary_draws_leaves_without_a_golden_sample(path: Path, ts_infer: RunBinary) -> None:
    class Noisy(nn.Module):
        def forward(self, parts: dict[int, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
            return parts[1][0] + parts[1][1] + x + torch.rand(3)

    found = export(
        Noisy(), ({1: (ONES, torch.ones(3))}, ONES), path, {"x": {0: B}, "parts[1][0]": {0: B}}
    )
    assert "golden" not in found
    result = ts_infer("run", path, "--shape", "x=2x3")
    assert result.returncode == 0, result.stderr
    assert "input parts[1][0] is random: float32 2x3" in result.stderr
    steps = runtime.load(path, device="cpu").info().load_steps
    shapes_run = [step.shapes for step in steps if step.name == "warm-up"]
    assert shapes_run[0] == {"parts[1][0]": [4, 3], "parts[1][1]": [3], "x": [4, 3]}

"""DenseTNT: what it computes, and that the hybrid export computes the same on every scene."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import types
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scenarios import scenario_params
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from ts_infer.models import densetnt
from ts_infer.models.densetnt import goals, layers
from ts_infer.models.densetnt import model as model_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ts_infer.models.densetnt.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # they are deprecated

TOLERANCE = {torch.float32: 1e-5}  # of an export against eager, absolute
Outputs = tuple[Tensor, ...]


# Scenes. Each name stands for a size or an edge that an export could get wrong.


def one_agent() -> Scene:
    scene = densetnt.default_scene()
    return dataclasses.replace(scene, agents=(scene.target,))


def one_lane() -> Scene:
    scene = densetnt.default_scene()
    return dataclasses.replace(scene, lanes=scene.lanes[:1])


def one_vector() -> Scene:
    scene = one_agent()
    lane = dataclasses.replace(scene.lanes[0], points=scene.lanes[0].points[:2])
    return dataclasses.replace(scene, lanes=(lane,))


def long_vectors() -> Scene:
    """Lanes with a point every 7.5 m: cut into eight, where the others are cut into three."""
    scene = densetnt.default_scene()
    lanes = [dataclasses.replace(lane, points=lane.points[::3]) for lane in scene.lanes]
    return dataclasses.replace(scene, lanes=tuple(lane for lane in lanes if len(lane.points) > 1))


def short_vectors() -> Scene:
    """Lanes with a point every few centimetres: cut into one, and most points are merged."""
    scene = densetnt.default_scene()
    lanes = [
        dataclasses.replace(lane, points=tuple((0.002 * x, 0.002 * y) for x, y in lane.points))
        for lane in scene.lanes
    ]
    return dataclasses.replace(scene, lanes=tuple(lanes))


SCENES: dict[str, Callable[[], Scene]] = {
    "default": densetnt.default_scene,
    "dense traffic": lambda: densetnt.generate_scene(1, headway_m=14.0),
    "sparse traffic": lambda: densetnt.generate_scene(3, headway_m=60.0),
    "short history": lambda: densetnt.generate_scene(4, history_steps=5),
    "small map": lambda: densetnt.generate_scene(5, radius_m=15.0),
    "one agent": one_agent,
    "one lane": one_lane,
    "one vector": one_vector,
    "long vectors": long_vectors,
    "short vectors": short_vectors,
}


def ordered_inputs(scene: Scene, **padding: int) -> tuple[Tensor, ...]:
    inputs = densetnt.scene_to_inputs(scene, **padding)
    return tuple(inputs[name] for name in densetnt.INPUT_NAMES)


def trace(model: nn.Module) -> torch.jit.ScriptModule:
    """Traces on the default scene; any TracerWarning is an error."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", TracerWarning)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            model, ordered_inputs(densetnt.default_scene()), strict=False, check_trace=False
        )
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def assert_same(actual: Outputs, expected: Outputs) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=TOLERANCE[e.dtype], equal_nan=True)


@pytest.fixture(scope="module")
def model() -> densetnt.DenseTNT:
    return densetnt.make()


@pytest.fixture(scope="module", params=["set", "nms"])
def head(request: pytest.FixtureRequest) -> tuple[densetnt.DenseTNT, torch.jit.ScriptModule]:
    """The model with either way to choose its goals, and its trace."""
    made = densetnt.make(config=densetnt.DenseTNTConfig(goal_head=request.param))
    return made, trace(made)


# The export.


@pytest.mark.parametrize("name", SCENES)
def test_trace_is_exact_when_scene_is(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule], name: str
) -> None:
    model, traced = head
    inputs = ordered_inputs(SCENES[name]())
    assert_same(traced(*inputs), model(*inputs))


@pytest.mark.parametrize("path", scenario_params())
def test_trace_is_exact_on_recorded_scene(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule], path: Path
) -> None:
    pytest.importorskip("commonroad", reason="reading recorded scenes needs commonroad-io")
    model, traced = head
    inputs = ordered_inputs(densetnt.read_commonroad(path))
    assert_same(traced(*inputs), model(*inputs))


def test_frozen_archive_is_exact_on_other_sizes(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule],
) -> None:
    model, traced = head
    archive = io.BytesIO()
    torch.jit.save(torch.jit.freeze(traced), archive)
    archive.seek(0)
    loaded = torch.jit.load(archive)  # type: ignore[no-untyped-call]
    for name in ("default", "one lane", "sparse traffic"):
        inputs = ordered_inputs(SCENES[name]())
        assert_same(loaded(*inputs), model(*inputs))


def test_trace_is_exact_when_one_lane_is_kept() -> None:
    model = densetnt.make(config=densetnt.DenseTNTConfig(lane_probability=1e-9))
    traced = trace(model)
    for name in ("default", "one lane"):
        inputs = ordered_inputs(SCENES[name]())
        assert_same(traced(*inputs), model(*inputs))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4, math.nan, math.inf])
@pytest.mark.parametrize("size", [(2, 2), (7, 3), (40, 21)])
def test_trace_is_exact_on_meaningless_values(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule], size: tuple[int, int], value: float
) -> None:
    model, traced = head
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(*size, 128, generator=generator) * value
    masks = [torch.rand(s, generator=generator) < 0.5 for s in (size, size[:1], size[:1])]
    assert_same(traced(data, *masks), model(data, *masks))


def test_trace_keeps_branches_and_loops(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule],
) -> None:
    graph = str(head[1].inlined_graph)
    assert graph.count("prim::If") >= 3
    assert graph.count("prim::Loop") >= 2


def test_trace_names_no_device(head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule]) -> None:
    assert '"cpu"' not in str(head[1].inlined_graph)


def test_trace_without_scripted_functions_is_wrong(
    model: densetnt.DenseTNT, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert goals.__file__ is not None
    spec = importlib.util.spec_from_file_location("plain_goals", goals.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "script", lambda function: function)
        spec.loader.exec_module(plain)
    inputs = ordered_inputs(one_lane())
    expected = model(*inputs)

    monkeypatch.setattr(model_module, "goals", plain)
    assert_same(model(*inputs), expected)
    with torch.no_grad(), pytest.warns(TracerWarning):
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            model, ordered_inputs(densetnt.default_scene()), strict=False, check_trace=False
        )
    try:
        actual = traced(*inputs)
    except RuntimeError:
        return  # Loud is fine; silently equal would mean that the scripted functions do nothing.
    assert actual[2].shape != expected[2].shape or not torch.allclose(actual[0], expected[0])


def test_export_spec_fits_the_module() -> None:
    spec = densetnt.export_spec()
    assert spec["method"] == "hybrid"
    assert tuple(spec["dynamic_shapes"]) == densetnt.INPUT_NAMES
    assert spec["output_names"] == list(densetnt.OUTPUT_NAMES)
    for name, value in zip(densetnt.INPUT_NAMES, spec["example_inputs"], strict=True):
        for dim, symbol in spec["dynamic_shapes"][name].items():
            assert symbol.min <= value.shape[dim] <= symbol.max
    polylines = {dims[0] for dims in spec["dynamic_shapes"].values()}
    assert len(polylines) == 1


# The model.


@pytest.mark.parametrize("name", SCENES)
def test_forward_gives_sound_prediction_when_scene_is(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule], name: str
) -> None:
    out = densetnt.Prediction(*head[0](*ordered_inputs(SCENES[name]())))
    count = len(out.goals)
    assert out.trajectories.shape == (6, 30, 2)
    assert out.scores.shape == (6,)
    assert out.goals.shape == (count, 2)
    assert out.goal_scores.shape == (count,)
    assert all(field.isfinite().all() and not field.requires_grad for field in out)
    assert out.goal_scores.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    assert (out.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", ["default", "one agent", "short history", "one vector"])
def test_padding_changes_nothing(
    head: tuple[densetnt.DenseTNT, torch.jit.ScriptModule], name: str
) -> None:
    scene = SCENES[name]()
    padded = ordered_inputs(scene, polylines=211, vectors=33)
    assert_same(head[0](*padded), head[0](*ordered_inputs(scene)))
    data, vector_mask, agents, lanes = padded
    noise = torch.where(vector_mask[..., None], data, 1e3 * torch.ones_like(data))
    assert_same(head[0](noise, vector_mask, agents, lanes), head[0](*padded))


def test_trajectories_end_at_scored_goals() -> None:
    model = densetnt.make(config=densetnt.DenseTNTConfig(goal_head="nms"))
    out = densetnt.Prediction(*model(*ordered_inputs(densetnt.default_scene())))
    ends = out.trajectories[:, -1]
    for end, score in zip(ends, out.scores, strict=True):
        match = (out.goals == end).all(dim=1)
        assert score in out.goal_scores[match]
    assert torch.nn.functional.pdist(ends).min() >= model.config.nms_distance_m


def test_dense_goals_hold_grid_and_sparse_goals(model: densetnt.DenseTNT) -> None:
    sparse = torch.tensor([[0.5, 1.5], [10.2, 0.0]])
    dense = model._dense_goals(sparse, torch.tensor([-1.0, -2.0]))
    grid, rest = dense[:-2], dense[-2:]
    assert torch.equal(rest, sparse)
    expected = {(x, y) for x in range(-2, 3) for y in range(5)}  # 0.5 and 1.5 round to even
    expected |= {(x, y) for x in range(8, 13) for y in range(-2, 3)}
    assert {(int(x), int(y)) for x, y in grid.tolist()} == expected
    assert len(grid) == len(expected)


def test_dense_goals_grow_from_best_seeds_only() -> None:
    model = densetnt.make(config=densetnt.DenseTNTConfig(dense_seeds=1))
    sparse = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    dense = model._dense_goals(sparse, torch.tensor([-3.0, -1.0]))
    assert len(dense) == 25 + 2
    assert (dense[:25, 0] >= 48).all()


def test_model_has_no_hidden_randomness(model: densetnt.DenseTNT) -> None:
    inputs = ordered_inputs(densetnt.default_scene())
    before = torch.random.get_rng_state()
    first, second, again = model(*inputs), model(*inputs), densetnt.make()(*inputs)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(first, second)
    assert_same(first, again)


def test_seeds_give_different_models(model: densetnt.DenseTNT) -> None:
    other = densetnt.make(seed=1)
    assert not torch.equal(
        model.trajectory_decoder.linear.weight, other.trajectory_decoder.linear.weight
    )


def test_make_loads_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(densetnt.make(seed=7).state_dict(), path)
    inputs = ordered_inputs(one_lane())
    assert_same(densetnt.make(checkpoint=path)(*inputs), densetnt.make(seed=7)(*inputs))


def test_make_raises_when_checkpoint_is_of_other_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(RuntimeError, match="Missing key"):
        densetnt.make(checkpoint=path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden", 127), ("modes", 0), ("steps", 1), ("goal_head", "best"), ("dense_seeds", 0)],
)
def test_config_raises_when_value_is_bad(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(densetnt.DenseTNTConfig(), **{field: value})


def test_model_works_with_other_sizes() -> None:
    config = densetnt.DenseTNTConfig(hidden=32, modes=3, steps=12, set_groups=2, dense_seeds=10)
    inputs = densetnt.scene_to_inputs(one_lane(), features=32)
    out = densetnt.Prediction(*densetnt.make(config=config)(**inputs))
    assert out.trajectories.shape == (3, 12, 2)


# The blocks.


def test_attention_equals_its_definition() -> None:
    torch.manual_seed(0)
    attention = layers.Attention(8, heads=2)
    x, context = torch.randn(5, 8), torch.randn(7, 8)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        q, k, v = (
            layer(rows)[:, part]
            for layer, rows in (
                (attention.query, x),
                (attention.key, context),
                (attention.value, context),
            )
        )
        heads.append((q @ k.T / math.sqrt(4)).softmax(dim=-1) @ v)
    torch.testing.assert_close(attention(x, context), torch.cat(heads, dim=-1))


def test_sub_graph_gives_zero_for_polyline_without_vectors() -> None:
    sub_graph = layers.SubGraph(8, layers=1)
    mask = torch.tensor([[True, True], [False, False]])
    out = sub_graph(torch.randn(2, 2, 8), mask)
    assert out[0].abs().sum() > 0
    assert torch.equal(out[1], torch.zeros(8))


# The scripted functions.


def lane_vectors(*polylines: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Returns the vectors of lanes and their mask, with only the coordinates filled in."""
    longest = max(len(points) for points in polylines) - 1
    data, mask = torch.zeros(len(polylines), longest, 18), torch.zeros(len(polylines), longest) > 0
    for row, points in enumerate(polylines):
        for i, (a, b) in enumerate(pairwise(points)):
            data[row, i, [-1, -2, -3, -4]] = torch.tensor([*b, *a])
            mask[row, i] = True
    return data, mask


def naive_goals(
    polylines: list[list[tuple[float, float]]], limit: int
) -> list[tuple[float, float]]:
    """Does what ``get_goal_2D`` does, point by point."""
    seen: set[tuple[int, int]] = set()
    on_lanes: list[tuple[float, float]] = []
    between: list[tuple[float, float]] = []
    for points in polylines:
        pieces = list(pairwise(points))
        n = min(limit, math.ceil(sum(math.dist(a, b) for a, b in pieces) / len(pieces)))
        for x, y in points:
            cell = (round(100 * x), round(100 * y))
            if cell not in seen:
                seen.add(cell)
                on_lanes.append((x, y))
        for a, b in pieces:
            between += [
                (a[0] + (b[0] - a[0]) * k / n, a[1] + (b[1] - a[1]) * k / n) for k in range(1, n)
            ]
    return on_lanes + between


def test_get_goal_2d_equals_naive_loop() -> None:
    polylines = [
        [(0.0, 0.0), (2.5, 0.0), (5.0, 0.5)],
        [(5.0, 0.5), (5.5, 0.5)],
        [(0.0, 0.0), (0.001, 0.0), (90.0, 0.0)],
        [(1.0, 1.0), (1.0, 5.2), (1.0, 9.0), (3.0, 9.0)],
    ]
    actual = goals.get_goal_2D(*lane_vectors(*polylines), 1.0, 20)
    torch.testing.assert_close(actual, torch.tensor(naive_goals(polylines, 20)))


def test_get_goal_2d_gives_origin_when_no_lane_is_kept() -> None:
    actual = goals.get_goal_2D(torch.zeros(0, 4, 18), torch.zeros(0, 4) > 0, 1.0, 20)
    assert actual.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [(0.0, 1), (1.0, 1), (1.01, 2), (2.5, 3), (1e6, 20), (math.inf, 20), (math.nan, 1)],
)
def test_get_subdivide_num_is_smallest_that_fits(spacing: float, expected: int) -> None:
    assert goals.get_subdivide_num(spacing, 1.0, 20) == expected


def test_unique_points_keeps_first_of_each_centimetre() -> None:
    points = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.002, 0.998], [0.01, 0.0], [0.0, 0.0]])
    assert torch.equal(goals.unique_points(points), points[[0, 1, 3]])


def test_likely_goals_are_sorted_and_bounded() -> None:
    scores = torch.tensor([-3.0, -1.0, -20.0, -2.0])
    assert goals.likely_goals(scores, -10.0, 10).tolist() == [1, 3, 0]
    assert goals.likely_goals(scores, -10.0, 2).tolist() == [1, 3]


def test_likely_goals_keeps_all_when_none_passes() -> None:
    assert goals.likely_goals(torch.tensor([-30.0, -20.0]), -10.0, 10).tolist() == [1, 0]


def test_nms_fills_up_with_best_when_goals_are_too_near() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    scores = torch.tensor([-1.0, -2.0, -5.0, -4.0, -3.0])
    assert goals.select_goals_by_nms(points, scores, 5.0, 2).tolist() == [0, 2]
    assert goals.select_goals_by_nms(points, scores, 5.0, 4).tolist() == [0, 2, 1, 4]


def test_goal_functions_are_scripted() -> None:
    functions = [value for name, value in vars(goals).items() if name in goals.__all__]
    assert functions
    assert not any(isinstance(function, types.FunctionType) for function in functions)

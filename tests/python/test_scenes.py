"""Scenes: their checks, their file, their tensors, and where they come from."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scenarios import scenario_params

from ts_infer.models import densetnt
from ts_infer.models.densetnt.scene import Agent, Lane, Scene, lane_polylines

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE_M = 1e-4  # float32 coordinates of up to 100 m


def small_scene(**changes: Any) -> Scene:
    """A car that drives to the right at 10 m/s, another behind it, and a lane with a bend."""
    car = Agent("car", t=(-0.2, -0.1, 0.0), x=(8.0, 9.0, 10.0), y=(5.0, 5.0, 5.0))
    av = Agent("av", t=(-0.1, 0.0), x=(0.0, 1.0), y=(5.0, 5.0), kind="av")
    lane = Lane("lane", ((0.0, 5.0), (20.0, 5.0), (22.0, 7.0)), turn="left", is_intersection=True)
    scene = Scene("small", agents=(av, car), lanes=(lane,), target_id="car")
    return dataclasses.replace(scene, **changes)


# Checks and file.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_id": "bus"}, "target_id: expected one of .*'car'.*, got 'bus'"),
        ({"lanes": ()}, "lanes: expected at least 1"),
        ({"dt": 0.0}, "dt: expected more than 0"),
        ({"agents": small_scene().agents * 2}, "agents: expected an id to occur once"),
    ],
)
def test_scene_raises_when_parts_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_scene(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (1.0,)}, "t, x and y of one length"),
        ({"t": (0.0,), "x": (1.0,), "y": (1.0,)}, "at least 2 points"),
        ({"x": (1.0, math.nan, 2.0)}, "finite"),
        ({"t": (-0.1, -0.1, 0.0)}, "increasing"),
        ({"kind": "ship"}, "unknown kind 'ship'"),
    ],
)
def test_agent_raises_when_history_is_bad(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small_scene().target, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": ((0.0, 0.0),)}, "at least 2 points"),
        ({"points": ((0.0, 0.0), (math.inf, 0.0))}, "finite"),
        ({"turn": "around"}, "unknown turn 'around'"),
    ],
)
def test_lane_raises_when_it_is_bad(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(small_scene().lanes[0], **changes)


@pytest.mark.parametrize("scene", [small_scene(), densetnt.default_scene()], ids=lambda s: s.name)
def test_saved_scene_is_equal_when_loaded(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    densetnt.save_scene(scene, path)
    assert densetnt.load_scene(path) == scene


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a scene"),
        ({"version": 2}, "expected version 1 of ts_infer.scene, got 2"),
        ({"lanes": []}, "lanes: expected at least 1"),
        ({"agents": [{"id": "car"}]}, "missing 't'"),
        ({"future": [[1.0]]}, "not a valid scene"),
    ],
)
def test_load_scene_raises_when_file_is_bad(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "scene.json"
    densetnt.save_scene(small_scene(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as raised:
        densetnt.load_scene(path)
    assert "scene.json" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_load_scene_raises_when_file_is_no_scene(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "scene.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scene\.json: not a"):
        densetnt.load_scene(path)


# Frame and inputs.


def test_frame_turns_points_there_and_back() -> None:
    frame = densetnt.Frame(3.0, -2.0, 0.7)
    points = torch.tensor([[0.0, 0.0], [5.0, 1.0], [-2.0, 8.0]], dtype=torch.float64)
    torch.testing.assert_close(frame.to_scene(frame.to_local(points)), points)
    ahead = frame.to_scene(torch.tensor([[0.0, 1.0]], dtype=torch.float64))[0]
    assert ahead.tolist() == pytest.approx([3.0 + math.cos(0.7), -2.0 + math.sin(0.7)])


def test_target_frame_has_target_at_origin_heading_up() -> None:
    assert densetnt.target_frame(small_scene()) == densetnt.Frame(10.0, 5.0, 0.0)


def test_target_frame_follows_lane_when_target_stands() -> None:
    standing = Agent("car", t=(-0.1, 0.0), x=(21.0, 21.0), y=(6.1, 6.1))
    frame = densetnt.target_frame(small_scene(agents=(standing,)))
    assert frame.heading == pytest.approx(math.pi / 4)


def test_inputs_hold_documented_features() -> None:
    inputs = densetnt.scene_to_inputs(small_scene())
    data = inputs["vector_data"]
    assert data.shape == (3, 2, 128)
    assert data.dtype == torch.float32
    assert inputs["vector_mask"].tolist() == [[True, True], [True, False], [True, True]]
    assert inputs["traj_polyline_mask"].tolist() == [True, True, False]
    assert inputs["map_polyline_mask"].tolist() == [False, False, True]
    # The scene's x is ahead, which is the frame's y.
    target, av, lane = data[0], data[1], data[2]
    assert target[1, :10].tolist() == pytest.approx([0, -1, 0, 0, 0.2, 0, 1, 0, 0, 2], abs=1e-6)
    assert av[0, :10].tolist() == pytest.approx([0, -10, 0, -9, 0.2, 1, 0, 0, 1, 1], abs=1e-6)
    assert not target[:, 10:].any()
    last = lane[1].flip(0)  # features of a lane are counted from the end
    assert last[:10].tolist() == pytest.approx([-2, 12, 0, 10, 1, 2, 2, -1, 1, 1], abs=1e-6)
    assert last[16:18].tolist() == pytest.approx([0, -10], abs=1e-6)
    assert lane[0].flip(0)[16:18].tolist() == pytest.approx([0, -30], abs=1e-6)
    assert not lane[:, : 128 - 18].any()


def test_inputs_do_not_depend_on_place_and_direction() -> None:
    scene = densetnt.default_scene()
    frame = densetnt.Frame(300.0, -120.0, 2.1)

    def move(points: object) -> tuple[tuple[float, float], ...]:
        moved = frame.to_scene(torch.tensor(points, dtype=torch.float64))
        return tuple((x, y) for x, y in moved.tolist())

    moved = dataclasses.replace(
        scene,
        agents=tuple(
            dataclasses.replace(
                agent,
                x=tuple(x for x, _ in move(agent.points)),
                y=tuple(y for _, y in move(agent.points)),
            )
            for agent in scene.agents
        ),
        lanes=tuple(dataclasses.replace(lane, points=move(lane.points)) for lane in scene.lanes),
    )
    expected = densetnt.scene_to_inputs(scene)
    for name, actual in densetnt.scene_to_inputs(moved).items():
        torch.testing.assert_close(actual, expected[name], rtol=0, atol=TOLERANCE_M)


def test_padding_adds_zero_rows_only() -> None:
    scene = small_scene()
    plain, padded = (
        densetnt.scene_to_inputs(scene),
        densetnt.scene_to_inputs(scene, polylines=5, vectors=7),
    )
    assert padded["vector_data"].shape == (5, 7, 128)
    assert torch.equal(padded["vector_data"][:3, :2], plain["vector_data"])
    for name in densetnt.INPUT_NAMES:
        assert padded[name].sum() == plain[name].sum()


@pytest.mark.parametrize(("name", "value"), [("polylines", 2), ("vectors", 1)])
def test_scene_to_inputs_raises_when_scene_is_larger(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: .* more than {value}"):
        densetnt.scene_to_inputs(small_scene(), **{name: value})


# Lanes.


def test_lane_polylines_are_even_and_joined() -> None:
    points = [(0.0, 0.0), (0.01, 0.0), (0.01, 0.0), (31.0, 0.0), (31.0, 40.0)]
    cut = lane_polylines(points, near=(0.0, 0.0), radius_m=1000.0)
    assert [len(polyline) - 1 for polyline in cut] == [10, 10, 10]
    assert cut[0][0] == points[0]
    assert cut[-1][-1] == pytest.approx(points[-1])
    for a, b in pairwise(cut):
        assert a[-1] == b[0]
    assert all(math.dist(p, q) <= 2.5 for polyline in cut for p, q in pairwise(polyline))


def test_lane_polylines_drop_what_is_far() -> None:
    points = [(0.0, 0.0), (200.0, 0.0)]
    cut = lane_polylines(points, near=(100.0, 0.0), radius_m=30.0)
    assert 0 < len(cut) < 8
    assert all(min(abs(x - 100.0) for x, _ in polyline) <= 30.0 for polyline in cut)


def test_lane_polylines_are_none_for_lane_without_length() -> None:
    assert lane_polylines([(1.0, 1.0), (1.0, 1.0)], near=(0.0, 0.0), radius_m=9.0) == []


# The generator.


def test_generator_repeats_itself_and_seeds_differ() -> None:
    assert densetnt.generate_scene(5) == densetnt.generate_scene(5)
    assert densetnt.generate_scene(5) != densetnt.generate_scene(6)
    assert densetnt.default_scene() == densetnt.generate_scene(0)


@pytest.mark.parametrize("seed", range(4))
def test_generated_scene_is_plausible(seed: int) -> None:
    scene = densetnt.generate_scene(seed)
    assert len(scene.agents) > 5
    assert len(scene.lanes) > 20
    assert {lane.turn for lane in scene.lanes} == {"none", "left", "right"}
    assert [agent.kind for agent in scene.agents].count("av") == 1
    assert len(scene.future) == 30
    for agent in scene.agents:
        assert agent.t[0] == -1.9
        assert agent.t[-1] == 0.0
        steps = [math.dist(a, b) for a, b in pairwise(agent.points)]
        assert max(steps) < 0.1 * 16.0  # m at 16 m/s
        assert all(abs(a - b) < 0.1 * 0.1 * 9.0 for a, b in pairwise(steps))  # at 9 m/s²
    moved = math.dist(scene.target.points[0], scene.target.points[-1])
    assert moved > 5.0


@pytest.mark.parametrize("seed", range(4))
def test_generated_cars_keep_apart(seed: int) -> None:
    scene = densetnt.generate_scene(seed, headway_m=18.0)
    for a, b in combinations(scene.agents, 2):
        assert min(math.dist(p, q) for p, q in zip(a.points, b.points, strict=True)) > 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history_steps": 1}, "history_steps: expected at least 2, got 1"),
        ({"headway_m": 3.0}, "headway_m: expected at least 10"),
        ({"headway_m": 1e4}, "headway_m: no car"),
    ],
)
def test_generator_raises_when_option_is_bad(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        densetnt.generate_scene(0, **options)


# Recorded scenes.


@pytest.mark.parametrize("path", scenario_params())
def test_recorded_scene_keeps_history_and_future(path: Path) -> None:
    file_reader = pytest.importorskip(
        "commonroad.common.file_reader", reason="reading recorded scenes needs commonroad-io"
    )
    scene = densetnt.read_commonroad(path)
    assert scene.dt == 0.1
    assert len(scene.target.t) == 20
    assert scene.future
    assert 1 < max(len(lane.points) for lane in scene.lanes) <= 11
    scenario, _ = file_reader.CommonRoadFileReader(str(path)).open()
    recorded = scenario.obstacle_by_id(int(scene.target_id))
    for step, point in enumerate(scene.target.points + scene.future):
        assert point == pytest.approx(recorded.state_at_time(step).position.tolist())


@pytest.mark.parametrize("path", scenario_params())
def test_recorded_scene_has_chosen_target_and_time(path: Path) -> None:
    pytest.importorskip("commonroad", reason="reading recorded scenes needs commonroad-io")
    other = next(a.id for a in densetnt.read_commonroad(path).agents if len(a.t) == 20)
    scene = densetnt.read_commonroad(path, target_id=other, now=9, history_steps=10)
    assert scene.target_id == other
    assert scene.target.t[0] == -0.9
    with pytest.raises(ValueError, match=r"target_id: expected one of .*, got 1"):
        densetnt.read_commonroad(path, target_id=1)
    with pytest.raises(ValueError, match="no obstacle"):
        densetnt.read_commonroad(path, now=10_000)


def test_read_commonroad_names_extra_when_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "commonroad.common.file_reader", None)
    with pytest.raises(ImportError, match=r"pip install 'ts-infer-runtime\[commonroad\]'"):
        densetnt.read_commonroad("scene.xml")


# The picture.


def test_draw_writes_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    path = tmp_path / "scene.png"
    scene = densetnt.default_scene()
    densetnt.draw(scene, densetnt.make()(**densetnt.scene_to_inputs(scene)), path, note="a note")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_draw_says_what_to_install_when_matplotlib_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        densetnt.draw(small_scene(), (), tmp_path / "scene.png")

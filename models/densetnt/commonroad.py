"""Reads a recorded CommonRoad scenario; needs the extra ``commonroad``."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ts_infer.models.densetnt.scene import Agent, Lane, Point, Scene, lane_polylines

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_scene"]


def read_scene(
    path: str | Path,
    *,
    now: int | None = None,
    target_id: str | int | None = None,
    history_steps: int = 20,
    radius_m: float = 60.0,
) -> Scene:
    """Turns a moment of a CommonRoad scenario into a scene.

    A recorded scenario holds each obstacle's motion from its time step 0 on. Its beginning becomes
    the history and the rest the target's ``future``.

    Args:
        path: The scenario, a CommonRoad XML file.
        now: The time step that the prediction starts from. None: ``history_steps - 1``, the first
            one with a whole history.
        target_id: The obstacle to predict. None: of the obstacles with the longest history, the one
            whose way up to ``now`` is longest.
        history_steps: Steps of history, ``now`` included; 20 are 2 s at 10 Hz.
        radius_m: Agents and lanes further from the target than this are left out.

    Returns:
        The scene. Lanelets are cut into polylines of up to 10 vectors. CommonRoad does not store
        which way a lanelet turns: this follows from its shape.

    Raises:
        ImportError: ``commonroad-io`` is not installed.
        ValueError: No obstacle moves there, or ``target_id`` is not among them.

    Example:
        >>> from ts_infer.models import densetnt
        >>> scene = densetnt.read_commonroad("USA_US101-3_3_T-1.xml")  # doctest: +SKIP
    """
    try:
        from commonroad.common.file_reader import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            CommonRoadFileReader,
        )
    except ImportError as error:
        raise ImportError(
            "reading a CommonRoad scenario needs commonroad-io; "
            "run: pip install 'ts-infer-runtime[commonroad]'"
        ) from error

    scenario, _ = CommonRoadFileReader(str(path)).open()
    now = history_steps - 1 if now is None else now
    agents = [
        agent
        for obstacle in scenario.dynamic_obstacles
        if (agent := _agent(obstacle, now, history_steps, scenario.dt)) is not None
    ]
    if not agents:
        raise ValueError(f"{path}: no obstacle has two positions up to time step {now}")
    if target_id is None:
        target = max(agents, key=lambda agent: (len(agent.t), _way(agent)))
    else:
        found = [agent for agent in agents if agent.id == str(target_id)]
        if not found:
            ids = ", ".join(agent.id for agent in agents)
            raise ValueError(f"target_id: expected one of {ids}, got {target_id}")
        target = found[0]

    place = target.points[-1]
    lanes = [
        lane
        for lanelet in scenario.lanelet_network.lanelets
        for lane in _lanes(lanelet, scenario.lanelet_network, place, radius_m)
    ]
    obstacle = scenario.obstacle_by_id(int(target.id))
    return Scene(
        name=str(scenario.scenario_id),
        agents=tuple(a for a in agents if math.dist(a.points[-1], place) <= radius_m),
        lanes=tuple(lanes),
        target_id=target.id,
        dt=float(scenario.dt),
        future=tuple(_future(obstacle, now)),
        source=f"CommonRoad {scenario.scenario_id}",
    )


def _position(obstacle: Any, step: int) -> Point | None:
    """Returns the obstacle's position at a time step, if it has one."""
    state = obstacle.state_at_time(step)
    return None if state is None else (float(state.position[0]), float(state.position[1]))


def _agent(obstacle: Any, now: int, history_steps: int, dt: float) -> Agent | None:
    """Returns the obstacle's history without gaps up to ``now``; None if it has no two points."""
    points: list[Point] = []
    for step in range(now, now - history_steps, -1):
        point = _position(obstacle, step)
        if point is None:
            break
        points.append(point)
    if len(points) < 2:
        return None
    points.reverse()
    return Agent(
        id=str(obstacle.obstacle_id),
        t=tuple(round((i + 1 - len(points)) * dt, 6) for i in range(len(points))),
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
    )


def _future(obstacle: Any, now: int, steps: int = 30) -> list[Point]:
    """Returns the positions after ``now`` without gaps."""
    points: list[Point] = []
    for step in range(now + 1, now + 1 + steps):
        point = _position(obstacle, step)
        if point is None:
            break
        points.append(point)
    return points


def _way(agent: Agent) -> float:
    """Returns how far the agent came, in metres."""
    return sum(math.dist(a, b) for a, b in pairwise(agent.points))


def _lanes(lanelet: Any, network: Any, place: Point, radius_m: float) -> list[Lane]:
    """Cuts a lanelet into lanes near a place."""
    points = [(float(x), float(y)) for x, y in lanelet.center_vertices]
    crossing = {
        successor
        for intersection in network.intersections
        for incoming in intersection.incomings
        for successor in (
            *incoming.successors_left,
            *incoming.successors_right,
            *incoming.successors_straight,
        )
    }
    return [
        Lane(
            id=f"{lanelet.lanelet_id}.{index}",
            points=polyline,
            turn=_turn(points),
            is_intersection=lanelet.lanelet_id in crossing,
            has_traffic_control=bool(lanelet.traffic_lights or lanelet.traffic_signs),
        )
        for index, polyline in enumerate(lane_polylines(points, near=place, radius_m=radius_m))
    ]


def _turn(points: list[Point]) -> Literal["none", "left", "right"]:
    """Returns which way a centre line turns by more than 45° in all."""
    distinct = [a for a, b in pairwise(points) if math.dist(a, b) > 0.1]
    distinct.append(points[-1])
    if len(distinct) < 3:
        return "none"
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = *distinct[:2], *distinct[-2:]
    angle = math.atan2(dy - cy, dx - cx) - math.atan2(by - ay, bx - ax)
    angle = math.remainder(angle, math.tau)
    if abs(angle) < math.radians(45):
        return "none"
    return "left" if angle > 0 else "right"

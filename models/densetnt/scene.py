"""What the model looks at: a scene of agents and lanes, its file, and its way into tensors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Agent",
    "Frame",
    "Lane",
    "Point",
    "Scene",
    "agent_frame",
    "lane_polylines",
    "load_scene",
    "save_scene",
    "scene_to_inputs",
    "target_frame",
]

FEATURES = 128
FORMAT = "ts_infer.scene"
VERSION = 1

Point = tuple[float, float]  # x, y in metres


@dataclass(frozen=True)
class Agent:
    """A road user and where it has been; the last point is where it is now."""

    id: str
    t: tuple[float, ...]  # seconds, increasing; 0 is now
    x: tuple[float, ...]  # metres, in the scene's frame
    y: tuple[float, ...]  # metres
    kind: Literal["vehicle", "av"] = "vehicle"  # "av": the vehicle whose sensors saw the scene

    def __post_init__(self) -> None:
        """Checks the history."""
        if not len(self.t) == len(self.x) == len(self.y):
            raise ValueError(
                f"agent {self.id!r}: expected t, x and y of one length, "
                f"got {len(self.t)}, {len(self.x)} and {len(self.y)}"
            )
        if len(self.t) < 2:
            raise ValueError(f"agent {self.id!r}: expected at least 2 points, got {len(self.t)}")
        if not all(map(math.isfinite, (*self.t, *self.x, *self.y))):
            raise ValueError(f"agent {self.id!r}: expected finite numbers only")
        if any(a >= b for a, b in pairwise(self.t)):
            raise ValueError(f"agent {self.id!r}: expected increasing times")
        if self.kind not in ("vehicle", "av"):
            raise ValueError(f"agent {self.id!r}: unknown kind {self.kind!r}")

    @property
    def points(self) -> tuple[Point, ...]:
        """The positions as pairs (x, y), in metres."""
        return tuple(zip(self.x, self.y, strict=True))


@dataclass(frozen=True)
class Lane:
    """A piece of a lane's centre line, in driving direction."""

    id: str
    points: tuple[Point, ...]  # metres, in the scene's frame
    turn: Literal["none", "left", "right"] = "none"
    is_intersection: bool = False
    has_traffic_control: bool = False

    def __post_init__(self) -> None:
        """Checks the centre line."""
        if len(self.points) < 2:
            raise ValueError(f"lane {self.id!r}: expected at least 2 points")
        if not all(math.isfinite(value) for point in self.points for value in point):
            raise ValueError(f"lane {self.id!r}: expected finite numbers only")
        if self.turn not in ("none", "left", "right"):
            raise ValueError(f"lane {self.id!r}: unknown turn {self.turn!r}")


@dataclass(frozen=True)
class Scene:
    """Agents and lanes at one moment, and the agent to predict.

    Raises:
        ValueError: A part is missing or malformed; the message names it.

    Example:
        >>> from ts_infer.models.densetnt import Agent, Lane, Scene
        >>> car = Agent("car", t=(-0.1, 0.0), x=(-1.0, 0.0), y=(0.0, 0.0))
        >>> lane = Lane("lane", points=((-5.0, 0.0), (5.0, 0.0)))
        >>> Scene("a car", agents=(car,), lanes=(lane,), target_id="car").target.x
        (-1.0, 0.0)
    """

    name: str
    agents: tuple[Agent, ...]
    lanes: tuple[Lane, ...]
    target_id: str
    dt: float = 0.1  # seconds between the points of a history
    future: tuple[Point, ...] = ()  # where the target went next, if known; shown, never an input
    source: str = ""  # where the scene comes from, for captions

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        ids = [agent.id for agent in self.agents]
        if len(set(ids)) != len(ids):
            raise ValueError("agents: expected an id to occur once")
        if self.target_id not in ids:
            raise ValueError(f"target_id: expected one of {ids}, got {self.target_id!r}")
        if not self.lanes:
            raise ValueError("lanes: expected at least 1, got none")
        if not self.dt > 0:
            raise ValueError(f"dt: expected more than 0 s, got {self.dt}")

    @property
    def target(self) -> Agent:
        """The agent to predict."""
        return next(agent for agent in self.agents if agent.id == self.target_id)


class Frame(NamedTuple):
    """A place and a heading: coordinates in it have the origin there and +y ahead."""

    x: float  # metres, in the scene's frame
    y: float  # metres
    heading: float  # radians, counter-clockwise from the scene's +x

    def to_local(self, points: Tensor) -> Tensor:
        """Turns points [..., 2] of the scene into points of this frame."""
        moved = points - points.new_tensor([self.x, self.y])
        return moved @ self._rotation(points)

    def to_scene(self, points: Tensor) -> Tensor:
        """Turns points [..., 2] of this frame into points of the scene."""
        return points @ self._rotation(points).T + points.new_tensor([self.x, self.y])

    def _rotation(self, like: Tensor) -> Tensor:
        """The frame's axes, right and ahead, as columns in the scene."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return like.new_tensor([[s, c], [-c, s]])


def agent_frame(scene: Scene, agent: Agent) -> Frame:
    """Returns where an agent is and where it heads.

    The heading is that of its last metre of motion. An agent that has not moved that far heads as
    the nearest piece of lane does.
    """
    x, y = agent.points[-1]
    for past_x, past_y in reversed(agent.points):
        if math.hypot(x - past_x, y - past_y) >= 1.0:
            return Frame(x, y, math.atan2(y - past_y, x - past_x))

    nearest, heading = math.inf, math.pi / 2
    for lane in scene.lanes:
        for (ax, ay), (bx, by) in pairwise(lane.points):
            distance = math.hypot((ax + bx) / 2 - x, (ay + by) / 2 - y)
            if distance < nearest and (ax, ay) != (bx, by):
                nearest, heading = distance, math.atan2(by - ay, bx - ax)
    return Frame(x, y, heading)


def target_frame(scene: Scene) -> Frame:
    """Returns the frame of the model's inputs and outputs: ``agent_frame`` of the target."""
    return agent_frame(scene, scene.target)


def scene_to_inputs(
    scene: Scene,
    *,
    polylines: int | None = None,
    vectors: int | None = None,
    features: int = FEATURES,
) -> dict[str, Tensor]:
    """Makes the model's inputs from a scene.

    The target's polyline comes first, then the other agents', then the lanes'. A vector joins two
    points that follow each other. All coordinates are metres in ``target_frame(scene)``.

    Args:
        scene: The scene.
        polylines: Rows P; padded up to it. None: as many as there are.
        vectors: Vectors V of a polyline; padded up to it. None: as many as the longest one has,
            and at least 2.
        features: Values of a vector; the model's ``hidden``.

    Returns:
        ``vector_data`` float32 [P, V, features], ``vector_mask`` bool [P, V],
        ``traj_polyline_mask`` bool [P] and ``map_polyline_mask`` bool [P], as
        ``DenseTNT.forward`` takes them.

    Raises:
        ValueError: The scene has more polylines or vectors than asked for.

    Example:
        >>> from ts_infer.models import densetnt
        >>> inputs = densetnt.scene_to_inputs(densetnt.default_scene(), polylines=200)
        >>> inputs["vector_data"].shape
        torch.Size([200, 19, 128])
    """
    frame = target_frame(scene)
    agents = sorted(scene.agents, key=lambda agent: agent.id != scene.target_id)
    start = min(agent.t[0] for agent in agents)
    rows = [
        _agent_vectors(agent, frame, start, row, agent.id == scene.target_id, features)
        for row, agent in enumerate(agents)
    ]
    rows += [
        _lane_vectors(lane, frame, row, features)
        for row, lane in enumerate(scene.lanes, start=len(rows))
    ]

    longest = max(2, *(len(row) for row in rows))
    polylines = len(rows) if polylines is None else polylines
    vectors = longest if vectors is None else vectors
    if polylines < len(rows):
        raise ValueError(f"polylines: the scene has {len(rows)}, more than {polylines}")
    if vectors < longest:
        raise ValueError(f"vectors: a polyline of the scene has {longest}, more than {vectors}")

    data = torch.zeros(polylines, vectors, features)
    mask = torch.zeros(polylines, vectors, dtype=torch.bool)
    for row, values in enumerate(rows):
        data[row, : len(values)] = values
        mask[row, : len(values)] = True
    index = torch.arange(polylines)
    return {
        "vector_data": data,
        "vector_mask": mask,
        "traj_polyline_mask": index < len(agents),
        "map_polyline_mask": (index >= len(agents)) & (index < len(rows)),
    }


def _agent_vectors(
    agent: Agent, frame: Frame, start: float, row: int, is_target: bool, features: int
) -> Tensor:
    """Returns [points - 1, features]; an agent's features are counted from the front."""
    points = frame.to_local(torch.tensor(agent.points, dtype=torch.float64))
    count = len(points) - 1
    data = torch.zeros(count, features, dtype=torch.float64)
    data[:, 0:2] = points[:-1]
    data[:, 2:4] = points[1:]
    data[:, 4] = torch.tensor(agent.t[1:], dtype=torch.float64) - start
    data[:, 5] = float(agent.kind == "av" and not is_target)
    data[:, 6] = float(is_target)
    data[:, 7] = float(agent.kind != "av" and not is_target)
    data[:, 8] = row
    data[:, 9] = torch.arange(1, count + 1)
    return data.to(torch.float32)


def _lane_vectors(lane: Lane, frame: Frame, row: int, features: int) -> Tensor:
    """Returns [points - 1, features]; a lane's features are counted from the end."""
    points = frame.to_local(torch.tensor(lane.points, dtype=torch.float64))
    count = len(points) - 1
    # The first vector has no point before its start: go on straight.
    before = torch.cat([2 * points[:1] - points[1:2], points[:-2]])
    data = torch.zeros(count, features, dtype=torch.float64)
    data[:, [-1, -2]] = points[1:]
    data[:, [-3, -4]] = points[:-1]
    data[:, -5] = 1.0
    data[:, -6] = torch.arange(1, count + 1)
    data[:, -7] = row
    data[:, -8] = 1.0 if lane.has_traffic_control else -1.0
    data[:, -9] = {"left": 1.0, "right": -1.0, "none": 0.0}[lane.turn]
    data[:, -10] = 1.0 if lane.is_intersection else -1.0
    data[:, [-17, -18]] = before
    return data.to(torch.float32)


def lane_polylines(
    points: Sequence[Point],
    *,
    near: Point,
    radius_m: float,
    spacing_m: float = 2.5,
    vectors: int = 10,
) -> list[tuple[Point, ...]]:
    """Cuts a centre line into short polylines of even spacing and keeps those near a place.

    Args:
        points: The centre line, in metres.
        near: The place.
        radius_m: A polyline is kept if one of its points is this near.
        spacing_m: The points are at most this far apart.
        vectors: A polyline has at most this many vectors.

    Returns:
        The polylines in order; each begins where the one before it ends.
    """
    along = [0.0]
    for (ax, ay), (bx, by) in pairwise(points):
        along.append(along[-1] + math.hypot(bx - ax, by - ay))
    length = along[-1]
    if length == 0.0:
        return []
    pieces = math.ceil(length / (spacing_m * vectors))  # polylines of one length each
    count = pieces * math.ceil(length / pieces / spacing_m)
    even: list[Point] = []
    i = 0
    for k in range(count + 1):
        s = length * k / count
        while i < len(along) - 2 and along[i + 1] < s:
            i += 1
        step = along[i + 1] - along[i]
        ratio = (s - along[i]) / step if step > 0.0 else 0.0
        (ax, ay), (bx, by) = points[i], points[i + 1]
        even.append((ax + (bx - ax) * ratio, ay + (by - ay) * ratio))
    per_piece = count // pieces
    cut = [tuple(even[k : k + per_piece + 1]) for k in range(0, count, per_piece)]
    return [p for p in cut if min(math.dist(q, near) for q in p) <= radius_m]


def save_scene(scene: Scene, path: str | Path) -> None:
    """Writes a scene as JSON; ``load_scene`` gives an equal one back."""
    document = {"format": FORMAT, "version": VERSION, **asdict(scene)}
    Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load_scene(path: str | Path) -> Scene:
    """Reads a scene that ``save_scene`` wrote.

    Raises:
        ValueError: The file is not such a scene, or of a newer version.
        OSError: The file cannot be read.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ValueError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not a scene: expected a JSON object of format {FORMAT!r}")
    version = document.get("version")
    if version != VERSION:
        raise ValueError(f"{path}: expected version {VERSION} of {FORMAT}, got {version!r}")
    try:
        return _scene_from(document)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not a valid scene: {reason}") from error


def _scene_from(document: dict[str, Any]) -> Scene:
    agents = tuple(
        Agent(
            id=agent["id"],
            t=_floats(agent["t"]),
            x=_floats(agent["x"]),
            y=_floats(agent["y"]),
            kind=agent["kind"],
        )
        for agent in document["agents"]
    )
    lanes = tuple(
        Lane(
            id=lane["id"],
            points=_points(lane["points"]),
            turn=lane["turn"],
            is_intersection=bool(lane["is_intersection"]),
            has_traffic_control=bool(lane["has_traffic_control"]),
        )
        for lane in document["lanes"]
    )
    return Scene(
        name=document["name"],
        agents=agents,
        lanes=lanes,
        target_id=document["target_id"],
        dt=float(document["dt"]),
        future=_points(document["future"]),
        source=document["source"],
    )


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _points(values: Sequence[Any]) -> tuple[Point, ...]:
    return tuple((float(x), float(y)) for x, y in values)

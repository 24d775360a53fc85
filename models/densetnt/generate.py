"""Makes scenes: traffic on a curved road with a merge and a signalled intersection.

The cars follow each other by the intelligent driver model: M. Treiber, A. Hennecke, D. Helbing,
"Congested traffic states in empirical observations and microscopic simulations", Physical Review E
62 (2000) 1805-1824, with the paper's values for cars. A scene depends on its seed only.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from ts_infer.models.densetnt.scene import Agent, Lane, Point, Scene, lane_polylines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["default_scene", "generate_scene"]

DT_S = 0.1
BURN_IN_STEPS = 60  # before the history begins; gaps and speeds settle in them
FUTURE_STEPS = 30
LOOK_AHEAD_M = 80.0
CAR_LENGTH_M = 5.0

MAX_ACCELERATION = 0.73  # m/s²
COMFORTABLE_BRAKING = 1.67  # m/s²
HARDEST_BRAKING = 8.0  # m/s²
TIME_HEADWAY_S = 1.6
STANDSTILL_GAP_M = 2.0

ROAD_SPEED = 14.0  # m/s
RAMP_SPEED = 11.0  # m/s
TURN_SPEED = 6.0  # m/s

Turn = Literal["none", "left", "right"]


class Pose(NamedTuple):
    """A place and a direction: metres, radians."""

    x: float
    y: float
    heading: float

    def at(self, ahead: float, left: float, turned: float = 0.0) -> Pose:
        """Returns the pose that many metres ahead and to the left, and turned by an angle."""
        c, s = math.cos(self.heading), math.sin(self.heading)
        return Pose(
            self.x + c * ahead - s * left, self.y + s * ahead + c * left, self.heading + turned
        )


@dataclass
class Road:
    """One lane between two nodes of the network."""

    id: str
    points: tuple[Point, ...]
    speed: float  # m/s
    turn: Turn = "none"
    is_intersection: bool = False
    red: bool = False  # the signal at its end
    successors: list[str] = field(default_factory=list)
    predecessors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Measures the centre line."""
        self.along = [0.0]
        for a, b in pairwise(self.points):
            self.along.append(self.along[-1] + math.dist(a, b))

    @property
    def length(self) -> float:
        """Metres."""
        return self.along[-1]

    def point(self, s: float) -> Point:
        """Returns the point s metres along the lane."""
        i = 0
        while i < len(self.along) - 2 and self.along[i + 1] < s:
            i += 1
        ratio = (s - self.along[i]) / (self.along[i + 1] - self.along[i])
        (ax, ay), (bx, by) = self.points[i], self.points[i + 1]
        return ax + (bx - ax) * ratio, ay + (by - ay) * ratio


@dataclass(eq=False)
class Car:
    """A car on its route."""

    id: str
    route: list[Road]
    s: float  # metres along the current road
    v: float  # m/s
    eagerness: float  # how fast it likes to go, as a share of the speed limit
    on: int = 0  # index of the current road in the route
    track: list[Point] = field(default_factory=list)  # where it was after each step

    @property
    def road(self) -> Road:
        """The road it is on."""
        return self.route[self.on]

    def ahead(self) -> Iterator[tuple[float, Road]]:
        """Yields the roads of the route in sight, and how far ahead each begins (m)."""
        start = -self.s
        for road in self.route[self.on :]:
            yield start, road
            start += road.length
            if start > LOOK_AHEAD_M:
                return


def generate_scene(
    seed: int = 0, *, headway_m: float = 24.0, history_steps: int = 20, radius_m: float = 60.0
) -> Scene:
    """Simulates traffic and returns a moment of it.

    The target approaches the intersection, so that it has several ways to go.

    Args:
        seed: Of the cars' places, speeds and routes.
        headway_m: Mean distance of the cars on a lane at the start.
        history_steps: Points of a history, 0.1 s apart, the present one included; at least 2.
        radius_m: Agents and lanes further from the target than this are left out.

    Returns:
        The scene, with the target's simulated next 3 s as its ``future``.

    Raises:
        ValueError: ``history_steps`` is less than 2, or ``headway_m`` is so small that the cars do
            not fit or so large that there is none.

    Example:
        >>> from ts_infer.models import densetnt
        >>> densetnt.generate_scene(3) == densetnt.generate_scene(3)
        True
    """
    if history_steps < 2:
        raise ValueError(f"history_steps: expected at least 2, got {history_steps}")
    if headway_m < 2 * CAR_LENGTH_M:
        raise ValueError(f"headway_m: expected at least {2 * CAR_LENGTH_M}, got {headway_m}")
    rng = random.Random(seed)
    network = _network()
    cars = _cars(network, rng, headway_m)
    for _ in range(BURN_IN_STEPS + history_steps):
        cars = _advance(cars)
    if not cars:
        raise ValueError(f"headway_m: no car is on the road at {headway_m} m")
    target = min(cars, key=_distance_from_junction)
    place = target.track[-1]
    near = [car for car in cars if math.dist(car.track[-1], place) <= radius_m]
    others = [car for car in near if car is not target]
    av = min(others, key=lambda car: math.dist(car.track[-1], place), default=None)
    agents = [_agent(car, history_steps, is_av=car is av) for car in near]
    present = len(target.track)
    for _ in range(FUTURE_STEPS):
        cars = _advance(cars)

    lanes = [
        Lane(
            id=f"{road.id}.{index}",
            points=polyline,
            turn=road.turn,
            is_intersection=road.is_intersection,
            has_traffic_control=road.is_intersection,
        )
        for road in network.values()
        for index, polyline in enumerate(lane_polylines(road.points, near=place, radius_m=radius_m))
    ]
    return Scene(
        name=f"generated {seed}",
        agents=tuple(agents),
        lanes=tuple(lanes),
        target_id=target.id,
        dt=DT_S,
        future=tuple(target.track[present:]),
        source="generated traffic (intelligent driver model)",
    )


def _agent(car: Car, history_steps: int, *, is_av: bool) -> Agent:
    """Returns the car as the model sees it: its last positions, the present one included."""
    points = car.track[-history_steps:]
    return Agent(
        id=car.id,
        t=tuple(round((i + 1 - history_steps) * DT_S, 6) for i in range(history_steps)),
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
        kind="av" if is_av else "vehicle",
    )


@cache
def default_scene() -> Scene:
    """Returns the scene that examples and exports use: ``generate_scene(0)``."""
    return generate_scene(0)


# The network. Three lanes come along a curve to the junction, two lanes come the other way, one
# lane each way crosses them; a ramp joins the rightmost lane. Traffic keeps right. Only the three
# lanes have green.


def _network() -> dict[str, Road]:
    start = Pose(0.0, 0.0, 0.0)
    curve = list(_drive(start, [(60.0, 0.0), (70.0, math.radians(35)), (48.0, 0.0)]))
    junction = curve[-1].at(12.0, 0.0)
    beyond = list(_drive(junction.at(12.0, 0.0), [(70.0, 0.0)]))
    merge = 61  # the poses are 1 m apart: this one ends the first straight piece
    roads: list[Road] = []

    def add(name: str, poses: Iterable[Pose], left: float = 0.0, speed: float = ROAD_SPEED) -> Road:
        points = tuple((p.x, p.y) for p in (pose.at(0.0, left) for pose in poses))
        road = Road(name, points, speed)
        roads.append(road)
        return road

    def cross(a: Road, b: Road, turn: Turn = "none") -> None:
        poses = _bezier(_end(a), _begin(b))
        road = add(f"{a.id}-{b.id}", poses, speed=ROAD_SPEED if turn == "none" else TURN_SPEED)
        road.turn, road.is_intersection = turn, True
        _join(a, road)
        _join(road, b)

    def back(poses: list[Pose]) -> list[Pose]:
        return [pose.at(0.0, 0.0, math.pi) for pose in reversed(poses)]

    entry, approach, leave = [], [], []
    for lane, left in enumerate((-2.0, -5.5, -9.0)):
        entry.append(add(f"entry{lane}", curve[:merge], left))
        approach.append(add(f"approach{lane}", curve[merge - 1 :], left))
        leave.append(add(f"leave{lane}", beyond, left))
        _join(entry[lane], approach[lane])
    ramp_start = _end(entry[2]).at(-55.0, -26.0, math.radians(25))
    ramp = add("ramp", _bezier(ramp_start, _begin(approach[2])), speed=RAMP_SPEED)
    _join(ramp, approach[2])

    opposite, opposite_leave = [], []
    for lane, left in enumerate((-2.0, -5.5)):
        opposite.append(add(f"opposite{lane}", back(beyond), left))
        opposite_leave.append(add(f"opposite_leave{lane}", back(curve), left))
    up, down = junction.at(0.0, 0.0, math.pi / 2), junction.at(0.0, 0.0, -math.pi / 2)
    north = add("north", _drive(up.at(-70.0, -2.0), [(52.0, 0.0)]))
    north_leave = add("north_leave", _drive(up.at(13.0, -2.0), [(50.0, 0.0)]))
    south = add("south", _drive(down.at(-63.0, -2.0), [(50.0, 0.0)]))
    south_leave = add("south_leave", _drive(down.at(18.0, -2.0), [(52.0, 0.0)]))
    for road in (*opposite, north, south):
        road.red = True

    for a, b in zip(approach + opposite, leave + opposite_leave, strict=True):
        cross(a, b)
    cross(approach[0], north_leave, "left")
    cross(approach[2], south_leave, "right")
    cross(opposite[0], south_leave, "left")
    cross(opposite[1], north_leave, "right")
    cross(north, north_leave)
    cross(north, opposite_leave[0], "left")
    cross(north, leave[2], "right")
    cross(south, south_leave)
    cross(south, leave[0], "left")
    cross(south, opposite_leave[1], "right")
    return {road.id: road for road in roads}


def _join(a: Road, b: Road) -> None:
    a.successors.append(b.id)
    b.predecessors.append(a.id)


def _begin(road: Road) -> Pose:
    (ax, ay), (bx, by) = road.points[:2]
    return Pose(ax, ay, math.atan2(by - ay, bx - ax))


def _end(road: Road) -> Pose:
    (ax, ay), (bx, by) = road.points[-2:]
    return Pose(bx, by, math.atan2(by - ay, bx - ax))


def _drive(start: Pose, pieces: list[tuple[float, float]]) -> Iterator[Pose]:
    """Yields poses 1 m apart along pieces of (length in metres, angle turned to the left)."""
    yield start
    pose = start
    for length, angle in pieces:
        steps = round(length)
        bend = angle / steps
        for _ in range(steps):
            pose = pose.at(0.0, 0.0, bend / 2).at(length / steps, 0.0, bend / 2)
            yield pose


def _bezier(start: Pose, end: Pose, steps: int = 24) -> Iterator[Pose]:
    """Yields poses along a smooth curve that leaves and arrives in the given directions."""
    reach = 0.39 * math.dist(start[:2], end[:2])  # makes a quarter circle almost round
    p0, p3 = start, end
    p1, p2 = start.at(reach, 0.0), end.at(-reach, 0.0)
    for k in range(steps + 1):
        t = k / steps
        w = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x = w[0] * p0.x + w[1] * p1.x + w[2] * p2.x + w[3] * p3.x
        y = w[0] * p0.y + w[1] * p1.y + w[2] * p2.y + w[3] * p3.y
        yield Pose(x, y, 0.0)


# The traffic.


def _cars(network: dict[str, Road], rng: random.Random, headway_m: float) -> list[Car]:
    """Puts cars on every lane that is not inside the junction, and gives each a route."""
    cars: list[Car] = []
    for road in network.values():
        if road.is_intersection:
            continue
        s = headway_m * rng.uniform(0.2, 0.8)
        while s < road.length - CAR_LENGTH_M:
            route = [road]
            while route[-1].successors:
                route.append(network[rng.choice(route[-1].successors)])
            car = Car(f"car{len(cars)}", route, s, 0.8 * road.speed, rng.uniform(0.85, 1.1))
            cars.append(car)
            s += headway_m * rng.uniform(0.6, 1.4)
    return cars


def _advance(cars: list[Car]) -> list[Car]:
    """Moves all cars by one step; those that reach the end of their route leave."""
    by_road: dict[str, list[Car]] = {}
    for car in cars:
        by_road.setdefault(car.road.id, []).append(car)
    accelerations = [_acceleration(car, by_road) for car in cars]
    staying: list[Car] = []
    for car, acceleration in zip(cars, accelerations, strict=True):
        v = max(0.0, car.v + acceleration * DT_S)
        car.s += (car.v + v) / 2 * DT_S
        car.v = v
        while car.s > car.road.length and car.on + 1 < len(car.route):
            car.s -= car.road.length
            car.on += 1
        if car.s <= car.road.length:
            car.track.append(car.road.point(car.s))
            staying.append(car)
    return staying


def _acceleration(car: Car, by_road: dict[str, list[Car]]) -> float:
    """The intelligent driver model, in m/s²."""
    wish = min(
        # A lower limit ahead is reached by comfortable braking.
        math.sqrt((car.eagerness * road.speed) ** 2 + 2 * COMFORTABLE_BRAKING * max(0.0, start))
        for start, road in car.ahead()
    )
    free = 1 - (car.v / wish) ** 4
    gap, leader_v = _leader(car, by_road)
    closing = car.v * (car.v - leader_v)
    wanted = STANDSTILL_GAP_M + max(
        0.0,
        car.v * TIME_HEADWAY_S + closing / (2 * math.sqrt(MAX_ACCELERATION * COMFORTABLE_BRAKING)),
    )
    acceleration = MAX_ACCELERATION * (free - (wanted / max(gap, 0.1)) ** 2)
    return max(-HARDEST_BRAKING, acceleration)


def _leader(car: Car, by_road: dict[str, list[Car]]) -> tuple[float, float]:
    """Returns the gap to what is ahead, in metres, and its speed, in m/s."""
    seen = [(math.inf, 0.0)]
    for start, road in car.ahead():
        end = start + road.length
        seen += [
            (start + other.s - CAR_LENGTH_M, other.v)
            for other in by_road.get(road.id, ())
            if other is not car and start + other.s > 0
        ]
        if road.red:
            seen.append((end, 0.0))
        for other in _merging(road, car, by_road):
            rest = other.road.length - other.s
            # Who is nearer to the merge goes first.
            if (rest, other.id) < (end, car.id) and rest < 40.0:
                seen.append((end - rest - CAR_LENGTH_M, other.v))
    return min(seen)


def _merging(road: Road, car: Car, by_road: dict[str, list[Car]]) -> Iterator[Car]:
    """Yields the cars on roads that end where this one on the car's route ends."""
    index = next(i for i, r in enumerate(car.route) if r is road)
    if index + 1 < len(car.route):
        for name in car.route[index + 1].predecessors:
            if name != road.id:
                yield from by_road.get(name, ())


def _distance_from_junction(car: Car) -> float:
    """Returns how far the car is from where the next target is wanted, in metres."""
    if not car.road.id.startswith("approach"):
        return math.inf
    return abs(car.road.length - car.s - 25.0)

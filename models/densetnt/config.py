"""The sizes and thresholds of DenseTNT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DenseTNTConfig"]


@dataclass(frozen=True)
class DenseTNTConfig:
    """What a ``DenseTNT`` is built from; the defaults are those of the paper.

    Raises:
        ValueError: A size is not positive, or ``goal_head`` is unknown.
    """

    hidden: int = 128  # width of every state; also the number of features of a vector
    sub_graph_layers: int = 3  # attention layers inside a polyline
    lane_probability: float = 0.95  # lanes are kept, best first, until they add up to more
    goal_spacing_m: float = 1.0  # sparse goals on a lane are at most this far apart, on average
    max_subdivisions: int = 20  # and a lane's vector is cut into no more pieces than this
    dense_seeds: int = 150  # as many of the best sparse goals grow a grid of dense ones
    dense_reach_m: int = 2  # a grid reaches this far to each side, in steps of 1 m
    goal_head: Literal["set", "nms"] = "set"  # how the goals are chosen: learned, or greedily
    set_min_probability: float = 1e-5  # the set predictor sees the goals above this,
    set_max_goals: int = 4096  # and no more than this many, best first: a bound on its memory
    set_groups: int = 6  # heads of the set predictor; the one with the best score is taken
    nms_distance_m: float = 7.2  # chosen goals are at least this far apart, where goals allow it
    modes: int = 6  # predicted trajectories
    steps: int = 30  # points of a trajectory, 0.1 s apart

    def __post_init__(self) -> None:
        """Checks the values."""
        for field in ("hidden", "max_subdivisions", "dense_seeds", "set_max_goals", "set_groups"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: expected at least 1, got {getattr(self, field)}")
        if self.hidden < 24 or self.hidden % 2:
            raise ValueError(f"hidden: expected an even number from 24 on, got {self.hidden}")
        if not 1 <= self.modes <= 25:  # one seed's grid has 25 cells: there are always enough goals
            raise ValueError(f"modes: expected 1 to 25, got {self.modes}")
        if self.steps < 2:
            raise ValueError(f"steps: expected at least 2, got {self.steps}")
        if self.dense_reach_m < 2:
            raise ValueError(f"dense_reach_m: expected at least 2, got {self.dense_reach_m}")
        if self.goal_spacing_m <= 0:
            raise ValueError(f"goal_spacing_m: expected more than 0, got {self.goal_spacing_m}")
        if self.goal_head not in ("set", "nms"):
            raise ValueError(f"goal_head: expected 'set' or 'nms', got {self.goal_head!r}")

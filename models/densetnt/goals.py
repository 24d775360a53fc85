"""The part of DenseTNT whose work depends on the data: scripted, so that a trace keeps it.

The number of goals follows from the shape of the lanes, through loops and branches on values. A
trace would unroll them for the scene that it saw; as scripted functions they go into the traced
model whole. Coordinates are metres in the target agent's frame.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "get_goal_2D",
    "get_subdivide_num",
    "get_subdivide_points",
    "likely_goals",
    "select_goals_by_nms",
    "unique_points",
]

P = ParamSpec("P")
R = TypeVar("R")


def _script(function: Callable[P, R]) -> Callable[P, R]:
    """Scripts a function; that torch deprecates this is no news to who imports the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        scripted: Callable[P, R] = torch.jit.script(function)
    return scripted


@_script
def unique_points(points: Tensor) -> Tensor:
    """Drops the points that share a square centimetre with an earlier one; keeps the order.

    Args:
        points: float [N, 2].

    Returns:
        float [M, 2], with M <= N.
    """
    cells = torch.round(points * 100).to(torch.int64)
    distinct, cell_of_point = torch.unique(cells, dim=0, return_inverse=True)
    order = torch.arange(points.size(0), device=points.device)
    first = torch.full((distinct.size(0),), points.size(0), dtype=torch.int64, device=points.device)
    first = first.scatter_reduce(0, cell_of_point, order, "amin")
    return points[torch.sort(first)[0]]


@_script
def get_subdivide_num(spacing: float, goal_spacing: float, limit: int) -> int:
    """Returns the smallest n <= limit with ``spacing / n <= goal_spacing``; all in metres."""
    n = 1
    while n < limit and spacing / n > goal_spacing:
        n += 1
    return n


@_script
def get_subdivide_points(points: Tensor, n: int) -> Tensor:
    """Cuts each piece of a polyline into n equal ones and returns the cuts.

    Args:
        points: float [N, 2], the polyline.
        n: Pieces; 1 cuts nothing.

    Returns:
        float [(N - 1) * (n - 1), 2], the new points only, in order.
    """
    ratio = torch.arange(1, n, device=points.device).to(points.dtype) / n
    start, step = points[:-1], points[1:] - points[:-1]
    return (start[:, None] + step[:, None] * ratio[None, :, None]).reshape(-1, 2)


@_script
def get_goal_2D(vectors: Tensor, mask: Tensor, goal_spacing: float, limit: int) -> Tensor:  # noqa: N802
    """Returns the sparse goals: points on the lanes, about ``goal_spacing`` metres apart.

    Args:
        vectors: float [L, V, F], the lanes' vectors; their features are counted from the end.
        mask: bool [L, V], which vectors are real; these come first.
        goal_spacing: Largest mean distance of a lane's goals, in metres.
        limit: A vector is cut into at most this many pieces.

    Returns:
        float [G, 2]: the lanes' points with those closer than 1 cm merged, then the points between
        them, lane by lane. Without a lane, the one goal is the origin, where the target is.
    """
    end = torch.stack([vectors[:, :, -1], vectors[:, :, -2]], dim=-1)
    start = torch.stack([vectors[:, :, -3], vectors[:, :, -4]], dim=-1)
    count = mask.sum(dim=1)
    length = (torch.linalg.vector_norm(end - start, dim=-1) * mask).sum(dim=1)
    # To the host at once: reading lane by lane would wait for the device each time.
    counts: list[int] = count.tolist()
    spacings: list[float] = (length / count.clamp(min=1)).to(torch.float64).tolist()

    on_lanes = [vectors.new_zeros([0, 2])]
    between = [vectors.new_zeros([0, 2])]
    for lane, n_vectors in enumerate(counts):
        if n_vectors > 0:
            points = torch.cat([start[lane, :1], end[lane, :n_vectors]])
            on_lanes.append(points)
            n = get_subdivide_num(spacings[lane], goal_spacing, limit)
            if n > 1:
                between.append(get_subdivide_points(points, n))
    if len(on_lanes) == 1:
        return vectors.new_zeros([1, 2])
    return torch.cat([unique_points(torch.cat(on_lanes)), torch.cat(between)])


@_script
def likely_goals(log_scores: Tensor, min_log_score: float, max_goals: int) -> Tensor:
    """Returns the indices of the goals that score more than a threshold, best first.

    Args:
        log_scores: float [G].
        min_log_score: The threshold. Where no goal passes it, all do.
        max_goals: Most indices returned.

    Returns:
        int64 [N], 1 <= N <= max_goals.
    """
    ordered, index = torch.sort(log_scores, stable=True, descending=True)
    count = int((ordered > min_log_score).sum().item())
    if count == 0:
        count = log_scores.size(0)
    return index[: min(count, max_goals)]


@_script
def select_goals_by_nms(goals: Tensor, log_scores: Tensor, distance: float, count: int) -> Tensor:
    """Chooses goals greedily: the best, then the best that is far enough from all chosen ones.

    When no goal is far enough any more, the best of the rest are taken.

    Args:
        goals: float [G, 2], with G >= count.
        log_scores: float [G].
        distance: Smallest distance of two chosen goals, in metres.
        count: Goals to choose.

    Returns:
        int64 [count], indices into ``goals``.
    """
    order = torch.sort(log_scores, stable=True, descending=True)[1]
    candidates = order
    chosen: list[Tensor] = []
    while len(chosen) < count:
        if candidates.size(0) == 0:
            taken = torch.isin(order, torch.stack(chosen))
            chosen.extend(order[~taken][: count - len(chosen)].unbind())
        else:
            best = candidates[0]
            chosen.append(best)
            away = torch.linalg.vector_norm(goals[candidates] - goals[best], dim=-1)
            # Its own distance, 0, drops the chosen one too.
            far = away >= distance
            far[0] = False
            candidates = candidates[far]
    return torch.stack(chosen)

"""Draws a scene and what the model says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ts_infer.models.densetnt.model import Prediction
from ts_infer.models.densetnt.scene import Point, Scene, agent_frame, target_frame

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["draw"]

LANE_WIDTH_M = 3.5
CAR_M = (4.6, 1.9)  # length, width
VIEW_M = (110.0, 62.0)  # ahead, across: what the picture shows
BEHIND_M = 38.0  # how much of it lies behind the target, at least
FAINT = 9.0  # goals whose log-probability is this much below the best look alike

ROAD = "#e9ebee"
CENTRE = "#b3bac4"
OTHER = "#6b7684"
AV = "#1c7ed6"
TARGET = "#c92a2a"
MODE = "#f76707"
TRUTH = "#2b2f36"


def draw(scene: Scene, outputs: Sequence[Tensor], path: str | Path, *, note: str = "") -> None:
    """Draws lanes, agents, goals and trajectories into a PNG.

    The picture is in the target's frame: it is at the origin and heads to the right.

    Args:
        scene: The scene.
        outputs: What the model returned for it: the fields of ``Prediction``.
        path: The file to write.
        note: A line under the title, such as where the weights are from.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from ts_infer.models import densetnt
        >>> scene = densetnt.default_scene()
        >>> outputs = densetnt.make()(**densetnt.scene_to_inputs(scene))
        >>> densetnt.draw(scene, outputs, "scene.png")  # doctest: +SKIP
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib; run: pip install matplotlib") from error

    prediction = Prediction(*(output.detach().to("cpu", torch.float64) for output in outputs))
    figure = Figure(figsize=(11.0, 7.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.065, 0.155, 0.825, 0.735))
    furthest = max(_scene_to_view(scene, lane.points)[:, 0].max().item() for lane in scene.lanes)
    left = -min(max(BEHIND_M, VIEW_M[0] - furthest - 5.0), VIEW_M[0] / 2)
    axes.set_xlim(left, left + VIEW_M[0])
    axes.set_ylim(-VIEW_M[1] / 2, VIEW_M[1] / 2)
    axes.set_aspect("equal", adjustable="box", anchor="C")
    axes.set_xlabel("ahead of the target [m]")
    axes.set_ylabel("to its left [m]")
    axes.tick_params(color=CENTRE)
    for spine in axes.spines.values():
        spine.set_color(CENTRE)
    figure.draw_without_rendering()  # settles the scale
    points_per_m = axes.get_window_extent().width / figure.dpi * 72 / VIEW_M[0]

    _draw_lanes(axes, scene, points_per_m)
    goals = _to_view(prediction.goals)
    order = prediction.goal_scores.argsort()  # the best on top
    best = prediction.goal_scores.max().item()
    dots = axes.scatter(
        goals[order, 0].tolist(),
        goals[order, 1].tolist(),
        c=prediction.goal_scores[order].tolist(),
        vmin=max(prediction.goal_scores.min().item(), best - FAINT),
        vmax=best,
        s=(0.62 * points_per_m) ** 2,
        cmap="viridis",
        linewidths=0,
        zorder=3,
    )
    bar_axes = figure.add_axes((0.905, 0.0, 0.016, 1.0))
    bar = figure.colorbar(dots, cax=bar_axes)
    bar.set_label("log-probability of a goal")
    bar.outline.set_visible(False)
    _draw_agents(axes, scene)
    _draw_trajectories(axes, scene, prediction)

    figure.draw_without_rendering()
    box = axes.get_position()
    bar_axes.set_position((box.x1 + 0.015, box.y0, 0.016, box.height))
    title = f"{scene.name}: {len(scene.agents)} agents, {len(goals)} goals"
    figure.text(box.x0, box.y1 + 0.045, title, fontsize=13, weight="bold", va="bottom")
    subtitle = "; ".join(text for text in (scene.source, note) if text)
    figure.text(box.x0, box.y1 + 0.015, subtitle, fontsize=9.5, color=OTHER, va="bottom")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(box.x0 - 0.008, box.y0 - 0.075),
        ncols=len(handles),
        frameon=False,
        fontsize=9.5,
        borderaxespad=0,
        handletextpad=0.6,
        columnspacing=1.6,
    )
    figure.savefig(path, format="png")


def _to_view(points: Tensor) -> Tensor:
    """Turns points of the target's frame, +y ahead, into the picture's, +x ahead."""
    return torch.stack([points[..., 1], -points[..., 0]], dim=-1)


def _scene_to_view(scene: Scene, points: Sequence[Point]) -> Tensor:
    return _to_view(target_frame(scene).to_local(torch.tensor(points, dtype=torch.float64)))


def _draw_lanes(axes: Any, scene: Scene, points_per_m: float) -> None:
    from matplotlib.collections import LineCollection

    lines = [_scene_to_view(scene, lane.points).tolist() for lane in scene.lanes]
    width = LANE_WIDTH_M * points_per_m
    axes.add_collection(
        LineCollection(lines, colors=ROAD, linewidths=width, capstyle="round", zorder=1),
        autolim=False,
    )
    axes.add_collection(
        LineCollection(lines, colors=CENTRE, linewidths=0.7, zorder=2, label="lane centre"),
        autolim=False,
    )


def _draw_agents(axes: Any, scene: Scene) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import Affine2D

    labelled: set[str] = set()
    for agent in scene.agents:
        colour, label = OTHER, "other agents, past 2 s"
        if agent.id == scene.target_id:
            colour, label = TARGET, "target"
        elif agent.kind == "av":
            colour, label = AV, "recording vehicle"
        points = _scene_to_view(scene, agent.points)
        angle = agent_frame(scene, agent).heading - target_frame(scene).heading
        axes.plot(
            *points.T.tolist(),
            color=colour,
            linewidth=1.8,
            solid_capstyle="round",
            zorder=4,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        place = Affine2D().rotate(angle).translate(*points[-1].tolist())
        axes.add_patch(
            Rectangle(
                (-CAR_M[0] / 2, -CAR_M[1] / 2),
                *CAR_M,
                facecolor=colour,
                edgecolor="white",
                linewidth=0.6,
                zorder=5,
                transform=place + axes.transData,
            )
        )


def _draw_trajectories(axes: Any, scene: Scene, prediction: Prediction) -> None:
    for mode, trajectory in enumerate(_to_view(prediction.trajectories)):
        x, y = trajectory.T.tolist()
        axes.plot(x, y, color="white", linewidth=3.2, solid_capstyle="round", alpha=0.8, zorder=6)
        axes.plot(
            x,
            y,
            color=MODE,
            linewidth=1.6,
            solid_capstyle="round",
            zorder=7,
            label=f"{len(prediction.trajectories)} predictions, 3 s" if mode == 0 else None,
        )
        axes.plot(
            x[-1:],
            y[-1:],
            linestyle="none",
            marker="o",
            color=MODE,
            markersize=6,
            markeredgecolor="white",
            zorder=8,
        )
    if scene.future:
        points = _scene_to_view(scene, (scene.target.points[-1], *scene.future))
        seconds = len(scene.future) * scene.dt
        axes.plot(
            *points.T.tolist(),
            color=TRUTH,
            linewidth=1.4,
            linestyle=(0, (4, 2)),
            zorder=9,
            label=f"what the target did, {seconds:.1f} s",
        )

"""DenseTNT's inference path as one module of tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ts_infer.models.densetnt import goals
from ts_infer.models.densetnt.config import DenseTNTConfig
from ts_infer.models.densetnt.layers import MLP, Attention, ResCat, SubGraph

__all__ = ["INPUT_NAMES", "OUTPUT_NAMES", "DenseTNT", "Prediction"]


class Prediction(NamedTuple):
    """What ``DenseTNT.forward`` returns, with names: ``Prediction(*model(*inputs))``.

    Coordinates are metres in the target agent's frame: it is at the origin and heads along +y.
    """

    trajectories: Tensor  # [modes, steps, 2]: positions 0.1 s apart, best mode first
    scores: Tensor  # [modes]: log-probability of the dense goal nearest to each one's end
    goals: Tensor  # [G, 2]: all dense goals
    goal_scores: Tensor  # [G]: their log-probabilities; they add up to 1


INPUT_NAMES = ("vector_data", "vector_mask", "traj_polyline_mask", "map_polyline_mask")
OUTPUT_NAMES = Prediction._fields


class GoalScorer(nn.Module):
    """Gives every goal a log-probability."""

    def __init__(self, hidden: int) -> None:
        """Makes the goal encoder, the attention and the readout."""
        super().__init__()
        half = hidden // 2
        self.width = half
        self.encoder = nn.ModuleList([MLP(2, half), MLP(hidden, half), MLP(hidden, hidden)])
        self.attention = Attention(hidden)
        self.decoder = ResCat(4 * hidden, 1, hidden)

    def forward(self, points: Tensor, target: Tensor, context: Tensor, lanes: Tensor) -> Tensor:
        """Scores goals.

        Args:
            points: [G, 2], the goals in metres.
            target: [1, H], the target agent's state.
            context: [A + L, H], the states of agents and lanes.
            lanes: [K, H], the states of the kept lanes.

        Returns:
            [G], log-probabilities.
        """
        target = target.expand(points.shape[0], -1)
        x = self.encoder[0](points)
        for layer in self.encoder[1:]:
            x = layer(torch.cat([x, target[:, : self.width]], dim=-1))
        seen = [target, x, self.attention(x, context), self.attention(x, lanes)]
        logits: Tensor = self.decoder(torch.cat(seen, dim=-1)).squeeze(-1)
        return logits.log_softmax(dim=0)


class SetPredictor(nn.Module):
    """Predicts a set of end points at once from the heat map of goals."""

    def __init__(self, config: DenseTNTConfig) -> None:
        """Makes the encoder and one readout a group."""
        super().__init__()
        hidden = config.hidden
        self.modes = config.modes
        self.max_goals = config.set_max_goals
        self.min_log_score = math.log(config.set_min_probability)
        self.encoder = nn.Sequential(MLP(3, hidden), MLP(hidden, hidden))
        self.attention = Attention(hidden, heads=2)
        self.groups = nn.ModuleList(
            ResCat(2 * hidden, 1 + 2 * config.modes, hidden) for _ in range(config.set_groups)
        )

    def forward(self, points: Tensor, log_scores: Tensor) -> Tensor:
        """Returns the end points of the best group, [modes, 2]; see ``GoalScorer`` for the goals.

        Args:
            points: [G, 2], the goals in metres.
            log_scores: [G], their log-probabilities.
        """
        index = goals.likely_goals(log_scores, self.min_log_score, self.max_goals)
        points, log_scores = points[index], log_scores[index]
        best = points[:1]
        x = self.encoder(torch.cat([points - best, log_scores[:, None]], dim=-1))
        x = self.attention(x, x)
        pooled = torch.cat([x.amax(dim=0), x.mean(dim=0)])
        groups = torch.stack([group(pooled) for group in self.groups])
        group = groups[groups[:, 0].argmax(dim=0, keepdim=True)]
        return group[0, 1:].reshape(self.modes, 2) + best


class DenseTNT(nn.Module):
    """Predicts where one agent will be, from the recent past of all agents and the map.

    Written from the paper: J. Gu, C. Sun, H. Zhao, "DenseTNT: End-to-end Trajectory Prediction from
    Dense Goal Sets", ICCV 2021. Batch size 1. P polylines (agents and lanes), V vectors a polyline.

    Two things make it a test for an export: the number of polylines differs from scene to scene,
    and the number of goals follows from the values. All of the latter is in scripted functions
    (``goals``), so ``torch.jit.trace`` keeps the model whole.

    Example:
        >>> from ts_infer.models import densetnt
        >>> model = densetnt.make()
        >>> inputs = densetnt.scene_to_inputs(densetnt.default_scene())
        >>> densetnt.Prediction(*model(**inputs)).trajectories.shape
        torch.Size([6, 30, 2])
    """

    offsets: Tensor

    def __init__(self, config: DenseTNTConfig | None = None) -> None:
        """Makes the model with random weights; ``make`` is the seeded way."""
        super().__init__()
        self.config = config = config or DenseTNTConfig()
        hidden = config.hidden
        self.sub_graph = SubGraph(hidden, config.sub_graph_layers)
        self.lane_from_agent = Attention(hidden)
        self.global_graph = Attention(hidden, heads=2)
        self.lane_attention = Attention(hidden)
        self.lane_decoder = ResCat(3 * hidden, 1, hidden)
        self.goal_scorer = GoalScorer(hidden)
        self.set_predictor = SetPredictor(config) if config.goal_head == "set" else None
        self.trajectory_encoder = nn.Sequential(
            MLP(2, hidden), MLP(hidden, hidden), MLP(hidden, hidden)
        )
        self.trajectory_attention = Attention(hidden)
        self.trajectory_decoder = ResCat(3 * hidden, 2 * config.steps, hidden)
        reach = torch.arange(-config.dense_reach_m, config.dense_reach_m + 1.0)
        self.register_buffer("offsets", torch.cartesian_prod(reach, reach), persistent=False)

    def forward(
        self,
        vector_data: Tensor,
        vector_mask: Tensor,
        traj_polyline_mask: Tensor,
        map_polyline_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts the trajectories of the agent in row 0.

        Args:
            vector_data: float32 [P, V, 128], the vectors' features (``scene_to_inputs``), in metres
                and seconds, in the frame of the target agent.
            vector_mask: bool [P, V], which vectors are real; in each polyline these come first.
            traj_polyline_mask: bool [P], which polylines are agents. Row 0 is the target always.
            map_polyline_mask: bool [P], which polylines are lanes. Rows that are neither agent nor
                lane are padding and change nothing.

        Returns:
            The fields of ``Prediction``, in their order.
        """
        # Target, other agents, lanes; what is left out is padding.
        is_agent, is_lane = traj_polyline_mask[1:], map_polyline_mask[1:]
        agent_vectors = torch.cat([vector_data[:1], vector_data[1:][is_agent]])
        lane_vectors = vector_data[1:][is_lane]
        lane_mask = vector_mask[1:][is_lane]
        states = self.sub_graph(
            torch.cat([agent_vectors, lane_vectors]),
            torch.cat([vector_mask[:1], vector_mask[1:][is_agent], lane_mask]),
        )
        agents, lanes = states[: agent_vectors.shape[0]], states[agent_vectors.shape[0] :]

        lanes_seeing_target = lanes + self.lane_from_agent(lanes, torch.cat([lanes, agents[:1]]))
        context = torch.cat([agents, lanes_seeing_target])
        target = self.global_graph(context, context)[:1]

        kept = self._keep_lanes(target, lanes, context)
        sparse = goals.get_goal_2D(
            lane_vectors[kept],
            lane_mask[kept],
            self.config.goal_spacing_m,
            self.config.max_subdivisions,
        )
        sparse_scores = self.goal_scorer(sparse, target, context, lanes[kept])
        dense = self._dense_goals(sparse, sparse_scores)
        dense_scores = self.goal_scorer(dense, target, context, lanes[kept])

        ends, scores = self._choose_goals(dense, dense_scores)
        return self._trajectories(ends, target, context), scores, dense, dense_scores

    def _keep_lanes(self, target: Tensor, lanes: Tensor, context: Tensor) -> Tensor:
        """Returns the indices of the lanes that the target may take, best first: int64 [K]."""
        seen = [
            target.expand(lanes.shape[0], -1),
            lanes,
            self.lane_attention(lanes, context),
        ]
        probability = self.lane_decoder(torch.cat(seen, dim=-1)).squeeze(-1).softmax(dim=0)
        probability, order = torch.sort(probability, stable=True, descending=True)
        better = probability.cumsum(dim=0) - probability
        return order[better <= self.config.lane_probability]

    def _dense_goals(self, sparse: Tensor, scores: Tensor) -> Tensor:
        """Returns whole metres around the best sparse goals, then the sparse goals: [G, 2]."""
        order = torch.sort(scores, stable=True, descending=True)[1]
        seeds = torch.round(sparse[order[: self.config.dense_seeds]])
        cells = (seeds[:, None] + self.offsets).reshape(-1, 2)
        return torch.cat([torch.unique(cells, dim=0), sparse])

    def _choose_goals(self, points: Tensor, log_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the end points of the trajectories [modes, 2] and their scores, best first."""
        if self.set_predictor is None:
            nearest = goals.select_goals_by_nms(
                points, log_scores, self.config.nms_distance_m, self.config.modes
            )
            ends = points[nearest]
        else:
            ends = self.set_predictor(points, log_scores)
            distance = torch.linalg.vector_norm(ends[:, None] - points, dim=-1)
            nearest = distance.argmin(dim=1)
        scores, order = torch.sort(log_scores[nearest], stable=True, descending=True)
        return ends[order], scores

    def _trajectories(self, ends: Tensor, target: Tensor, context: Tensor) -> Tensor:
        """Fills in the way to each end point, which stays the last point: [modes, steps, 2]."""
        x = self.trajectory_encoder(ends)
        seen = [target.expand(ends.shape[0], -1), x, self.trajectory_attention(x, context)]
        way = self.trajectory_decoder(torch.cat(seen, dim=-1))
        way = way.reshape(-1, self.config.steps, 2)
        return torch.cat([way[:, :-1], ends[:, None]], dim=1)

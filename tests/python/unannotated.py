# mypy: ignore-errors
"""Modules as researchers write them: no annotations, plain Python numbers and lists."""

import functools

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ts_infer.models.decision_gate import MyDecisionGate

THRESHOLD = 0.5
OFFSETS = (1.0, -2.0)


# --- DenseTNT's goal sampling ---


def unique_points(points):
    cells = torch.round(points * 100).to(torch.int64)
    distinct, cell_of_point = torch.unique(cells, dim=0, return_inverse=True)
    order = torch.arange(points.size(0), device=points.device)
    first = torch.full((distinct.size(0),), points.size(0), dtype=torch.int64, device=points.device)
    first = first.scatter_reduce(0, cell_of_point, order, "amin")
    return points[torch.sort(first)[0]]


def get_subdivide_num(spacing, goal_spacing, limit):
    n = 1
    while n < limit and spacing / n > goal_spacing:
        n += 1
    return n


def get_subdivide_points(points, n):
    ratio = torch.arange(1, n, device=points.device).to(points.dtype) / n
    start, step = points[:-1], points[1:] - points[:-1]
    return (start[:, None] + step[:, None] * ratio[None, :, None]).reshape(-1, 2)


def get_goal_2D(vectors, mask, goal_spacing, limit=10):  # noqa: N802
    end = torch.stack([vectors[:, :, -1], vectors[:, :, -2]], dim=-1)
    start = torch.stack([vectors[:, :, -3], vectors[:, :, -4]], dim=-1)
    count = mask.sum(dim=1)
    length = (torch.linalg.vector_norm(end - start, dim=-1) * mask).sum(dim=1)
    spacings = (length / count.clamp(min=1)).to(torch.float64).tolist()
    on_lanes, between, pieces = [], [], []
    for lane, n_vectors in enumerate(count.tolist()):
        if n_vectors == 0:
            continue
        points = torch.cat([start[lane, :1], end[lane, :n_vectors]])
        on_lanes.append(points)
        n = get_subdivide_num(spacings[lane], goal_spacing, limit)
        pieces.append(n)
        if n > 1:
            between.append(get_subdivide_points(points, n))
    if len(on_lanes) == 0:
        return vectors.new_zeros([1, 2])
    goals = unique_points(torch.cat(on_lanes))
    if sum(pieces) > len(pieces):
        goals = torch.cat([goals, torch.cat(between)])
    return goals


def likely_goals(log_scores, min_log_score, max_goals):
    ordered, index = torch.sort(log_scores, stable=True, descending=True)
    count = (ordered > min_log_score).sum().item()
    if count == 0:
        count = log_scores.size(0)
    return index[: min(count, max_goals)]


def select_goals_by_nms(goals, log_scores, distance, count):
    order = torch.sort(log_scores, stable=True, descending=True)[1].tolist()
    chosen = []
    for candidate in order:
        far = True
        for other in chosen:
            if torch.linalg.vector_norm(goals[candidate] - goals[other]) < distance:
                far = False
                break
        if far:
            chosen.append(candidate)
        if len(chosen) == count:
            break
    i = 0
    while len(chosen) < count:
        if order[i] not in chosen:
            chosen.append(order[i])
        i += 1
    return torch.tensor(chosen)


class GoalSampler(nn.Module):
    def __init__(self, modes=3):
        super().__init__()
        self.settings = {"spacing": 1.5, "modes": modes, "name": "nms"}  # no TorchScript type
        self.score = nn.Linear(2, 1)

    def forward(self, vectors, mask):
        goals = get_goal_2D(vectors, mask, self.settings["spacing"])
        log_scores = self.score(goals).squeeze(-1).log_softmax(0)
        return goals[select_goals_by_nms(goals, log_scores, 2.0, self.settings["modes"])], goals


# --- Branches ---


class Block(nn.Module):
    scale = 2.0  # TorchScript knows attributes of instances only

    def __init__(self):
        super().__init__()
        self.linear = weight_norm(nn.Linear(4, 4))

    @property
    def device(self):
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, x):
        x = self.linear(x)
        if x.sum() > 0:
            return x * self.scale
        return self.negated(x)

    def negated(self, x):
        return -x


class DeepBranch(nn.Module):
    """A branch three submodules down, and a module that is used twice, under two names."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), Block()), nn.Linear(4, 4)])
        self.shared = Block()
        self.again = self.shared

    def forward(self, x, h):
        for layer in self.layers:
            x = layer(x)
        return self.again(self.shared(x) + h) + x


class InheritedGate(MyDecisionGate):
    """Its branch stands in another file."""

    def forward(self, x):
        y = super().forward(x)
        if y.abs().max() > 1:
            y = y / y.abs().max()
        return y


class Inheriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = InheritedGate()
        self.second = MyDecisionGate()

    def forward(self, x):
        return self.first(x) + self.second(x)


def logged(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args) + 0

    return call


@logged
def gated(x, n):
    if x.sum() > n:
        return x
    return -x


def add_until_positive(x, steps, extra=None):
    for _ in range(steps):
        if x.sum() > 0:
            break
        x = x + THRESHOLD
    if extra is not None:
        x = x + extra
    return x


renamed = add_until_positive


class Functions(nn.Module):
    """Calls functions with branches by name, by another name, as an attribute and decorated."""

    def __init__(self):
        super().__init__()
        self.function = add_until_positive

    def forward(self, x):
        y = add_until_positive(x, 3) + renamed(x, 2) + self.function(x, steps=1)
        return y + gated(x, 1) + x


class Codec(nn.Module):
    """Is used by its methods: forward never runs, and could not be compiled."""

    def forward(self, *args, **kwargs):
        raise NotImplementedError

    def encode(self, x, sign):
        if x.sum() > 0:
            return x * sign
        return x


class UsesCodec(nn.Module):
    def __init__(self):
        super().__init__()
        self.codec = Codec()

    def forward(self, x):
        return self.codec.encode(x, -1) + x


# --- Loops, lists, state ---


class RowLoop(nn.Module):
    def forward(self, x):
        rows = []
        for i in range(x.shape[0]):
            rows.append(x[i] * i + OFFSETS[1])  # noqa: PERF401
        return torch.stack(rows)


class Counting(nn.Module):
    def forward(self, x):
        counts, first = [0], None
        found = []
        for i in range(x.shape[0]):
            n = (x[i] > THRESHOLD).sum().item()
            if n > 0:
                found.append(n)
                if first is None:
                    first = x[i]
        for j in range((x > -100).sum().item()):
            counts.append(j * j)  # noqa: PERF401
        counts = counts + found + [2 * i for i, z in enumerate((x > 0).sum(1).tolist())]
        for a, b in zip(x[-1].tolist(), x[0].tolist()):  # noqa: B905
            if b < a and a > x.min().item():
                counts.append(1)
        if first is None:
            first = x.sum(0)
        return torch.tensor(counts), first


class Accumulating(nn.Module):
    """Starts with numbers of other types than those that come."""

    def forward(self, x):
        total, weight = 0, 1
        for i in range(x.shape[0]):
            if x[i].sum() > 0:
                total += x[i] - 1
                weight = weight * 0.5
            total -= x[0]
        return total * weight


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.previous = None

    def forward(self, x):
        previous = self.previous
        if previous is not None:
            x = x + previous
        self.previous = x
        return x * 2


class UsesCache(nn.Module):
    def __init__(self):
        super().__init__()
        self.cache = Cache()

    def forward(self, x):
        return self.cache(x) + 1


# --- What TorchScript cannot do ---


class UnseenList(nn.Module):
    """The example takes the branch that leaves the list empty."""

    def forward(self, x):
        counts = []
        if x.sum() > 1000:
            counts.append(x.shape[0])
        return x + len(counts)


def repeated(x, n):
    for _ in range(n):
        x = x + 1
    return x


class UnseenCall(nn.Module):
    def forward(self, x):
        if x.sum() > 1000:
            return repeated(x, 3)
        return x


class UsesNumpy(nn.Module):
    def forward(self, x):
        y = x * 2
        return torch.from_numpy(np.abs(y.numpy()))


class Tolist(nn.Module):
    def forward(self, x):
        if x.sum() > 1000:
            return torch.tensor([2 * value for value in x.sum(1).tolist()])
        return x


class CacheAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.previous = None

    def forward(self, x):
        if self.previous is not None:
            x = x + self.previous
        self.previous = x
        return x


class ChangingType(nn.Module):
    def forward(self, x):
        weight = 1
        if x.sum() > 1000:
            weight = 0.5
        return x * weight


class LambdaInside(nn.Module):
    def forward(self, x):
        key = lambda value: -value  # noqa: E731
        return x * key(2)


class KeywordOnly(nn.Module):
    def forward(self, x, *, factor=2):
        return x * factor

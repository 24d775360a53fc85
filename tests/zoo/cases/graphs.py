"""Networks on graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim

from cases.case import Case, Model, normal

NODES, EDGES = Dim("nodes", min=2, max=64), Dim("edges", min=1, max=256)


def graph(nodes: int, edges: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and edges between nodes that are drawn."""
    generator = torch.Generator().manual_seed(nodes + edges)
    return normal(nodes, width, seed=nodes), torch.randint(
        0, nodes, (2, edges), generator=generator
    )


def on_graphs(module: nn.Module) -> Model:
    """A module of features and edges."""
    return Model(
        module.eval(),
        graph(5, 9),
        ({0: NODES}, {1: EDGES}),
        [graph(2, 1), graph(64, 200)],
    )


def _basic(name: str) -> Case:
    def make() -> Model:
        from torch_geometric.nn import models

        return on_graphs(getattr(models, name)(8, 16, 2, out_channels=4))

    return Case(f"torch_geometric/{name}", make)


def _layer(name: str, *arguments: Any) -> Case:
    def make() -> Model:
        from torch_geometric import nn as layers

        return on_graphs(getattr(layers, name)(*arguments))

    return Case(f"torch_geometric/{name}", make)


CASES = [
    *(_basic(name) for name in ("GCN", "GraphSAGE", "GAT", "GIN", "EdgeCNN")),
    _layer("TransformerConv", 8, 4),
    _layer("GraphConv", 8, 4),
    _layer("ChebConv", 8, 4, 2),
    _layer("TAGConv", 8, 4),
    _layer("ARMAConv", 8, 4),
]

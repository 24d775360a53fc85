"""The blocks that DenseTNT is built from; P polylines, V vectors, N rows, H hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "Attention", "ResCat", "SubGraph"]

MASKED = -10000.0  # added to the logits of padded vectors; finite, so that no row becomes NaN


class MLP(nn.Module):
    """Linear, layer norm, ReLU: [..., inputs] → [..., outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Makes the layer of the two widths."""
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to the last dimension."""
        return torch.relu(self.norm(self.linear(x)))


class Attention(nn.Module):
    """Attention with one or more heads and no output projection."""

    def __init__(self, hidden: int, heads: int = 1) -> None:
        """Makes ``heads`` heads of the size ``hidden / heads``."""
        super().__init__()
        self.heads = heads
        self.size = hidden // heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Lets every row of ``x`` look at the rows of ``context``.

        Args:
            x: float [..., N, H], the rows that ask.
            context: float [..., M, H], the rows that answer.
            mask: bool [..., M], which of them are real; all, if None.

        Returns:
            float [..., N, H], the heads side by side.
        """
        bias = None
        if mask is not None:
            bias = (~mask)[..., None, None, :].to(x.dtype) * MASKED
        heads = functional.scaled_dot_product_attention(
            self._split(self.query(x)),
            self._split(self.key(context)),
            self._split(self.value(context)),
            attn_mask=bias,
        )
        return heads.transpose(-3, -2).flatten(-2)

    def _split(self, x: Tensor) -> Tensor:
        """[..., N, H] → [..., heads, N, H / heads]."""
        return x.reshape(*x.shape[:-1], self.heads, self.size).transpose(-3, -2)


class ResCat(nn.Module):
    """A linear readout of the input beside an MLP of it: [..., inputs] → [..., outputs]."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        """Makes the readout; ``hidden`` is the width of the MLP."""
        super().__init__()
        self.mlp = MLP(inputs, hidden)
        self.linear = nn.Linear(inputs + hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer to the last dimension."""
        out: Tensor = self.linear(torch.cat([x, self.mlp(x)], dim=-1))
        return out


class SubGraph(nn.Module):
    """Encodes every polyline by itself: [P, V, H] → [P, H]."""

    def __init__(self, hidden: int, layers: int) -> None:
        """Makes two MLPs and ``layers`` attention layers of two heads."""
        super().__init__()
        self.mlp = nn.Sequential(MLP(hidden, hidden), MLP(hidden, hidden))
        self.attention = nn.ModuleList(Attention(hidden, heads=2) for _ in range(layers))
        self.norm = nn.ModuleList(nn.LayerNorm(hidden, eps=1e-5) for _ in range(layers))

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Returns the largest value over the real vectors; 0 for a polyline that has none.

        Args:
            vectors: float [P, V, H].
            mask: bool [P, V], which vectors are real.
        """
        x: Tensor = self.mlp(vectors)
        for attention, norm in zip(self.attention, self.norm, strict=True):
            x = norm(torch.relu(attention(x, x, mask)) + x)
        x = x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        return x.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)

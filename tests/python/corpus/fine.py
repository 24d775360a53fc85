"""Models that lose nothing, and must not be refused."""
# mypy: ignore-errors

import warnings

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from corpus.case import Case, rand

BATCH = Dim("batch", min=1, max=6)
TIME = Dim("time", min=1, max=8)


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


class ConvBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = functional.relu(self.norm(self.conv(x)))
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True)

    def forward(self, x):
        out, (h, _) = self.lstm(x)
        return out, h[-1]


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.gru(x)[0]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x).mean(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, q, kv):
        out, weights = self.attention(q, kv, kv)
        return out + q, weights


class Classifier(nn.Module):
    """Tokens to logits, with tied weights and positions from a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.linspace(0, 1, 8).unsqueeze(1))

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        return self.head(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()) for _ in range(3)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(rand(3, 4, 2))

    def forward(self, x):
        return torch.einsum("btc,chd->bthd", x, self.w).flatten(2)


class MaskedSoftmax(nn.Module):
    def forward(self, scores, mask):
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, -1)


class Upsample(nn.Module):
    def forward(self, x):
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class WeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.nn.utils.weight_norm is deprecated
            self.old = nn.utils.weight_norm(nn.Linear(4, 4))
        self.new = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x):
        return self.new(torch.relu(self.old(x)))


class ShapeAssert(nn.Module):
    """Checks a size that never changes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        assert x.shape[-1] == 4, "four features"
        if x.ndim != 2:
            raise ValueError("expected a batch of rows")
        return self.linear(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script is deprecated

    @torch.jit.script
    def scripted_gate(x):
        if bool(x.sum() > 0):
            return x
        return -x


class Hybrid(nn.Module):
    """Its branch is scripted already."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return scripted_gate(self.linear(x)) + 1


class GroupedConv1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding="same", groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1)

    def forward(self, x):
        return self.up(functional.silu(self.norm(self.conv(x))))


class Functional(nn.Module):
    def forward(self, x):
        x = functional.normalize(functional.leaky_relu(x, 0.1), dim=-1)
        x = torch.cat([x, x.flip(0)], -1).roll(1, 0).clamp(-1, 1)
        return torch.logsumexp(x, -1), x.softmax(-1).cumsum(-1), functional.one_hot(x.argmax(-1), 6)


class PointNet(nn.Module):
    """Shared MLP and a maximum over points."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, points):
        return self.mlp(points).amax(1)


class InPlaceOnOwn(nn.Module):
    """In place, but on tensors of its own."""

    def forward(self, x):
        y = x.clone()
        y[:, 0] = 0
        return y.mul_(2).relu_()


class Scatter(nn.Module):
    """One message-passing step."""

    def forward(self, x, edges):
        source, target = edges[0], edges[1]
        return torch.zeros_like(x).index_add(0, target, x[source])


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4).bfloat16()

    def forward(self, x):
        return self.linear(x.bfloat16()).float()


class FlashAttention(nn.Module):
    def forward(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)


class Integer(nn.Module):
    def forward(self, index, table):
        return table[index % 5] // 2, (index > 2) & (index < 7)


class Spectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))

    def forward(self, audio):
        z = torch.stft(audio, 8, 4, window=self.window, return_complex=True)
        return z.abs().square().sum(1)


class Cloud(nn.Module):
    """Pairwise distances and the nearest neighbours."""

    def forward(self, a, b):
        d = torch.cdist(a, b)
        return d.topk(2, largest=False).indices, d.min(1).values


class Packed(nn.Module):
    """Chunks, unbind and unflatten by sizes that never change."""

    def forward(self, x):
        a, b = x.chunk(2, -1)
        q, k = a.unflatten(-1, (2, 1)).unbind(-2)
        return torch.stack([q, k], 0).squeeze(-1), b.transpose(0, 1).contiguous().view(-1)


CASES = [
    Case("MLP", Mlp, (rand(2, 4),), "exported", [(rand(2, 4, seed=1),), (rand(2, 4, scale=99),)]),
    Case(
        "conv and batch norm",
        ConvBatchNorm,
        (rand(2, 3, 6, 6),),
        "exported",
        [(rand(4, 3, 7, 5, seed=1),), (rand(1, 3, 4, 4, seed=2),)],
        "",
        {"x": {0: BATCH, 2: Dim("h", min=4, max=8), 3: Dim("w", min=4, max=8)}},
    ),
    Case(
        "LSTM",
        Lstm,
        (rand(2, 3, 3),),
        "exported",
        [(rand(5, 7, 3, seed=1),), (rand(1, 1, 3, seed=2),), (rand(2, 3, 3),)],
        "",
        {"x": {0: BATCH, 1: TIME}},
    ),
    Case(
        "GRU",
        Gru,
        (rand(2, 3, 3),),
        "exported",
        [(rand(5, 7, 3, seed=1),), (rand(1, 1, 3, seed=2),)],
        "",
        {"x": {0: BATCH, 1: TIME}},
    ),
    Case(
        "transformer encoder",
        Encoder,
        (rand(2, 5, 8),),
        "exported",
        [(rand(4, 3, 8, seed=1),), (rand(1, 8, 8, seed=2),)],
        "",
        {"x": {0: BATCH, 1: TIME}},
    ),
    Case(
        "multi-head attention",
        Attention,
        (rand(2, 3, 8), rand(2, 5, 8, seed=1)),
        "exported",
        [(rand(1, 2, 8), rand(1, 7, 8, seed=1)), (rand(5, 6, 8), rand(5, 1, 8, seed=3))],
        "",
        {"q": {0: BATCH, 1: Dim("queries", min=1, max=8)}, "kv": {0: BATCH, 1: TIME}},
    ),
    Case(
        "classifier",
        Classifier,
        (torch.tensor([[1, 2, 3]]),),
        "exported",
        [(torch.tensor([[10, 0], [4, 4]]),), (torch.tensor([[1, 2, 3, 4, 5]]),)],
        "",
        {"tokens": {0: BATCH, 1: TIME}},
    ),
    Case(
        "residual",
        Residual,
        (rand(2, 4),),
        "exported",
        [(rand(2, 4, seed=1),), (torch.zeros(2, 4),)],
    ),
    Case(
        "einsum",
        Einsum,
        (rand(2, 5, 3),),
        "exported",
        [(rand(1, 2, 3, seed=1),), (rand(6, 8, 3, seed=2),)],
        "",
        {"x": {0: BATCH, 1: TIME}},
    ),
    Case(
        "masked softmax",
        MaskedSoftmax,
        (rand(2, 3), torch.tensor([[True, False, True], [True, True, True]])),
        "exported",
        [(rand(2, 3, seed=1), torch.zeros(2, 3, dtype=torch.bool))],
    ),
    Case(
        "interpolate",
        Upsample,
        (rand(1, 2, 3, 4),),
        "exported",
        [(rand(1, 2, 5, 2, seed=1),)],
        "",
        {"x": {2: Dim("h", min=2, max=6), 3: Dim("w", min=2, max=6)}},
    ),
    Case("weight norm", WeightNorm, (rand(2, 4),), "exported", [(rand(2, 4, seed=1),)]),
    Case(
        "shape assert",
        ShapeAssert,
        (rand(2, 4),),
        "exported",
        [(rand(5, 4, seed=1),)],
        "",
        {"x": {0: BATCH}},
    ),
    Case("hybrid", Hybrid, (rand(3),), "exported", [(-rand(3),), (rand(3, seed=1),)]),
    Case(
        "grouped convolution",
        GroupedConv1d,
        (rand(2, 4, 6),),
        "exported",
        [(rand(1, 4, 9, seed=1),)],
        "",
        {"x": {0: BATCH, 2: Dim("length", min=3, max=12)}},
    ),
    Case("functional", Functional, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
    Case(
        "point net",
        PointNet,
        (rand(2, 5, 3),),
        "exported",
        [(rand(1, 1, 3, seed=1),), (rand(3, 8, 3, seed=2),)],
        "",
        {"points": {0: BATCH, 1: Dim("points", min=1, max=8)}},
    ),
    Case("in place on its own", InPlaceOnOwn, (rand(2, 3),), "exported", [(rand(2, 3, seed=1),)]),
    Case(
        "message passing",
        Scatter,
        (rand(4, 2), torch.tensor([[0, 1, 2], [1, 2, 3]])),
        "exported",
        [(rand(4, 2, seed=1), torch.tensor([[0, 0, 0], [1, 1, 1]]))],
    ),
    Case("half precision", Half, (rand(2, 4),), "exported", [(rand(2, 4, seed=1),)]),
    Case(
        "scaled dot product",
        FlashAttention,
        (rand(1, 2, 3, 4), rand(1, 2, 5, 4, seed=1), rand(1, 2, 5, 4, seed=2)),
        "exported",
        [(rand(1, 2, 2, 4), rand(1, 2, 7, 4, seed=1), rand(1, 2, 7, 4, seed=2))],
        "",
        {"q": {2: Dim("queries", min=1, max=8)}, "k": {2: TIME}, "v": {2: TIME}},
    ),
    Case(
        "integers",
        Integer,
        (torch.tensor([1, 2, 3]), torch.arange(6)),
        "exported",
        [(torch.tensor([9, 0, 4]), torch.arange(6) * 3)],
    ),
    Case(
        "spectrogram",
        Spectrogram,
        (rand(1, 32),),
        "exported",
        [(rand(1, 48, seed=1),), (rand(1, 16, seed=2),)],
        "",
        {"audio": {1: Dim("samples", min=16, max=64)}},
    ),
    Case(
        "nearest neighbours",
        Cloud,
        (rand(3, 2), rand(4, 2, seed=1)),
        "exported",
        [(rand(5, 2, seed=2), rand(4, 2, seed=3))],
        "",
        {"a": {0: Dim("points", min=1, max=6)}, "b": None},
    ),
    Case("packed", Packed, (rand(3, 4),), "exported", [(rand(3, 4, seed=1),)]),
]

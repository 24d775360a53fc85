"""What a random net is made of: one function for each family of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from net import Line
from net_drawing import Drawing, size

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


def tuple_text(values: list[int]) -> str:
    """A number where all are the same."""
    if len(set(values)) == 1:
        return str(values[0])
    return f"({', '.join(map(str, values))})"


def some(r: random.Random, n: int, values: tuple[int, ...]) -> list[int]:
    """One number for all dimensions, or one for each."""
    return [r.choice(values)] * n if r.random() < 0.6 else [r.choice(values) for _ in range(n)]


def words(**named: object) -> str:
    """Named arguments that are not None."""
    return "".join(f", {name}={value}" for name, value in named.items() if value is not None)


def divisor(r: random.Random, n: int) -> int:
    """Of a number of channels."""
    return r.choice([i for i in range(1, n + 1) if n % i == 0] or [1])


# Convolutions and products.


def convolution(d: Drawing) -> None:
    r = d.random
    n = r.choice((1, 1, 2, 2, 2, 3))
    name = d.of_rank(n + (1 if d.chance(0.06) else 2))
    if name is None:
        return
    x = d[name]
    channels = x.size(x.dim() - n - 1)
    if channels == 0:
        return
    groups = divisor(r, channels) if d.chance(0.35) else 1
    outputs = groups * r.randint(1, 3) if groups > 1 else size(r)
    if d.chance(0.1):
        outputs = channels if channels % groups == 0 else outputs
    kernel = some(r, n, (1, 1, 2, 3, 3, 3, 5, 7) if n < 3 else (1, 2, 3))
    dilation = some(r, n, (1, 1, 1, 2, 3))
    stride = some(r, n, (1, 1, 1, 2, 3))
    options = words(
        stride=tuple_text(stride) if set(stride) != {1} else None,
        dilation=tuple_text(dilation) if set(dilation) != {1} else None,
        groups=groups if groups > 1 else None,
        bias=False if d.chance(0.25) else None,
    )
    kind = r.random()
    mode = None
    if kind < 0.15:
        padding = '"valid"'
    elif kind < 0.35 and set(stride) == {1}:
        padding = '"same"'
        mode = r.choice((None, None, '"circular"', '"replicate"', '"reflect"'))
    else:
        padding = tuple_text(
            [
                max(0, (k - 1) * g // 2 + r.choice((0, 0, 0, -1, 1)))
                for k, g in zip(kernel, dilation, strict=True)
            ]
        )
        mode = r.choice((None, None, None, None, None, '"circular"', '"replicate"', '"reflect"'))
    if d.chance(0.15):
        weight = d.parameter(outputs, channels // groups, *kernel)
        options = options.replace(", bias=False", "")
        bias = d.parameter(outputs) if d.chance(0.6) else None
        d.assign(f"F.conv{n}d({name}, {weight}, {bias}{options}{words(padding=padding)})")
        return
    options += words(padding=padding, padding_mode=mode)
    made = f"nn.Conv{n}d({channels}, {outputs}, {tuple_text(kernel)}{options})"
    result = d.apply(made, name)
    if result is not None and d.chance(0.5):
        after_product(d, result, n)


def transposed(d: Drawing) -> None:
    r = d.random
    n = r.choice((1, 2, 2, 3))
    name = d.of_rank(n + 2)
    if name is None or d[name].size(1) == 0:
        return
    channels = d[name].size(1)
    groups = divisor(r, channels) if d.chance(0.3) else 1
    stride = some(r, n, (1, 2, 2, 3))
    extra = [r.randint(0, s - 1) if d.chance(0.3) else 0 for s in stride]
    kernel = some(r, n, (1, 2, 3, 4, 5) if n < 3 else (1, 2, 3))
    options = words(
        stride=tuple_text(stride),
        padding=tuple_text([r.randint(0, k // 2) for k in kernel]),
        output_padding=tuple_text(extra) if any(extra) else None,
        dilation=2 if d.chance(0.15) else None,
        groups=groups if groups > 1 else None,
        bias=False if d.chance(0.25) else None,
    )
    outputs = groups * r.randint(1, 4)
    made = f"nn.ConvTranspose{n}d({channels}, {outputs}, {tuple_text(kernel)}{options})"
    result = d.apply(made, name)
    if result is not None and d.chance(0.4):
        after_product(d, result, n)


def after_product(d: Drawing, name: str, n: int | None = None) -> None:
    """What is often fused: a norm, a sum, an activation."""
    r = d.random
    kind = r.random()
    x = d[name]
    if kind < 0.3 and n is not None and x.dim() == n + 2:
        d.apply(f"nn.BatchNorm{n}d({x.size(1)})", name)
    elif kind < 0.3 and x.dim() == 2:  # behind a linear, or a convolution without a batch
        d.apply(f"nn.BatchNorm1d({x.size(1)})", name)
    elif kind < 0.6:
        terms = d.floats(lambda y: y.dim() <= x.dim())
        other = r.choice(terms) if terms else name
        if d.chance(0.4):
            ones = [k if r.random() < 0.4 else 1 for k in x.shape][r.randint(0, x.dim()) :]
            other = d.parameter(*ones) or other
        if d.chance(0.2):
            other = r.choice(("1", "0.5", "torch.tensor(0.5)", "torch.ones(1)"))
        text = r.choice(
            (
                "{a} + {b}",
                "{b} + {a}",
                "torch.add({a}, {b}, alpha=2)",
                "{a} - {b}",
                "{a} * {b}",
                "{a}.add({b})",
            )
        )
        if d.chance(0.3):
            d.statement(
                r.choice(("{a}.add_({b})", "{a} += {b}", "{a}.mul_({b})", "{a}.sub_({b})")).format(
                    a=name, b=other
                )
            )
        else:
            d.assign(text.format(a=name, b=other))
    else:
        activation(d, name)
        return
    if d.names[-1] != name and d.chance(0.6):
        activation(d, d.names[-1])


def linear(d: Drawing) -> None:
    r = d.random
    name = d.pick(lambda x: x.dim() > 0 and x.size(-1) > 0)
    if name is None:
        return
    inputs, outputs = d[name].size(-1), size(r)
    if d.chance(0.8):
        made = f"nn.Linear({inputs}, {outputs}{words(bias=False if d.chance(0.25) else None)})"
        result = d.apply(made, name)
    else:
        weight = d.parameter(*(() if d.chance(0.1) else (outputs,)), inputs)
        result = d.assign(f"F.linear({name}, {weight})")
    if result is not None and d.chance(0.5):
        after_product(d, result)


def product(d: Drawing) -> None:
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    x = d[name]
    kind = r.randrange(7)
    if kind == 0:
        d.assign(f"{name} @ {d.parameter(x.size(-1), size(r))}")
    elif kind == 1 and x.dim() > 1:
        d.assign(f"{name} @ {name}.transpose(-1, -2)")
    elif kind == 2:
        d.assign(f"torch.matmul({name}, {d.parameter(x.size(-1))})")
    elif kind == 3 and x.dim() == 2:
        weight, bias = d.parameter(x.size(1), 5), d.parameter(*r.choice(((5,), (1, 5), (1,), ())))
        d.assign(f"torch.addmm({bias}, {name}, {weight}{words(alpha=r.choice((None, 2)))})")
    elif kind == 4 and x.dim() == 3:
        d.assign(f"torch.bmm({name}, {name}.transpose(1, 2))")
    elif kind == 5 and x.dim() > 1:
        d.assign(f'torch.einsum("...ij,kj->...ik", {name}, {d.parameter(3, x.size(-1))})')
    else:
        other = r.choice(d.floats())
        d.assign(f"torch.matmul({name}, {other})")


# Norms.


def norm(d: Drawing) -> None:
    r = d.random
    kind = r.randrange(8)
    name = d.of_rank(r.choice((2, 3, 4, 4, 5))) if kind < 6 else d.pick(lambda x: x.dim() > 0)
    if name is None or d[name].dim() < 1:
        return
    x = d[name]
    channels = x.size(1) if x.dim() > 1 else 1
    n = max(1, x.dim() - 2)
    if channels == 0:
        return
    affine = words(affine=False if d.chance(0.25) else None)
    if kind < 3:
        tracked = words(track_running_stats=False if d.chance(0.05) else None)
        d.apply(f"nn.BatchNorm{n}d({channels}{affine}{tracked})", name)
    elif kind == 3:
        d.apply(f"nn.GroupNorm({divisor(r, channels)}, {channels}{affine})", name)
    elif kind == 4 and x.dim() > 2:
        tracked = words(
            affine=r.choice((None, True)), track_running_stats=True if d.chance(0.2) else None
        )
        d.apply(f"nn.InstanceNorm{n}d({channels}{tracked})", name)
    elif kind == 5:
        d.apply(f"nn.LocalResponseNorm({r.randint(1, 3)})", name)
    elif d.chance(0.75):
        over = list(x.shape[-r.choice((1, 1, 1, 2)) :])
        options = r.choice(("", "", "", ", elementwise_affine=False", ", bias=False", ", eps=1e-3"))
        d.apply(f"nn.LayerNorm({over}{options})", name)
    elif d.chance(0.5):
        d.apply(f"nn.RMSNorm({x.size(-1)})", name)
    else:
        d.assign(f"F.normalize({name}, dim={r.randrange(x.dim())})")


# Attention.


def attention(d: Drawing) -> None:
    r = d.random
    kind = r.random()
    if kind < 0.5:
        scaled_attention(d)
    elif kind < 0.75:
        multihead(d)
    else:
        encoder_layer(d)


def scaled_attention(d: Drawing) -> None:
    r = d.random
    name = d.of_rank(r.choice((2, 3, 3, 4, 4)))
    if name is None:
        return
    q = d[name]
    if q.dim() < 2:
        return
    k = name
    if d.chance(0.5):
        k = d.pick(lambda x: x.dim() == q.dim() and x.size(-1) == q.size(-1)) or name
    if d.chance(0.4) and d[k].size(-2) > 1:
        k = d.assign(f"{k}[..., :{r.randint(1, d[k].size(-2))}, :]") or k
    v = k
    if d.chance(0.3):
        v = d.apply(f"nn.Linear({q.size(-1)}, {size(r)})", k) or k
    options = words(scale=r.choice((None, None, None, 0.5)))
    lengths = (q.size(-2), d[k].size(-2))
    mask = r.random()
    if mask < 0.2:
        options += ", is_causal=True"
    elif mask < 0.4:
        options += f", attn_mask={d.parameter(*lengths)}"
    elif mask < 0.5:
        options += f", attn_mask={d.parameter(*lengths)} > {r.choice(('0', '-1', '-9', '9'))}"
    elif mask < 0.6:
        made = d.assign(f"{name}[..., :1] * {d.parameter(lengths[1])}")
        options += f", attn_mask={made}"
    elif mask < 0.65:
        options += f", attn_mask=torch.ones({lengths[0]}, {lengths[1]}).tril().bool()"
    d.assign(f"F.scaled_dot_product_attention({name}, {k}, {v}{options})")


def multihead(d: Drawing) -> None:
    r = d.random
    name = d.of_rank(r.choice((2, 3, 3, 3)))
    if name is None or d[name].dim() < 2 or d[name].size(-1) == 0:
        return
    x = d[name]
    width = x.size(-1)
    first = bool(d.chance(0.6))
    options = words(
        batch_first=True if first else None,
        bias=False if d.chance(0.15) else None,
        add_bias_kv=True if d.chance(0.1) else None,
        add_zero_attn=True if d.chance(0.1) else None,
    )
    part = d.part(f"nn.MultiheadAttention({width}, {divisor(r, width)}{options})")
    other = name
    if d.chance(0.3):
        other = d.pick(lambda y: y.dim() == x.dim() and y.size(-1) == width) or name
    length = x.size(1 if first and x.dim() == 3 else 0)
    keys = d[other].size(1 if first and x.dim() == 3 else 0)
    call = words(
        need_weights=False if d.chance(0.5) else None,
        attn_mask=d.parameter(length, keys) if d.chance(0.2) else None,
        average_attn_weights=False if d.chance(0.1) else None,
    )
    result = d.new()
    text = f"{result} = {part}({name}, {other}, {other}{call})[0]"
    if d.run(text):
        d.lines.append(Line(text))
        d.names.append(result)


def encoder_layer(d: Drawing) -> None:
    r = d.random
    name = d.of_rank(r.choice((2, 3, 3, 3)))
    if name is None or d[name].dim() < 2 or d[name].size(-1) == 0:
        return
    width = d[name].size(-1)
    options = words(
        dim_feedforward=size(r),
        batch_first=True if d.chance(0.6) else None,
        norm_first=True if d.chance(0.3) else None,
        activation=r.choice((None, '"gelu"')),
    )
    d.apply(f"nn.TransformerEncoderLayer({width}, {divisor(r, width)}{options})", name)


# Recurrences.


def recurrent(d: Drawing) -> None:
    r = d.random
    if d.chance(0.3):
        cell(d)
        return
    name = d.of_rank(r.choice((2, 3, 3, 3)))
    if name is None or d[name].dim() < 2 or d[name].size(-1) == 0:
        return
    x = d[name]
    kind = r.choice(("LSTM", "LSTM", "GRU", "GRU", "RNN"))
    hidden = size(r)
    options = words(
        num_layers=2 if d.chance(0.25) else None,
        batch_first=True if d.chance(0.5) else None,
        bidirectional=True if d.chance(0.25) else None,
        bias=False if d.chance(0.15) else None,
        proj_size=max(1, hidden // 2) if kind == "LSTM" and hidden > 1 and d.chance(0.1) else None,
        nonlinearity='"relu"' if kind == "RNN" and d.chance(0.5) else None,
    )
    part = d.part(f"nn.{kind}({x.size(-1)}, {hidden}{options})")
    out, state = d.new(), d.new("s")
    text = f"{out}, {state} = {part}({name})"
    if not d.run(text) or d[out].numel() > 6000:
        return
    d.lines.append(Line(text))
    d.names.append(out)
    if d.chance(0.4):
        d.assign(f"{state}[{r.randint(0, 1)}]" if kind == "LSTM" else f"{state} * 1.0")
        if d.chance(0.4):
            again = d.new()
            text = f"{again} = {part}({name}, {state})[0]"
            if d.run(text):
                d.lines.append(Line(text))
                d.names.append(again)


def cell(d: Drawing) -> None:
    r = d.random
    name = d.of_rank(r.choice((1, 2, 2, 2)))
    if name is None or d[name].dim() < 1 or d[name].size(-1) == 0:
        return
    kind = r.choice(("LSTMCell", "GRUCell", "RNNCell"))
    bias = words(bias=False if d.chance(0.15) else None)
    part = d.part(f"nn.{kind}({d[name].size(-1)}, {size(r)}{bias})")
    if kind == "LSTMCell":
        h, c = (d.unpack(f"{part}({name})", 2) or ("", ""))[:2]
        if h and d.chance(0.5):
            d.unpack(f"{part}({name}, ({h}, {c}))", 2)
    else:
        hidden = d.assign(f"{part}({name})")
        if hidden is not None and d.chance(0.5):
            d.assign(f"{part}({name}, {hidden})")


# Pooling, interpolation, padding.


def pooling(d: Drawing) -> None:
    r = d.random
    n = r.choice((1, 2, 2, 2, 3))
    name = d.of_rank(n + (1 if d.chance(0.06) else 2))
    if name is None:
        return
    kernel = some(r, n, (1, 2, 2, 3, 3))
    stride = tuple_text(some(r, n, (1, 2, 2, 3))) if d.chance(0.7) else None
    padding = [r.randint(0, k // 2) if d.chance(0.4) else 0 for k in kernel]
    options = words(
        stride=stride,
        padding=tuple_text(padding) if any(padding) else None,
        ceil_mode=True if d.chance(0.35) else None,
    )
    text = tuple_text(kernel)
    kind = r.random()
    if kind < 0.4:
        options += words(dilation=2 if d.chance(0.2) else None)
        if d.chance(0.5):
            d.apply(f"nn.MaxPool{n}d({text}{options})", name)
        elif d.chance(0.15):
            d.unpack(f"F.max_pool{n}d({name}, {text}{options}, return_indices=True)", 2)
        else:
            d.assign(f"F.max_pool{n}d({name}, {text}{options})")
    elif kind < 0.7:
        options += words(
            count_include_pad=False if d.chance(0.4) else None,
            divisor_override=r.randint(1, 5) if n > 1 and d.chance(0.2) else None,
        )
        if d.chance(0.5):
            d.apply(f"nn.AvgPool{n}d({text}{options})", name)
        else:
            d.assign(f"F.avg_pool{n}d({name}, {text}{options})")
    elif kind < 0.95:
        out = some(r, n, (1, 1, 2, 3, 4))
        which = r.choice(("avg", "avg", "max"))
        if d.chance(0.5):
            d.apply(f"nn.Adaptive{which.capitalize()}Pool{n}d({tuple_text(out)})", name)
        else:
            d.assign(f"F.adaptive_{which}_pool{n}d({name}, {tuple_text(out)})")
    elif n < 3:
        d.assign(f"F.lp_pool{n}d({name}, 2.0, {kernel[0]})")


def interpolation(d: Drawing) -> None:
    r = d.random
    n = r.choice((1, 2, 2, 2, 3))
    name = d.of_rank(n + 2)
    if name is None:
        return
    mode = r.choice(
        (
            "nearest",
            "nearest-exact",
            "area",
            {1: "linear", 2: "bilinear", 3: "trilinear"}[n],
            "bicubic" if n == 2 else "nearest",
        )
    )
    options = words(mode=f'"{mode}"')
    if mode in ("linear", "bilinear", "bicubic", "trilinear") and d.chance(0.6):
        options += words(align_corners=r.choice((True, False)))
    if mode in ("bilinear", "bicubic") and d.chance(0.15):
        options += ", antialias=True"
    if d.chance(0.5):
        options += words(scale_factor=r.choice((2.0, 2.0, 0.5, 1.5, 3.0)))
    else:
        options += words(size=tuple_text(some(r, n, (1, 2, 3, 5, 6, 8))))
    d.assign(f"F.interpolate({name}{options})")


def padding(d: Drawing) -> None:
    r = d.random
    name = d.pick(lambda x: x.dim() > 1)
    if name is None:
        return
    x = d[name]
    mode = r.choice(("constant", "constant", "reflect", "replicate", "circular"))
    if mode != "constant" and x.dim() < 3:
        name = d.of_rank(3)
        if name is None:
            return
        x = d[name]
    dims = max(1, x.dim() - 2) if mode != "constant" else r.randint(1, x.dim())
    amounts = [r.choice((0, 1, 1, 2)) for _ in range(2 * dims)]
    if mode != "circular" and d.chance(0.15):  # torch's answer has memory in it that none wrote
        amounts[r.randrange(len(amounts))] = -1
    options = words(mode=f'"{mode}"' if mode != "constant" else None)
    if mode == "constant" and d.chance(0.4):
        options = words(value=r.choice((1.0, -2.5)))
    d.assign(f"F.pad({name}, {amounts}{options})")


# Elementwise.

PLAIN = (
    "F.relu({})", "torch.relu({})", "F.relu6({})", "F.elu({})", "F.elu({}, alpha=0.3)",
    "F.selu({})", "F.celu({}, alpha=0.7)", "F.gelu({})", 'F.gelu({}, approximate="tanh")',
    "F.silu({})", "F.mish({})", "torch.sigmoid({})", "torch.tanh({})", "F.hardtanh({})",
    "F.hardtanh({}, -0.3, 0.4)", "F.hardswish({})", "F.hardsigmoid({})", "F.hardshrink({})",
    "F.softshrink({}, 0.2)", "F.tanhshrink({})", "F.threshold({}, 0.1, 2.0)",
    "F.leaky_relu({})", "F.leaky_relu({}, 0.3)", "F.softplus({})", "F.softplus({}, 2.0, 5.0)",
    "F.softsign({})", "F.logsigmoid({})", "F.softmax({}, dim=-1)", "F.log_softmax({}, dim=-1)",
    "F.softmin({}, dim=0)", "F.softmax({}, dim=0)", "torch.exp({})", "torch.log({}.abs() + 0.1)",
    "torch.sqrt({}.abs())", "torch.rsqrt({}.abs() + 0.5)", "{}.abs()", "-{}", "torch.erf({})",
    "torch.sin({})", "torch.cos({})", "{} ** 2", "torch.square({})", "{}.clamp(-0.5, 0.5)",
    "{}.clamp(min=0)", "torch.clamp({}, max=0.3)", "{}.sign()", "torch.nan_to_num({})",
    "torch.expm1({})", "torch.atan({})", "torch.reciprocal({}.abs() + 1.0)", "{}.log1p()",
    "{} / 3", "2 * {}", "1.0 - {}", "{} + 1", "{}.round()", "{}.floor()", "{} > 0.137",
    "F.glu({}, dim=-1)", "F.glu({}, dim=1)", "F.rrelu({})", "F.dropout({}, 0.5, False)",
    "{} * torch.sigmoid({})", "{} * torch.tanh(F.softplus({}))", "{} / (1 + torch.exp(-{}))",
)  # fmt: skip
IN_PLACE = (
    "{}.relu_()", "F.relu({}, inplace=True)", "F.relu6({}, inplace=True)",
    "F.elu({}, inplace=True)", "F.selu({}, inplace=True)", "F.celu({}, inplace=True)",
    "F.silu({}, inplace=True)", "F.mish({}, inplace=True)", "{}.sigmoid_()", "{}.tanh_()",
    "F.hardtanh({}, inplace=True)", "F.hardswish({}, inplace=True)",
    "F.hardsigmoid({}, inplace=True)", "F.leaky_relu({}, 0.2, inplace=True)",
    "F.threshold({}, 0.1, 0.5, inplace=True)", "{}.clamp_(-0.7, 0.7)", "{}.mul_(2)",
    "{}.add_(1)", "{}.neg_()", "{}.exp_()", "{}.abs_()", "{}.sub_(0.5)", "{}.div_(2)",
    "{}.zero_()", "{}.fill_(0.25)", "{}.square_()", "{}.sqrt_()", "{}.clamp_(min=0)",
    "{}.add_({}.mean())", "{}.pow_(2)",
)  # fmt: skip
MODULES = (
    "nn.ReLU(inplace=True)", "nn.SiLU(inplace=True)", "nn.Hardswish(inplace=True)", "nn.GELU()",
    "nn.LeakyReLU(0.1, inplace=True)", "nn.PReLU()", "nn.Sigmoid()", "nn.Tanh()", "nn.ReLU()",
    "nn.ELU(inplace=True)", "nn.Hardsigmoid(inplace=True)", "nn.ReLU6(inplace=True)",
    "nn.Softmax(dim=-1)", "nn.Softplus()", "nn.Mish(inplace=True)", "nn.Hardtanh(inplace=True)",
    "nn.Dropout(0.5)", "nn.Identity()", 'nn.GELU(approximate="tanh")', "nn.Softmax2d()",
    "nn.Softmax(dim=1)", "nn.LogSoftmax(dim=-1)", "nn.GLU(dim=1)", "nn.Threshold(0.2, 1.0)",
)  # fmt: skip


def activation(d: Drawing, name: str | None = None) -> None:
    r = d.random
    name = d.pick() if name is None else name
    if name is None:
        return
    kind = r.random()
    if kind < 0.45:
        text = r.choice(PLAIN)
        d.assign(text.format(*[name] * text.count("{}")))
    elif kind < 0.7:
        made = r.choice(MODULES)
        x = d[name]
        if made == "nn.PReLU()" and x.dim() > 1 and x.size(1) > 0 and d.chance(0.6):
            made = f"nn.PReLU({x.size(1)})"
        d.apply(made, name)
    else:
        text = r.choice(IN_PLACE)
        text = text.format(*[name] * text.count("{}"))
        if d.chance(0.5):
            d.statement(text)
        else:
            d.assign(text)


# Views, or the value itself, though torch's schemas say that the result is new.
UNDECLARED = (
    "{}.type_as({})", "F.dropout({}, 0.5, False)", "F.dropout2d({}, 0.5, False)",
    "F.alpha_dropout({}, 0.5, False)", "F.feature_alpha_dropout({}, 0.5, False)",
    "torch.atleast_1d({})", "torch.atleast_2d({})", "torch.atleast_3d({})",
    "torch.atleast_1d([{}, {}])[0]", "{}.sum_to_size({}.shape)", "torch.conj_physical({})",
    "torch.unsafe_chunk({}, 2, 0)[0]", "torch.unsafe_split({}, 1, 0)[0]",
    'torch.einsum("i...->...i", {})', "torch.broadcast_tensors({}, {})[0]",
    'torch.meshgrid({}.view(-1), indexing="ij")[0]', "torch.cartesian_prod({}.view(-1))",
    "{}.dequantize()", "{}.to_dense()",
)  # fmt: skip


def view_text(d: Drawing, name: str) -> str | None:
    """A view of a value."""
    r = d.random
    x = d[name]
    if d.chance(0.25):
        text = r.choice(UNDECLARED)
        return text.format(*[name] * text.count("{}"))
    if x.dim() == 0:
        return None
    a, b = r.randrange(x.dim()), r.randrange(x.dim())
    n = x.size(a)
    colons = ":, " * a
    return r.choice(
        (
            f"{name}[{colons}{r.randint(0, max(0, n - 1))}]",
            f"{name}[{colons}{-1}]",
            f"{name}[{colons}{r.randint(0, n)}:]",
            f"{name}[{colons}:{r.randint(0, n)}]",
            f"{name}[{colons}::2]",
            f"{name}[..., :{r.randint(1, 3)}]",
            f"{name}.transpose({a}, {b})",
            f"{name}.view(-1)",
            f"{name}.reshape(-1)",
            f"{name}.unsqueeze({a})",
            f"{name}.flatten({min(a, b)}, {max(a, b)})",
            f"{name}.select({a}, {r.randint(0, max(0, n - 1))})",
            f"{name}.narrow({a}, 0, {max(1, n - 1)})",
            f"{name}.chunk(2, dim={a})[0]",
            f"{name}.permute({r.sample(range(x.dim()), x.dim())})",
            f"{name}.detach()",
        )
    )


def write_through_view(d: Drawing) -> None:
    r = d.random
    name = d.pick()
    view = None if name is None else view_text(d, name)
    if name is None or view is None:
        return
    kind = r.random()
    if view.endswith("]") and kind < 0.5:
        value = r.choice(("0", "1.5", f"{view} * 2", f"{view} + 1", f"-{view}"))
        operator = r.choice(("=", "=", "+=", "*="))
        d.statement(f"{view} {operator} {value}")
    elif kind < 0.75:
        text = r.choice(IN_PLACE)
        d.statement(text.format(*[view] * text.count("{}")))
    else:
        made = d.assign(view)
        if made is not None:
            text = r.choice(IN_PLACE)
            d.statement(text.format(*[made] * text.count("{}")))


def binary(d: Drawing) -> None:
    r = d.random
    a = d.pick()
    if a is None:
        return
    x = d[a]
    b = d.pick() or a
    kind = r.random()
    if kind < 0.3:
        sizes = [n if r.random() < 0.5 else 1 for n in x.shape][r.randint(0, x.dim()) :]
        b = d.parameter(*sizes) or b
    elif kind < 0.4:
        b = r.choice(("1", "-0.5", "torch.tensor(2.0)", "torch.tensor([0.5])", "torch.ones(1, 1)"))
    text = r.choice(
        (
            "{a} + {b}", "{a} + {b}", "{b} + {a}", "{a} - {b}", "{a} * {b}", "{a} * {b}",
            "{b} - {a}", "{a} / {b}", "torch.add({a}, {b}, alpha=2)",
            "torch.sub({a}, {b}, alpha=0.5)", "torch.rsub({a}, {b})",
            "torch.add({a}, {b}, alpha=-1)", "torch.maximum({a}, {b})",
            "torch.minimum({a}, {b})", "torch.where({a} > 0.137, {a}, {b})",
            "torch.addcmul({a}, {a}, {b}, value=0.5)", "torch.lerp({a}, {b}, 0.3)",
            "{a}.masked_fill({b} > 0.137, -1.0)", "torch.add({a}, {a}, alpha=2)",
            "torch.atan2({a}, {b})", "{a} + {a}", "{a} * {a}",
        )
    )  # fmt: skip
    if d.chance(0.2):
        d.statement(
            r.choice(
                (
                    "{a}.add_({b})",
                    "{a}.mul_({b})",
                    "{a}.sub_({b})",
                    "{a} += {b}",
                    "{a} *= {b}",
                    "{a}.add_({b}, alpha=2)",
                    "{a}.copy_({b})",
                    "{a}.div_({b})",
                )
            ).format(a=a, b=b)
        )
    else:
        d.assign(text.format(a=a, b=b))


# Sizes and places.


def shape(d: Drawing) -> None:
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    x = d[name]
    rank = x.dim()
    a, b = r.randrange(rank), r.randrange(rank)
    n = x.size(a)
    kinds = [
        f"{name}.transpose({a}, {b})",
        f"{name}.permute({r.sample(range(rank), rank)})",
        f"{name}.reshape(-1)",
        f"{name}.reshape({name}.size(0), -1)",
        f"{name}.view({name}.size(0), -1)",
        f"{name}.view({name}.shape)",
        f"{name}.flatten({min(a, b)}, {max(a, b)})",
        f"{name}.flatten(1)",
        f"{name}.unsqueeze({a})",
        f"{name}.squeeze()",
        f"{name}.squeeze({a})",
        f"{name}[:, {r.randint(0, 2)}:]",
        f"{name}[{r.randint(0, max(0, x.size(0) - 1))}]",
        f"{name}[..., ::2]",
        f"{name}[..., -1]",
        f"{name}.expand({[2, *x.shape]})",
        f"{name}.repeat({[r.choice((1, 2)) for _ in range(rank)]})",
        f"{name}.flip({a})",
        f"{name}.roll(1, {a})",
        f"{name}.contiguous()",
        f"{name}.clone()",
        f"{name}.detach()",
        f"{name}.movedim({a}, {b})",
        f"{name}.mean({a}, keepdim=True).expand_as({name})",
        f"torch.cat([{name}, {name}], {a})",
        f"torch.stack([{name}, {name}], {a})",
        f"{name}.narrow({a}, 0, {max(1, n - 1)})",
        f"{name}.tril()",
        f"F.pixel_shuffle({name}, 2)",
        f"F.unfold({name}, 2)",
        f"{name}.unflatten({a}, ({divisor(r, n) if n else 1}, -1))",
        f"{name}.to(memory_format=torch.channels_last)",
        f"{name}.index_select({a}, torch.tensor([0, {max(0, n - 1)}]))",
        f"{name}.reshape({[-1, *x.shape[1:]]})",
        f"torch.zeros_like({name})",
        f"{name}.new_ones({name}.size({a})) ",
        f"{name}.type_as({name})",
    ]
    d.assign(r.choice(kinds).strip())


def several(d: Drawing) -> None:
    """Values together, or a value in parts."""
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    x = d[name]
    dim = r.randrange(x.dim())
    kind = r.random()
    if kind < 0.4:
        others = d.floats(
            lambda y: (
                y.dim() == x.dim()
                and all(i == dim or y.size(i) == x.size(i) for i in range(x.dim()))
            )
        )
        chosen = [r.choice(others) for _ in range(r.randint(1, 3))] + [name]
        d.assign(f"torch.cat([{', '.join(chosen)}], dim={r.choice((dim, dim - x.dim()))})")
    elif kind < 0.5:
        d.assign(f"torch.stack([{name}, {d.pick(lambda y: y.shape == x.shape)}], dim={dim})")
    elif kind < 0.7:
        d.unpack(f"{name}.chunk(2, dim={dim})", min(2, x.size(dim)))
    elif kind < 0.85 and x.size(dim) > 1:
        first = r.randint(1, x.size(dim) - 1)
        d.unpack(f"{name}.split([{first}, {x.size(dim) - first}], dim={dim})", 2)
    elif x.size(dim) <= 4:
        d.unpack(f"{name}.unbind({dim})", x.size(dim))


def reduction(d: Drawing) -> None:
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    dim = r.choice((0, -1, d[name].dim() - 1))
    keep = r.choice(("", ", keepdim=True"))
    d.assign(
        r.choice(
            (
                f"{name}.sum({dim}{keep})", f"{name}.mean({dim}{keep})", f"{name}.sum()",
                f"{name}.amax({dim}{keep})", f"{name}.amin({dim}{keep})",
                f"{name}.max({dim}{keep})[0]", f"{name}.logsumexp({dim}{keep})",
                f"{name}.cumsum({dim})", f"{name}.norm(dim={dim}{keep})",
                f"{name}.var({dim}{keep})", f"{name}.argmax({dim})", f"{name}.mean()",
                f"{name}.std({dim}{keep})", f"{name}.mean((0, -1){keep})",
                f"torch.linalg.vector_norm({name}, dim={dim}{keep})", f"{name}.prod({dim})",
                f"({name} > 0.137).any()", f"{name}.sort({dim})[0]",
            )
        )
    )  # fmt: skip


def constant(d: Drawing) -> None:
    """A value that depends on no value of the input, or on its sizes only."""
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    dim = r.randrange(d[name].dim())
    d.assign(
        r.choice(
            (
                f"torch.arange({name}.size({dim})) * 1.0",
                f"torch.arange({name}.size({dim})) * 0.1",
                f"torch.ones({name}.size({dim}))", "torch.zeros(1)", "torch.tensor(0.5)",
                f"torch.linspace(0, 1, {max(1, d[name].size(dim))})",
                f"{d.parameter(1, d[name].size(-1))}[0] * 1.0",
            )
        )
    )  # fmt: skip


def state(d: Drawing) -> None:
    """A buffer that calls change."""
    name = d.pick(lambda x: x.dim() > 0)
    if name is None or d.depth:
        return
    buffer = d.part("buffer:torch.zeros(1)")
    update = d.random.choice(
        (
            f"{buffer}.mul_(0.9).add_({name}.mean() * 0.1)",
            f"{buffer}.add_(1)",
            f"{buffer}.copy_({name}.sum())",
        )
    )
    if d.statement(update):
        d.stateful = True
        d.assign(f"{name} + {buffer}")


# Control flow, in scripted nets.


def number(d: Drawing) -> None:
    """Arithmetic of sizes."""
    r = d.random
    name = d.pick(lambda x: x.dim() > 0)
    if name is None:
        return
    dim = r.randrange(d[name].dim())
    text = r.choice(
        (
            "{s}", "{s} // 2", "{s} + 1", "{s} * 2", "{s} % 3", "max(1, {s} - 1)", "-{s}",
            "{s} // -2", "min({s}, 2)", "abs({s} - 3)", "{s} - 1",
        )
    ).format(s=f"{name}.size({dim})")  # fmt: skip
    if d.method == "trace" and ("max(" in text or "min(" in text or "abs(" in text):
        return
    n = d.new("n")
    if d.run(f"{n} = {text}"):
        d.lines.append(Line(f"{n} = {text}"))
        d.numbers.append(n)
    if d.numbers and d.chance(0.7):
        n = r.choice(d.numbers)
        d.assign(
            r.choice(
                (
                    f"{name} * {n}",
                    f"{name}[:{n}]",
                    f"{name}[..., {n}:]",
                    f"{name} + {n}",
                    f"{name}.narrow({dim}, 0, {n})",
                    f"torch.full([2], {n}) * 0.5",
                )
            )
        )


def loop(d: Drawing) -> None:
    r = d.random
    if d.depth > 1:
        return
    count = r.choice(("2", "3", "1", "0"))
    if d.numbers and d.chance(0.4):
        count = f"min({r.choice(d.numbers)}, 4)"
    name = d.pick(lambda x: x.dim() > 0)
    if name is not None and d.chance(0.2):
        count = f"min({name}.size(0), 3)"
    head = f"for {d.new('i')} in range({count}):"
    if d.chance(0.3):
        _in_place_loop(d, head)
        return
    d.block(Line(head, d.inside(draw_inner, r.choice((1, 1, 2, 3)))))


def _in_place_loop(d: Drawing, head: str) -> None:
    """One value, changed in each turn."""
    r = d.random
    name = d.names[-1] if d.chance(0.7) else d.pick()
    if name is None or not d[name].is_floating_point():
        return
    body = []
    for _ in range(r.choice((1, 1, 2))):
        text = r.choice(IN_PLACE)
        text = text.format(*[name] * text.count("{}"))
        if d.chance(0.5):
            text = f"{name} = {text}"
        body.append(Line(text))
    d.block(Line(head, body))


def branch(d: Drawing) -> None:
    r = d.random
    if d.depth > 1:
        return
    name = d.pick()
    if name is None:
        return
    tests = [
        f"bool({name}.sum() > 0.137)", f"bool({name}.mean() < 0.0137)",
        f"bool(({name} > 1.37).any())", f"{name}.dim() > 2", f"{name}.numel() > 5",
    ]  # fmt: skip
    if d[name].dim():
        tests += [f"{name}.size(0) > 1", f"{name}.size(-1) % 2 == 0"]
    if d.numbers:
        tests.append(f"{r.choice(d.numbers)} > 1")
    body = d.inside(draw_inner, r.choice((1, 1, 2)))
    orelse = d.inside(draw_inner, 1) if d.chance(0.6) else []
    d.block(Line(f"if {r.choice(tests)}:", body, orelse))


STEPS: tuple[tuple[Callable[[Drawing], None], float], ...] = (
    (convolution, 16), (transposed, 4), (linear, 10), (product, 3), (norm, 8), (attention, 4),
    (recurrent, 4), (pooling, 8), (interpolation, 4), (padding, 3), (activation, 14),
    (write_through_view, 6), (binary, 10), (shape, 10), (several, 5), (reduction, 4),
    (constant, 2), (state, 0.7), (number, 1),
)  # fmt: skip
FLOW: tuple[tuple[Callable[[Drawing], None], float], ...] = (
    (loop, 9), (branch, 9), (number, 5),
)  # fmt: skip
INNER: tuple[tuple[Callable[[Drawing], None], float], ...] = (
    (activation, 10), (linear, 4), (convolution, 3), (binary, 6), (write_through_view, 4),
    (shape, 3), (norm, 2), (pooling, 1), (loop, 1), (branch, 1), (cell, 1), (several, 1),
)  # fmt: skip


def _draw(d: Drawing, steps: tuple[tuple[Callable[[Drawing], None], float], ...]) -> None:
    d.random.choices([draw for draw, _ in steps], [weight for _, weight in steps])[0](d)


def draw_step(d: Drawing) -> None:
    """One more operator, or several that belong together."""
    _draw(d, STEPS + FLOW if d.method == "script" else STEPS)


def draw_inner(d: Drawing) -> None:
    """One in a loop or a branch."""
    _draw(d, INNER)

"""Language and what comes with it: encoders, decoders, towers of images and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from cases.case import Case, Model, integers, normal, uniform

if TYPE_CHECKING:
    from torch import nn


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
}
BATCH, LENGTH = Dim("batch", min=1, max=4), Dim("length", min=2, max=32)


def tokens(module: nn.Module, names: tuple[str, ...] = ("input_ids", "attention_mask")) -> Model:
    """A module that takes sentences of every length, some of them padded."""

    def given(batch: int, length: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, length - length // 3 :] = 0
        both = {"input_ids": integers(99, batch, length, seed=length), "attention_mask": mask}
        return {name: both[name] for name in names}

    sizes = {0: BATCH, 1: LENGTH}
    return Model(
        module.eval(), given(2, 9), dict.fromkeys(names, sizes), [given(1, 32), given(3, 5)]
    )


def _transformers(
    name: str, config: dict[str, Any], names: tuple[str, ...] = ("input_ids", "attention_mask")
) -> Case:
    def make() -> Model:
        import transformers

        made = getattr(transformers, name).config_class(**config)
        return tokens(getattr(transformers, name)(made), names)

    return Case(f"transformers/{name}", make)


def _pixels(name: str, config: dict[str, Any], size: int) -> Case:
    def make() -> Model:
        import transformers

        made = getattr(transformers, name).config_class(**config)
        return Model(
            getattr(transformers, name)(made).eval(),
            {"pixel_values": uniform(2, 3, size, size)},
            {"pixel_values": {0: BATCH}},
            [{"pixel_values": uniform(n, 3, size, size, seed=n)} for n in (1, 3)],
        )

    return Case(f"transformers/{name}", make)


def _whisper() -> Model:
    import transformers

    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        vocab_size=99,
        max_source_positions=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    module = transformers.WhisperModel(config).encoder.eval()
    return Model(
        module,
        {"input_features": normal(2, 80, 100)},
        {"input_features": {0: BATCH}},
        [{"input_features": normal(1, 80, 100, seed=1)}],
    )


def _wav2vec2(name: str) -> Case:
    def make() -> Model:
        import transformers

        config = getattr(transformers, name).config_class(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            conv_dim=(16, 16, 16),
            conv_stride=(5, 4, 2),
            conv_kernel=(10, 8, 4),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
        module = getattr(transformers, name)(config).eval()
        samples = Dim("samples", min=1000, max=8000)
        return Model(
            module,
            {"input_values": normal(1, 4000)},
            {"input_values": {1: samples}},
            [{"input_values": normal(1, n, seed=n)} for n in (1000, 7999)],
        )

    return Case(f"transformers/{name}", make)


def _clip(part: str) -> Case:
    def make() -> Model:
        import transformers

        text = {**SMALL, "max_position_embeddings": 32, "eos_token_id": 98}
        vision = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {
            "image_size": 64,
            "patch_size": 16,
        }
        if part == "text":
            return tokens(transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)))
        module = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision)).eval()
        return Model(
            module,
            {"pixel_values": uniform(2, 3, 64, 64)},
            {"pixel_values": {0: BATCH}},
            [{"pixel_values": uniform(1, 3, 64, 64, seed=1)}],
        )

    return Case(f"transformers/CLIP {part}", make)


ROPE = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}
CASES = [
    _transformers("BertModel", SMALL),
    _transformers(
        "DistilBertModel",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99},
    ),
    _transformers("RobertaModel", {**SMALL, "pad_token_id": 0, "max_position_embeddings": 64}),
    _transformers("AlbertModel", {**SMALL, "embedding_size": 16}),
    _transformers("ElectraModel", {**SMALL, "embedding_size": 16}),
    _transformers(
        "DebertaV2Model",
        {
            **SMALL,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
        },
    ),
    _transformers("MPNetModel", {**SMALL, "pad_token_id": 0}),
    _transformers(
        "ModernBertModel",
        {**SMALL, "pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8},
    ),
    _transformers(
        "T5EncoderModel",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99},
    ),
    _transformers(
        "GPT2Model",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 99,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    _transformers(
        "OPTModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "vocab_size": 99,
            "word_embed_proj_dim": 32,
            "use_cache": False,
        },
    ),
    _transformers("LlamaForCausalLM", {**ROPE, "use_cache": False}),
    _transformers("MistralForCausalLM", {**ROPE, "use_cache": False, "sliding_window": None}),
    _transformers("Qwen2ForCausalLM", {**ROPE, "use_cache": False}),
    _clip("text"),
    _clip("vision"),
    _pixels(
        "ViTModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 64,
            "patch_size": 16,
        },
        64,
    ),
    _pixels(
        "SegformerForSemanticSegmentation",
        {
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 16,
            "depths": [1, 1, 1, 1],
        },
        64,
    ),
    _pixels(
        "Dinov2Model",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 70,
            "patch_size": 14,
        },
        70,
    ),
    Case("transformers/Whisper encoder", _whisper),
    _wav2vec2("Wav2Vec2Model"),
    _wav2vec2("HubertModel"),
]

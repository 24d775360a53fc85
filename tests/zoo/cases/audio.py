"""Sound: separation, recognition, features."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim

from cases.case import Case, Model, along, normal

SAMPLES = Dim("samples", min=4000, max=16000)


def sound(module: nn.Module, *sizes: int) -> Model:
    """A module that takes sounds of every length, which is the last dim."""
    return along(module, sizes, SAMPLES, (4001, 15999), axis=len(sizes) - 1)


def _torchaudio(name: str, make: Any, *sizes: int, **options: Any) -> Case:
    def model() -> Model:
        import torchaudio

        return sound(make(torchaudio), *sizes, **options)

    return Case(f"torchaudio/{name}", model)


FRAMES = Dim("frames", min=4, max=64)


def _conformer() -> Model:
    import torchaudio

    module = torchaudio.models.Conformer(16, 4, 32, 2, 7).eval()

    def given(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(2, n, 16, seed=n), torch.tensor([n, n // 2])

    return Model(module, given(20), ({1: FRAMES}, None), [given(5), given(64)])


def _hdemucs() -> Model:
    import torchaudio

    return Model(
        torchaudio.models.HDemucs(sources=["a", "b"], channels=8, depth=6).eval(),
        (normal(1, 2, 16384),),
        None,
        [(normal(1, 2, 16384, seed=1),)],
    )


def _ecapa() -> Model:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    module = ECAPA_TDNN(20, channels=[16] * 4 + [48], attention_channels=8, lin_neurons=16).eval()
    frames = Dim("frames", min=10, max=100)
    return along(module, (2, 30, 20), frames, (10, 99), axis=1)


def _xvector() -> Model:
    from speechbrain.lobes.models.Xvector import Xvector

    module = Xvector(
        tdnn_channels=[16, 16, 16, 16, 32], lin_neurons=16, in_channels=20, device="cpu"
    )
    frames = Dim("frames", min=20, max=100)
    return along(module, (2, 30, 20), frames, (20, 99), axis=1)


def _asteroid(name: str, **options: Any) -> Case:
    def make() -> Model:
        from asteroid import models

        return sound(getattr(models, name)(**options), 1, 8000)

    return Case(f"asteroid/{name}", make)


def _openunmix() -> Model:
    from openunmix.model import OpenUnmix

    module = OpenUnmix(nb_bins=65, hidden_size=16, nb_layers=1, unidirectional=True).eval()
    return Model(
        module,
        (normal(1, 2, 65, 20).abs(),),
        ({3: FRAMES},),
        [(normal(1, 2, 65, n, seed=n).abs(),) for n in (4, 64)],
    )


def _demucs() -> Model:
    from demucs.htdemucs import HTDemucs

    module = HTDemucs(
        sources=["a", "b"],
        channels=8,
        depth=4,
        t_layers=1,
        bottom_channels=0,
        samplerate=8000,
        segment=2,
        nfft=1024,
    ).eval()
    return Model(module, (normal(1, 2, 16000),), None, [(normal(1, 2, 16000, seed=1),)])


def _crepe() -> Model:
    import torchcrepe

    module = torchcrepe.Crepe("tiny").eval()
    return along(module, (2, 1024), Dim("frames", min=1, max=8), (1, 8))


def _encodec(part: str) -> Case:
    def make() -> Model:
        import encodec

        module = encodec.EncodecModel._get_model(
            [6.0], 24000, 1, causal=True, model_norm="weight_norm"
        ).eval()
        if part == "encoder":
            return sound(module.encoder, 1, 1, 8000)
        return along(module.decoder, (1, 128, 20), FRAMES, (4, 64), axis=2)

    return Case(f"encodec/{part}", make)


def _panns() -> Model:
    from panns_inference.models import Cnn14

    module = Cnn14(
        sample_rate=32000,
        window_size=1024,
        hop_size=320,
        mel_bins=64,
        fmin=50,
        fmax=14000,
        classes_num=527,
    )
    return along(module, (1, 32000), Dim("samples", min=16000, max=64000), (16000, 64000), axis=1)


def _dac() -> Model:
    import dac

    module = dac.DAC(
        encoder_dim=8, encoder_rates=[2, 4], decoder_dim=32, decoder_rates=[4, 2], n_codebooks=2
    ).eval()
    return along(module.encoder, (1, 1, 8000), SAMPLES, (4001, 15999), axis=2)


CASES = [
    _torchaudio(
        "Wav2Letter",
        lambda p: p.models.Wav2Letter(num_classes=20, input_type="waveform"),
        1,
        1,
        8000,
    ),
    _torchaudio(
        "ConvTasNet",
        lambda p: p.models.ConvTasNet(
            num_sources=2,
            enc_num_feats=16,
            msk_num_feats=8,
            msk_num_hidden_feats=16,
            msk_num_layers=2,
            msk_num_stacks=1,
        ),
        1,
        1,
        8000,
    ),
    _torchaudio("MelSpectrogram", lambda p: p.transforms.MelSpectrogram(16000, n_mels=40), 2, 8000),
    _torchaudio("MFCC", lambda p: p.transforms.MFCC(16000, n_mfcc=13), 2, 8000),
    _torchaudio("Spectrogram", lambda p: p.transforms.Spectrogram(n_fft=400), 2, 8000),
    _torchaudio("Resample", lambda p: p.transforms.Resample(16000, 8000), 2, 8000),
    _torchaudio(
        "wav2vec2",
        lambda p: p.models.wav2vec2_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=[(16, 10, 5), (16, 8, 4)],
            extractor_conv_bias=False,
            encoder_embed_dim=32,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=16,
            encoder_pos_conv_groups=2,
            encoder_num_layers=2,
            encoder_num_heads=4,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=64,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        ),
        1,
        8000,
    ),
    Case("torchaudio/Conformer", _conformer),
    Case("torchaudio/HDemucs", _hdemucs),
    Case("speechbrain/ECAPA_TDNN", _ecapa),
    Case("speechbrain/Xvector", _xvector),
    _asteroid(
        "ConvTasNet",
        n_src=2,
        n_filters=16,
        n_blocks=2,
        n_repeats=1,
        bn_chan=8,
        hid_chan=16,
        skip_chan=8,
    ),
    _asteroid(
        "DPRNNTasNet", n_src=2, n_filters=16, n_repeats=1, hid_size=8, chunk_size=20, bn_chan=8
    ),
    Case("openunmix/OpenUnmix", _openunmix),
    Case("demucs/HTDemucs", _demucs),
    Case("torchcrepe/Crepe", _crepe),
    _encodec("encoder"),
    _encodec("decoder"),
    Case("panns_inference/Cnn14", _panns),
    Case("dac/Encoder", _dac),
]

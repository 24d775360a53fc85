"""Vision: classifiers, segmentation, detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.export import Dim

from cases.case import Case, Model, along, uniform

if TYPE_CHECKING:
    from torch import nn


def images(module: nn.Module, size: int = 64, channels: int = 3) -> Model:
    """A module that takes batches of images of one size."""
    return along(
        module, (2, channels, size, size), Dim("batch", min=1, max=4), (1, 3), draw=uniform
    )


def any_images(module: nn.Module, multiple: int, channels: int = 3) -> Model:
    """A module that takes images of every size that is a multiple."""
    height, width = Dim("height", min=1, max=4), Dim("width", min=1, max=4)
    return Model(
        module.eval(),
        (uniform(1, channels, 2 * multiple, 2 * multiple),),
        ({2: multiple * height, 3: multiple * width},),
        [(uniform(1, channels, h * multiple, w * multiple, seed=h),) for h, w in ((1, 1), (3, 2))],
    )


def _timm(name: str, size: int, **options: Any) -> Case:
    def make() -> Model:
        import timm

        return images(timm.create_model(name, **options), size)

    return Case(f"timm/{name}", make)


def _torchvision(name: str, size: int, **options: Any) -> Case:
    def make() -> Model:
        import torchvision

        return images(torchvision.models.get_model(name, weights=None, **options), size)

    return Case(f"torchvision/{name}", make)


def _segmentation(name: str) -> Case:
    def make() -> Model:
        import segmentation_models_pytorch as smp

        return any_images(getattr(smp, name)("resnet18", encoder_weights=None, classes=3), 32)

    return Case(f"segmentation_models_pytorch/{name}", make)


CASES = [
    *(
        _timm(name, size)
        for name, size in (
            ("resnet18", 64),
            ("mobilenetv3_small_100", 64),
            ("efficientnet_b0", 64),
            ("tf_efficientnet_b0", 64),
            ("convnext_atto", 64),
            ("vit_tiny_patch16_224", 224),
            ("deit3_small_patch16_224", 224),
            ("swin_tiny_patch4_window7_224", 224),
            ("mobilevit_xxs", 64),
            ("regnetx_002", 64),
            ("ghostnet_100", 64),
            ("mixer_s32_224", 224),
            ("edgenext_xx_small", 64),
            ("levit_128s", 224),
            ("fastvit_t8", 64),
            ("repvgg_a0", 64),
        )
    ),
    *(
        _torchvision(name, size)
        for name, size in (
            ("resnet18", 64),
            ("mobilenet_v3_small", 64),
            ("shufflenet_v2_x0_5", 64),
            ("squeezenet1_1", 64),
            ("densenet121", 64),
            ("googlenet", 64),
            ("mnasnet0_5", 64),
            ("vit_b_32", 224),
            ("swin_v2_t", 64),
            ("maxvit_t", 224),
            ("lraspp_mobilenet_v3_large", 64),
            ("deeplabv3_mobilenet_v3_large", 64),
            ("fcn_resnet50", 64),
        )
    ),
    *(
        _segmentation(name)
        for name in (
            "Unet",
            "UnetPlusPlus",
            "FPN",
            "PSPNet",
            "DeepLabV3Plus",
            "Linknet",
            "MAnet",
            "Segformer",
            "UPerNet",
        )
    ),
]

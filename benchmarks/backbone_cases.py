"""All backbones that attach_noah is tested on: one table for the tests and for backbone_table.py.

The models of Keras applications and of KerasCV's legacy modules are listed from these modules, so a
new model is always tested. The other KerasCV backbones are built from their base classes with the
arguments of each published variant, because the variants themselves download a preset.
"""

import dataclasses
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable

import keras_cv
import tensorflow as tf
from keras_cv.src.models import legacy

from noah_tf.utils.keras_compat import KERAS_NAME

CLASSES = 7


@dataclasses.dataclass(frozen=True)
class Case:
    """A backbone and how to build it small.

    Attributes:
        library: "keras.applications", "keras_cv.models", "keras_cv legacy" or "keras_hub.models".
        name: the model's public name.
        family: the family's name. Models of one family differ only in width and depth.
        build: a function of `include_top` that returns the model with random weights.
        has_top: whether it can be built as a whole classifier.
        smallest: whether it represents its family in the tests that are not exhaustive.
        slow: whether building it takes long.
        unfit: why it cannot have a head on this stack, or None.
        error: a pattern for the ValueError, or for the library's error if it does not build.
    """

    library: str
    name: str
    family: str
    build: Callable
    has_top: bool = False
    smallest: bool = False
    slow: bool = False
    unfit: str | None = None
    error: str = ""

    @property
    def file_defect(self) -> str | None:
        """The library's error message if a `.keras` file fails on this stack, or None.

        Weight files and SavedModels work in both cases.
        """
        return _FILE_DEFECTS.get((self.library, self.family, KERAS_NAME))

    def __str__(self) -> str:
        return f"{self.library}-{self.name}".replace(" ", "-")


# Families with layers whose config the library cannot write, or cannot read.
_FILE_DEFECTS = {
    ("keras.applications", "ConvNeXt", "Keras 2"): "'str' object is not callable",
}

# The smallest input whose last map is at least 2x2, if it is not 64.
_INPUT_SIZES = {"InceptionV3": 128, "InceptionResNetV2": 128, "Xception": 96}
_SMALLEST = frozenset(
    (
        "ConvNeXtTiny",
        "DenseNet121",
        "EfficientNetB0",
        "EfficientNetV2B0",
        "InceptionResNetV2",
        "InceptionV3",
        "MobileNet",
        "MobileNetV2",
        "MobileNetV3Small",
        "NASNetMobile",
        "RegNetX002",
        "RegNetY002",
        "ResNet50",
        "ResNet50V2",
        "ResNetRS50",
        "VGG16",
        "Xception",
        "ConvMixer_512_16",
        "DarkNet21",
        "MLPMixerB32",
        "ViTTiny16",
    )
)
_SLOW = frozenset(
    (
        "ConvNeXtLarge",
        "ConvNeXtXLarge",
        "DenseNet201",
        "EfficientNetB5",
        "EfficientNetB6",
        "EfficientNetB7",
        "EfficientNetV2L",
        "EfficientNetV2M",
        "EfficientNetV2S",
        "InceptionResNetV2",
        "MLPMixerL16",
        "NASNetLarge",
        "RegNetX320",
        "RegNetY160",
        "RegNetY320",
        "ResNet152",
        "ResNet152V2",
        "ResNetRS152",
        "ResNetRS200",
        "ResNetRS270",
        "ResNetRS350",
        "ResNetRS420",
        "ViTH16",
        "ViTH32",
        "ViTL16",
        "ViTL32",
    )
)
# The first prefix that matches is the family's name.
_FAMILIES = (
    "ConvMixer",
    "ConvNeXt",
    "DarkNet",
    "DenseNet",
    "EfficientNetV2",
    "EfficientNetB",
    "InceptionResNetV2",
    "InceptionV3",
    "MLPMixer",
    "MobileNetV2",
    "MobileNetV3",
    "MobileNet",
    "NASNet",
    "RegNetX",
    "RegNetY",
    "ResNetRS",
    "ResNet",
    "VGG",
    "ViT",
    "Xception",
)


def _family(name):
    if name.startswith("ResNet") and name.endswith("V2"):
        return "ResNetV2"
    return next((family for family in _FAMILIES if name.startswith(family)), name)


# KerasCV's ConvNeXt functions have no defaults for these arguments.
_CONVNEXT = {"drop_path_rate": 0.0, "layer_scale_init_value": 1e-6}

# Models that cannot be built: {(library, Keras): ((names, reason, the library's error), ...)}
_DO_NOT_BUILD = {
    ("keras_cv legacy", "Keras 3"): (
        (
            r"ConvMixer",
            "does not build: KerasCV calls a TensorFlow function on a symbolic tensor",
            "A KerasTensor cannot be used as input to a TensorFlow function",
        ),
        (
            r"RegNetY",
            "does not build: KerasCV computes a fractional number of filters",
            "Found invalid dimension",
        ),
        (
            r"RegNetX080",
            "does not build: KerasCV computes 0 groups for a convolution",
            "groups must be a positive integer",
        ),
    ),
}


def _listed_cases(module, library, classes_argument, **arguments):
    """Yields a case for each public model function of a module."""
    for name, function in sorted(vars(module).items()):
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        unfit, error = _does_not_build(library, name)
        extra = _CONVNEXT if (library, name[:8]) == ("keras_cv legacy", "ConvNeXt") else {}
        yield Case(
            library=library,
            name=name,
            family=_family(name),
            build=functools.partial(
                _build_listed,
                function,
                _INPUT_SIZES.get(name, 64),
                classes_argument,
                {**arguments, **extra},
            ),
            has_top=True,
            smallest=name in _SMALLEST,
            slow=name in _SLOW,
            unfit=unfit,
            error=error,
        )


def _does_not_build(library, name):
    for names, reason, error in _DO_NOT_BUILD.get((library, KERAS_NAME), ()):
        if re.match(names, name):
            return reason, error
    return None, ""


def _build_listed(function, size, classes_argument, arguments, include_top=False):
    classes = {classes_argument: CLASSES} if include_top else {}
    return function(
        weights=None, include_top=include_top, input_shape=(size, size, 3), **classes, **arguments
    )


def _resnet(version, blocks, block_type):
    return {
        "class": f"ResNet{version}Backbone",
        "stackwise_filters": [64, 128, 256, 512],
        "stackwise_blocks": blocks,
        "stackwise_strides": [1, 2, 2, 2],
        "block_type": block_type,
    }


def _densenet(repeats):
    return {"class": "DenseNetBackbone", "stackwise_num_repeats": repeats}


def _csp_darknet(cls, width, depths):
    widths = [width, 2 * width, 4 * width, 8 * width]
    return {"class": cls, "stackwise_channels": widths, "stackwise_depth": depths}


def _efficientnet(cls, width, depth, **extra):
    return {
        "class": cls,
        "width_coefficient": width,
        "depth_coefficient": depth,
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
        **extra,
    }


def _efficientnet_v1(width, depth):
    ratios = {"stackwise_squeeze_and_excite_ratios": [0.25] * 7}
    return _efficientnet("EfficientNetV1Backbone", width, depth, **ratios)


def _efficientnet_v2(repeats, inputs, outputs, width=1.0, depth=1.0):
    stages = len(repeats)
    return {
        "class": "EfficientNetV2Backbone",
        "width_coefficient": width,
        "depth_coefficient": depth,
        "stackwise_kernel_sizes": [3] * stages,
        "stackwise_num_repeats": repeats,
        "stackwise_input_filters": inputs,
        "stackwise_output_filters": outputs,
        "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6, 6][:stages],
        "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25, 0.25][:stages],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1][:stages],
        "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * (stages - 3),
    }


def _efficientnet_v2_b(width, depth):
    filters = [16, 32, 48, 96, 112, 192]
    return _efficientnet_v2([1, 2, 2, 3, 5, 8], [32, *filters[:-1]], filters, width, depth)


def _mit(width, depths):
    widths = [width, 2 * width, 5 * width, 8 * width]
    return {"class": "MiTBackbone", "embedding_dims": widths, "depths": depths}


def _vit_det(width, depth, heads, every):
    return {
        "class": "ViTDetBackbone",
        "embed_dim": width,
        "mlp_dim": 4 * width,
        "depth": depth,
        "num_heads": heads,
        "global_attention_indices": list(range(every - 1, depth, every)),
    }


def _video_swin(width, depths, heads):
    return {
        "class": "VideoSwinBackbone",
        "embed_dim": width,
        "depths": depths,
        "num_heads": heads,
        "input_shape": (8, 64, 64, 3),
    }


_RELU_3_SWISH = ["relu"] * 3 + ["hard_swish"] * 8
_MOBILENET_V3_SMALL = {
    "class": "MobileNetV3Backbone",
    "stackwise_expansion": [1, 72 / 16, 88 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
    "stackwise_kernel_size": [3] * 3 + [5] * 8,
    "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [0.25, None, None] + [0.25] * 8,
    "stackwise_activation": _RELU_3_SWISH,
}
_MOBILENET_V3_LARGE = {
    "class": "MobileNetV3Backbone",
    "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
    "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
    "stackwise_kernel_size": [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3,
    "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
    "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
    "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
}
_VGG_16 = {"class": "VGG16Backbone", "include_top": False}
_CENTER_PILLAR = {
    "class": "CenterPillarBackbone",
    "input_shape": (64, 64, 128),
    "stackwise_down_blocks": [1, 1],
    "stackwise_down_filters": [128, 256],
    "stackwise_up_filters": [128, 256],
}

# name: arguments of the base class, "class" among them
_KERAS_CV_BACKBONES = {
    "CSPDarkNetTinyBackbone": _csp_darknet("CSPDarkNetBackbone", 48, [1, 3, 3, 1]),
    "CSPDarkNetSBackbone": _csp_darknet("CSPDarkNetBackbone", 64, [1, 3, 3, 1]),
    "CSPDarkNetMBackbone": _csp_darknet("CSPDarkNetBackbone", 96, [2, 6, 6, 2]),
    "CSPDarkNetLBackbone": _csp_darknet("CSPDarkNetBackbone", 128, [3, 9, 9, 3]),
    "CSPDarkNetXLBackbone": _csp_darknet("CSPDarkNetBackbone", 170, [4, 12, 12, 4]),
    "CenterPillarBackbone": _CENTER_PILLAR,
    "DenseNet121Backbone": _densenet([6, 12, 24, 16]),
    "DenseNet169Backbone": _densenet([6, 12, 32, 32]),
    "DenseNet201Backbone": _densenet([6, 12, 48, 32]),
    "EfficientNetLiteB0Backbone": _efficientnet("EfficientNetLiteBackbone", 1.0, 1.0),
    "EfficientNetLiteB1Backbone": _efficientnet("EfficientNetLiteBackbone", 1.0, 1.1),
    "EfficientNetLiteB2Backbone": _efficientnet("EfficientNetLiteBackbone", 1.1, 1.2),
    "EfficientNetLiteB3Backbone": _efficientnet("EfficientNetLiteBackbone", 1.2, 1.4),
    "EfficientNetLiteB4Backbone": _efficientnet("EfficientNetLiteBackbone", 1.4, 1.8),
    "EfficientNetV1B0Backbone": _efficientnet_v1(1.0, 1.0),
    "EfficientNetV1B1Backbone": _efficientnet_v1(1.0, 1.1),
    "EfficientNetV1B2Backbone": _efficientnet_v1(1.1, 1.2),
    "EfficientNetV1B3Backbone": _efficientnet_v1(1.2, 1.4),
    "EfficientNetV1B4Backbone": _efficientnet_v1(1.4, 1.8),
    "EfficientNetV1B5Backbone": _efficientnet_v1(1.6, 2.2),
    "EfficientNetV1B6Backbone": _efficientnet_v1(1.8, 2.6),
    "EfficientNetV1B7Backbone": _efficientnet_v1(2.0, 3.1),
    "EfficientNetV2B0Backbone": _efficientnet_v2_b(1.0, 1.0),
    "EfficientNetV2B1Backbone": _efficientnet_v2_b(1.0, 1.1),
    "EfficientNetV2B2Backbone": _efficientnet_v2_b(1.1, 1.2),
    "EfficientNetV2B3Backbone": _efficientnet_v2_b(1.2, 1.4),
    "EfficientNetV2SBackbone": _efficientnet_v2(
        [2, 4, 4, 6, 9, 15], [24, 24, 48, 64, 128, 160], [24, 48, 64, 128, 160, 256]
    ),
    "EfficientNetV2MBackbone": _efficientnet_v2(
        [3, 5, 5, 7, 14, 18, 5],
        [24, 24, 48, 80, 160, 176, 304],
        [24, 48, 80, 160, 176, 304, 512],
    ),
    "EfficientNetV2LBackbone": _efficientnet_v2(
        [4, 7, 7, 10, 19, 25, 7],
        [32, 32, 64, 96, 192, 224, 384],
        [32, 64, 96, 192, 224, 384, 640],
    ),
    "MiTB0Backbone": _mit(32, [2, 2, 2, 2]),
    "MiTB1Backbone": _mit(64, [2, 2, 2, 2]),
    "MiTB2Backbone": _mit(64, [3, 4, 6, 3]),
    "MiTB3Backbone": _mit(64, [3, 4, 18, 3]),
    "MiTB4Backbone": _mit(64, [3, 8, 27, 3]),
    "MiTB5Backbone": _mit(64, [3, 6, 40, 3]),
    "MobileNetV3SmallBackbone": _MOBILENET_V3_SMALL,
    "MobileNetV3LargeBackbone": _MOBILENET_V3_LARGE,
    "ResNet18Backbone": _resnet("", [2, 2, 2, 2], "basic_block"),
    "ResNet34Backbone": _resnet("", [3, 4, 6, 3], "basic_block"),
    "ResNet50Backbone": _resnet("", [3, 4, 6, 3], "block"),
    "ResNet101Backbone": _resnet("", [3, 4, 23, 3], "block"),
    "ResNet152Backbone": _resnet("", [3, 8, 36, 3], "block"),
    "ResNet18V2Backbone": _resnet("V2", [2, 2, 2, 2], "basic_block"),
    "ResNet34V2Backbone": _resnet("V2", [3, 4, 6, 3], "basic_block"),
    "ResNet50V2Backbone": _resnet("V2", [3, 4, 6, 3], "block"),
    "ResNet101V2Backbone": _resnet("V2", [3, 4, 23, 3], "block"),
    "ResNet152V2Backbone": _resnet("V2", [3, 8, 36, 3], "block"),
    "VGG16Backbone": _VGG_16,
    "ViTDetBBackbone": _vit_det(768, 12, 12, 3),
    "ViTDetLBackbone": _vit_det(1024, 24, 16, 6),
    "ViTDetHBackbone": _vit_det(1280, 32, 16, 8),
    "VideoSwinTBackbone": _video_swin(96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "VideoSwinSBackbone": _video_swin(96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "VideoSwinBBackbone": _video_swin(128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "YOLOV8Backbone": _csp_darknet("YOLOV8Backbone", 32, [1, 2, 2, 1]),
}
_SMALLEST_KERAS_CV = frozenset(
    (
        "CSPDarkNetTinyBackbone",
        "CenterPillarBackbone",
        "DenseNet121Backbone",
        "EfficientNetLiteB0Backbone",
        "EfficientNetV1B0Backbone",
        "EfficientNetV2B0Backbone",
        "MiTB0Backbone",
        "MobileNetV3SmallBackbone",
        "ResNet18Backbone",
        "ResNet18V2Backbone",
        "VGG16Backbone",
        "ViTDetBBackbone",
        "YOLOV8Backbone",
    )
)
_SLOW_KERAS_CV = frozenset(
    (
        "DenseNet201Backbone",
        "EfficientNetV1B5Backbone",
        "EfficientNetV1B6Backbone",
        "EfficientNetV1B7Backbone",
        "EfficientNetV2SBackbone",
        "EfficientNetV2MBackbone",
        "EfficientNetV2LBackbone",
        "MiTB3Backbone",
        "MiTB4Backbone",
        "MiTB5Backbone",
        "ResNet152Backbone",
        "ResNet152V2Backbone",
        "ViTDetLBackbone",
        "ViTDetHBackbone",
        "VideoSwinSBackbone",
        "VideoSwinBBackbone",
    )
)
_NO_RESCALING = frozenset(("CenterPillarBackbone",))
_VIDEO = ("ends in the feature map of a video, (B, T, H, W, C)", "a video's")

# The other classes of keras_cv.models, which are not backbones, and what they are.
KERAS_CV_OTHERS = {
    "Backbone": "the abstract base class",
    "Task": "the abstract base class",
    "ImageClassifier": "pooling and a linear layer on a backbone; see test_attach.py",
    "VideoClassifier": "video, as its VideoSwin backbones",
    "BASNet": "segmentation on a backbone: attach to the backbone",
    "DeepLabV3Plus": "segmentation on a backbone: attach to the backbone",
    "SegFormer": "segmentation on a MiT backbone: attach to the backbone",
    "RetinaNet": "detection on a backbone: attach to the backbone",
    "YOLOV8Detector": "detection on a backbone: attach to the backbone",
    "MultiHeadCenterPillar": "3-D detection on a backbone: attach to the backbone",
    "CLIP": "an image and a text tower with their similarities as outputs",
    "SegmentAnythingModel": "segmentation from prompts",
    "SAMMaskDecoder": "a part of SegmentAnythingModel",
    "SAMPromptEncoder": "a part of SegmentAnythingModel",
    "TwoWayTransformer": "a part of SegmentAnythingModel",
    "StableDiffusion": "generates images",
    "StableDiffusionV2": "generates images",
    **{f"SegFormerB{size}": "as SegFormer" for size in range(6)},
}


def _keras_cv_cases():
    for name, arguments in _KERAS_CV_BACKBONES.items():
        arguments = dict(arguments)
        base = arguments.pop("class")
        unfit, error = _VIDEO if base == "VideoSwinBackbone" else (None, "")
        if name not in _NO_RESCALING:
            arguments["include_rescaling"] = False
        arguments.setdefault("input_shape", (64, 64, 3))
        yield Case(
            library="keras_cv.models",
            name=name,
            family=base,
            build=functools.partial(_build_keras_cv, base, arguments),
            smallest=name in _SMALLEST_KERAS_CV,
            slow=name in _SLOW_KERAS_CV,
            unfit=unfit,
            error=error,
        )
    yield Case(
        library="keras_cv.models",
        name="ResNet18Backbone with its pyramid levels P3 to P5",
        family="ResNetBackbone pyramid",
        build=_build_pyramid,
        unfit="has one output per level; feature_layer= selects one",
        error="has 3 outputs",
    )
    yield Case(
        library="keras_cv.models",
        name="RetinaNet",
        family="RetinaNet",
        build=_build_retinanet,
        unfit="has several outputs, boxes and classes; attach to its backbone",
        error="has 2 outputs",
    )


def _build_keras_cv(base, arguments, include_top=False):
    if include_top:
        raise ValueError(f"{base} has no classifier form.")
    return getattr(keras_cv.models, base)(**arguments)


def _resnet18():
    arguments = dict(_KERAS_CV_BACKBONES["ResNet18Backbone"])
    base = arguments.pop("class")
    arguments.update(include_rescaling=False, input_shape=(64, 64, 3))
    return _build_keras_cv(base, arguments)


def _build_pyramid(include_top=False):
    del include_top  # The model has no classifier form.
    backbone = _resnet18()
    levels = [backbone.pyramid_level_inputs[level] for level in ("P3", "P4", "P5")]
    return tf.keras.Model(backbone.input, [backbone.get_layer(name).output for name in levels])


def _build_retinanet(include_top=False):
    del include_top  # The model always has its heads.
    return keras_cv.models.RetinaNet(
        num_classes=CLASSES, bounding_box_format="xywh", backbone=_resnet18()
    )


def _build_keras_hub(include_top=False):
    import keras_hub  # Optional, and only for Keras 3.

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(64, 64, 3),
    )
    if not include_top:
        return backbone
    return keras_hub.models.ImageClassifier(backbone=backbone, num_classes=CLASSES)


KERAS_HUB = Case(
    library="keras_hub.models",
    name="ResNetBackbone (18 layers)",
    family="ResNetBackbone",
    build=_build_keras_hub,
    has_top=True,
    smallest=True,
)
HAS_KERAS_HUB = importlib.util.find_spec("keras_hub") is not None


def all_cases() -> list[Case]:
    """Returns all cases of the running stack, including those that cannot have a head."""
    cases = [
        *_listed_cases(tf.keras.applications, "keras.applications", "classes"),
        *_keras_cv_cases(),
        *_listed_cases(legacy, "keras_cv legacy", "num_classes", include_rescaling=False),
    ]
    return [*cases, KERAS_HUB] if HAS_KERAS_HUB else cases

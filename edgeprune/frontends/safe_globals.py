"""What a pickled checkpoint may name: exact names, no prefix rules. Anything else is refused.

Stricter than torch's own list, which allows calls such as ``bytearray(10**11)`` and ``torch.FloatTensor(10**11)``:
here a name says what it may be used for, and layer classes may only be re-created empty and filled, never called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from edgeprune.frontends import ultralytics_package, yolov5

CALLS = frozenset({
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
})
"""Functions a pickle may call; torch's weights-only loader allows them by default."""

STORAGES: Mapping[str, int] = {
    "torch.DoubleStorage": 8, "torch.FloatStorage": 4, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}
"""Storage types and their element sizes in bytes."""

NAMESPACES = ultralytics_package.NAMESPACES
"""Classes a pickle may make by a call without arguments; they hold a training's options."""

VALUES = frozenset({
    "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64", "torch.bool", "torch.uint8", "torch.int8",
    "torch.int16", "torch.int32", "torch.int64",
})
"""Data types, which a pickle may mention."""

_TORCH_LAYERS: Mapping[str, tuple[str, ...]] = {
    "torch.nn.modules.activation": (
        "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
        "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax", "Softmax2d", "Softplus",
        "Softsign", "Tanh",
    ),
    "torch.nn.modules.batchnorm": ("BatchNorm1d", "BatchNorm2d", "SyncBatchNorm"),
    "torch.nn.modules.channelshuffle": ("ChannelShuffle",),
    "torch.nn.modules.container": ("ModuleDict", "ModuleList", "Sequential"),
    "torch.nn.modules.conv": ("Conv1d", "Conv2d", "ConvTranspose2d"),
    "torch.nn.modules.dropout": ("AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "FeatureAlphaDropout"),
    "torch.nn.modules.flatten": ("Flatten", "Unflatten"),
    "torch.nn.modules.instancenorm": ("InstanceNorm2d",),
    "torch.nn.modules.linear": ("Identity", "Linear"),
    "torch.nn.modules.loss": ("BCEWithLogitsLoss",),  # kept by detectors whose training was interrupted
    "torch.nn.modules.normalization": ("GroupNorm", "LayerNorm", "LocalResponseNorm"),
    "torch.nn.modules.padding": (
        "CircularPad2d", "ConstantPad2d", "ReflectionPad2d", "ReplicationPad2d", "ZeroPad2d",
    ),
    "torch.nn.modules.pixelshuffle": ("PixelShuffle", "PixelUnshuffle"),
    "torch.nn.modules.pooling": (
        "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "LPPool2d", "MaxPool2d",
    ),
    "torch.nn.modules.upsampling": ("Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"),
}

_TORCHVISION_LAYERS: Mapping[str, tuple[str, ...]] = {
    "torchvision.models.alexnet": ("AlexNet",),
    "torchvision.models.convnext": ("CNBlock", "ConvNeXt", "LayerNorm2d"),
    "torchvision.models.densenet": ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition"),
    "torchvision.models.efficientnet": ("EfficientNet", "FusedMBConv", "MBConv"),
    "torchvision.models.googlenet": ("BasicConv2d", "GoogLeNet", "Inception", "InceptionAux"),
    "torchvision.models.inception": (
        "BasicConv2d", "Inception3", "InceptionA", "InceptionAux", "InceptionB", "InceptionC", "InceptionD",
        "InceptionE",
    ),
    "torchvision.models.mnasnet": ("MNASNet", "_InvertedResidual"),
    "torchvision.models.mobilenetv2": ("InvertedResidual", "MobileNetV2"),
    "torchvision.models.mobilenetv3": ("InvertedResidual", "MobileNetV3"),
    "torchvision.models.regnet": ("AnyStage", "BottleneckTransform", "RegNet", "ResBottleneckBlock", "SimpleStemIN"),
    "torchvision.models.resnet": ("BasicBlock", "Bottleneck", "ResNet"),
    "torchvision.models.shufflenetv2": ("InvertedResidual", "ShuffleNetV2"),
    "torchvision.models.squeezenet": ("Fire", "SqueezeNet"),
    "torchvision.models.vgg": ("VGG",),
    "torchvision.ops.misc": ("Conv2dNormActivation", "Permute", "SqueezeExcitation"),
    "torchvision.ops.stochastic_depth": ("StochasticDepth",),
}


def _qualified(layers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, str]]:
    return {f"{module}.{name}": (module, name) for module, names in layers.items() for name in names}


_TORCH = {**_qualified(_TORCH_LAYERS), "argparse.Namespace": ("argparse", "Namespace")}  # a training script's options
_TORCHVISION = _qualified(_TORCHVISION_LAYERS)


def classes() -> frozenset[str]:
    """Return the classes a pickle may re-create empty and fill; those of torchvision and ultralytics only where they
    are installed.
    """
    installed = frozenset(_TORCH | (_TORCHVISION if find_spec("torchvision") else {})).union(yolov5.SHELLS)
    return installed.union(ultralytics_package.NAMES) if find_spec("ultralytics") else installed


def resolve(names: Iterable[str]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return (class, name) pairs for ``torch.serialization.safe_globals``; names outside ``classes()`` are left out.

    What is imported is spelt here, never taken from a file. A class this version of a package no longer has is left
    out.
    """
    known = _TORCH | _TORCHVISION
    pairs: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name in sorted(classes().intersection(names)):
        if name in yolov5.SHELLS:
            pairs.append((yolov5.SHELLS[name], name))
            continue
        if name in ultralytics_package.NAMES:
            found = ultralytics_package.resolve(name)
        else:
            module, attribute = known[name]
            found = getattr(importlib.import_module(module), attribute, None)
        if found is not None:
            pairs.append((found, name))
    return pairs

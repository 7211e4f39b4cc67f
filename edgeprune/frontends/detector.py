"""What every detector becomes: layers in order, each fed by earlier ones, and a head that gives one tensor.

The head's tensor is the *raw heads*: (N, C, P), all levels side by side, row-major within a level. Decoding and
suppression belong to the task, so what is compiled, lowered and timed is the network alone.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeprune.errors import BadOption
from edgeprune.model import TorchModel

PREVIOUS = -1
"""The source that stands for "the layer before"; any other is the number of an earlier layer."""


class Concat(nn.Module):
    """Joins feature maps of one height and width along their channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        """Return (N, sum of C, H, W)."""
        return torch.cat(maps, 1)


class Head(nn.Module, ABC):
    """The last layer of a detector: takes a feature map a level and returns the raw heads."""

    @abstractmethod
    def classify(self, kept: Sequence[int | None], generator: torch.Generator) -> None:
        """Change the classes, in place: new class i continues old class ``kept[i]``, or starts anew where it is None.

        What does not depend on the class (boxes, objectness) stays as it is.
        """


class Detector(nn.Module):
    """A detector as a list of layers: layer i gets the outputs of the layers ``sources[i]`` names, in that order.

    The layers keep the names they have in the checkpoint, ``model.0`` and so on. ``sources`` are numbers of earlier
    layers or PREVIOUS, which is the image for the first.
    """

    def __init__(self, layers: Sequence[nn.Module], sources: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)
        self.sources = tuple(sources)

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw heads (N, C, P) of images (N, 3, H, W); H and W are multiples of the largest stride."""
        outputs: list[Tensor] = []
        for layer, sources in zip(self.model, self.sources, strict=True):
            before = outputs[-1] if outputs else images
            outputs.append(layer(*(before if source == PREVIOUS else outputs[source] for source in sources)))
        return outputs[-1]


def with_classes(model: TorchModel, classes: Sequence[str], seed: int) -> TorchModel:
    """Return a copy for another class set: the same trunk, and a head whose rows of like-named classes are kept.

    Names are compared without regard to case; a class the model does not know starts from weights drawn by ``seed``.
    Raises BadOption for a model whose head edgeprune does not know how to change.
    """
    module = copy.deepcopy(model.module)
    head = module.model[-1] if isinstance(module, Detector) else None
    if not isinstance(head, Head):
        raise BadOption(
            f"this model detects {len(model.spec.classes)} classes and the data has {len(classes)}; edgeprune can "
            f"change the classes of YOLO checkpoints only: give a model for the data's classes"
        )
    known = {name.casefold(): index for index, name in enumerate(model.spec.classes)}
    with torch.random.fork_rng(devices=[]):  # a new layer fills itself with numbers of torch's own, which are not kept
        kept = [known.get(name.casefold()) for name in classes]
        head.classify(kept, torch.Generator().manual_seed(seed))
    return TorchModel(module.eval(), dataclasses.replace(model.spec, classes=tuple(classes)), model.inputs)

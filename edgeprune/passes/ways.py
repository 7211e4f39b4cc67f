"""In which arithmetic and layout plans are ranked: only where the outputs do not suffer by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from edgeprune.model import TorchModel, portions
from edgeprune.profiles.host import has_bf16

Arithmetic = Literal["auto", "fp32", "bf16"]

ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)
COMPARED = 64
"""Images that tell whether outputs suffer."""
_BATCH = 100
"""Images a forward pass: of a small network's activations more than this fall out of the processor's caches."""
_APART: dict[Arithmetic, float] = {"fp32": 1e-3, "bf16": 0.02}
"""How far outputs may lie from those of plain float32, as a share of their spread, for that way to be taken."""


@dataclass(frozen=True)
class Way:
    """How forward passes are done while plans are ranked: in which arithmetic, and channels last or not.

    Nothing that leaves the search was computed so. On two cores with bf16 units, ResNet-56 at half its MACs takes 1.0 s
    a thousand images in bf16 with channels last, 1.7 s in float32 with channels last and 2.5 s plain.
    """

    arithmetic: Arithmetic = "fp32"
    channels_last: bool = False

    def __str__(self) -> str:
        return self.arithmetic + (", channels last" if self.channels_last else "")

    def dress(self, model: TorchModel) -> TorchModel:
        """Lay the module's weights out for this way, in place."""
        if self.channels_last:
            model.module.to(memory_format=torch.channels_last)
        return model

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in this arithmetic within the block, in this thread."""
        how: Any = torch.autocast("cpu", torch.bfloat16) if self.arithmetic == "bf16" else nullcontext()
        with how:
            yield

    def batch(self, images: torch.Tensor) -> torch.Tensor:
        """Return images (n, C, H, W) laid out for this way."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def predict(self, model: TorchModel, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a dressed model in batches; a ``Predict`` once the model is bound."""
        with torch.no_grad(), self.computing():
            parts = [model.module(self.batch(_tensor(part))) for part in portions(images, _BATCH)]
        outputs: NDArray[np.float32] = torch.cat(parts).float().numpy()
        return outputs


PLAIN = Way()


def agreed(
    model: TorchModel, images: NDArray[np.float32], asked: Arithmetic = "auto", native: bool | None = None
) -> Way:
    """Return the fastest way that computes what plain float32 does on ``images``; PLAIN where none does.

    ``auto`` tries bf16 only on a processor that has it (``native``; None looks). A module that relies on the layout
    of its tensors fails with channels last, and is left as it is.
    """
    if not len(images):
        return PLAIN
    wanted = PLAIN.predict(model.clone(), images)
    spread = float(wanted.std()) or 1.0
    halves: tuple[Arithmetic, ...] = ("bf16",) if asked == "bf16" or (
        asked == "auto" and (has_bf16() if native is None else native)
    ) else ()  # fmt: skip
    for arithmetic in (*halves, "fp32"):
        for channels_last in (True, False):
            way = Way(arithmetic, channels_last)
            try:
                found = way.predict(way.dress(model.clone()), images)
            except RuntimeError:  # torch's word for a view that this layout does not allow, or a missing kernel
                continue
            apart = float(np.sqrt(np.mean((found - wanted) ** 2))) / spread
            if np.isfinite(apart) and apart <= _APART[arithmetic]:
                return way
    return PLAIN


def _tensor(images: NDArray[np.float32]) -> torch.Tensor:
    """Return images as a tensor that a module may write into: memory that workers share with others is read-only."""
    return torch.from_numpy(images if images.flags.writeable else images.copy())

"""Re-estimating batch-norm statistics: after a cut they describe activations that no longer exist.

On CIFAR-10's ResNet-20 at half the MACs this alone lifted accuracy before fine-tuning from 16 % to 55 %.

Statistics of a few hundred plain images are not those that a model was trained with: images were augmented then.
Re-estimating those of an uncut ResNet-20 on 100 images loses 3.8 points, on 256 2.7, on 2,048 2.3, and nothing where
those are padded and cropped as for its training (benchmarks/results/norms.md). What the original's own norms see on the
same images tells how far they are off, and how well each channel still moves with the original's tells how much of that
to believe: the images are a sample with a control variate (Owen, Monte Carlo theory, section 8.9). Where a cut reaches
nothing, statistics stay what they were.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_Norm = nn.modules.batchnorm._BatchNorm
Kept = Mapping[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]
"""``Surgery.kept``: by module, (output, input) indices that are left of the original's, None for all."""
_TINY = 1e-24
_PART = 16
"""Images that moments are taken of at a time: the squares of a whole batch leave the caches, and at 224 px take 0.6 GB
a worker. No bit of them hangs on it.
"""


@dataclass(frozen=True)
class Sample:
    """What reaches a norm in one batch of n images: the mean and the mean square of every channel in every image, both
    float32 (n, C), and over all of them the mean and the unbiased variance, (C,).
    """

    means: Tensor
    squares: Tensor
    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(inputs: Tensor) -> Sample:
        """Return that of inputs (n, C, ...)."""
        parts = [_moments(part.float()) for part in torch.split(inputs.detach(), _PART)]
        means, squares = (torch.cat(moments) for moments in zip(*parts, strict=True))
        mean, count = means.mean(0), inputs[:, :1].numel()
        spread = (squares.mean(0) - mean.square()).clamp(min=0.0)
        return Sample(means, squares, mean, spread * count / max(count - 1, 1))


@dataclass(frozen=True)
class Control:
    """Statistics that a norm was trained with, (C,) each, and what reaches it on the images that others are
    re-estimated on: of the first batch each image's ``means`` and mean ``squares``, (n, C) each, of every batch the
    mean and the variance.
    """

    mean: Tensor
    variance: Tensor
    means: Tensor
    squares: Tensor
    batches: Sequence[tuple[Tensor, Tensor]]

    def of(self, indices: Sequence[int] | None) -> Control:
        """Return that of some channels, or of all."""
        if indices is None:
            return self
        at = torch.tensor(indices)
        batches = [(mean[at], variance[at]) for mean, variance in self.batches]
        return Control(self.mean[at], self.variance[at], self.means[:, at], self.squares[:, at], batches)

    def trust(self, first: Sample) -> tuple[Tensor, Tensor]:
        """Return how far a cut norm's means and mean squares go along with these, from what reaches it in the first
        batch: (C,) each, in [0, 1].
        """
        return _together(first.means, self.means), _together(first.squares, self.squares)

    def corrected(self, batch: int, found: Sample, trust: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean and variance to be expected of a cut norm that ``found`` reached in a batch.

        In units of its deviation, its mean is taken to be off as the original's is, and its variance by the same
        factor, each as far as it is to be trusted: so much of the shift, and the factor to that power.
        """
        mean, variance = self.batches[batch]
        live = (variance > 0.0) & (self.variance > 0.0)
        known = variance.where(live, 1.0)
        shift = (self.mean - mean) * (found.variance / known).sqrt()
        factor = (self.variance / known).where(live, 1.0)
        return found.mean + trust[0] * shift.where(live, 0.0), found.variance * factor ** trust[1]


def controls(module: nn.Module, batches: Iterable[Tensor]) -> dict[str, Control]:
    """Return by name what the norms of a trained module see in batches (n, C, H, W), and the statistics they have.

    Norms that answer other than once a batch are left out. The module is in eval mode afterwards.
    """
    found: dict[str, list[Sample]] = {}
    count = 0

    def see(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.setdefault(name, []).append(Sample.of(inputs[0]))

    module.eval()
    norms = _norms(module)
    with ExitStack() as hooks, torch.no_grad():
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_pre_hook(partial(see, name)).remove)
        for batch in batches:
            module(batch)
            count += 1
    return {name: _control(norms[name], samples) for name, samples in found.items() if len(samples) == count}


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether the module holds any batch norm with running statistics."""
    return bool(_norms(module))


def first_images(batches: Iterable[Tensor], count: int) -> list[Tensor]:
    """Return the first ``count`` images of batches (n, C, H, W), in batches; fewer where there are no more.

    A last batch of a single image is joined to the one before: a batch norm over one value has no statistics.
    """
    taken: list[Tensor] = []
    for batch in batches:
        if count <= 0:
            break
        taken.append(batch[:count])
        count -= len(taken[-1])
    if len(taken) > 1 and len(taken[-1]) == 1:
        taken[-2:] = [torch.cat(taken[-2:])]
    return taken


def recalibrate(
    module: nn.Module, batches: Iterable[Tensor], told: Mapping[str, Control] | None = None, kept: Kept | None = None
) -> None:
    """Replace the running statistics of every batch norm by those of ``batches``, in place.

    Batches are float32 (n, C, H, W), n > 1. A norm of which the original's ``told`` on the very same batches has its
    statistics corrected by that, as the channels that are ``kept`` of it; of all others they are the plain average over
    batches. Only norms change (dropout stays off); weights do not, and the module is in eval mode afterwards.
    """
    norms, kept = _norms(module), kept or {}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    own = {name: (told or {})[name].of(kept.get(name, (None, None))[0]) for name in norms if name in (told or {})}
    trust: dict[str, tuple[Tensor, Tensor]] = {}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in own}

    def correct(name: str, norm: _Norm, inputs: tuple[Any, ...]) -> None:
        sample = Sample.of(inputs[0])
        if name not in trust:
            trust[name] = own[name].trust(sample)
        found[name].append(own[name].corrected(len(found[name]), sample, trust[name]))
        _set(norm, *found[name][-1])

    module.eval()
    with ExitStack() as hooks, torch.no_grad():
        for name, norm in norms.items():
            if name in own:
                hooks.callback(norm.register_forward_pre_hook(partial(correct, name)).remove)
            else:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
        for batch in batches:
            module(batch)
        for name, batchwise in found.items():
            if batchwise:
                _set(norms[name], *(torch.stack(values).mean(0) for values in zip(*batchwise, strict=True)))
    for name, momentum in momenta.items():
        norms[name].momentum = momentum
    module.eval()


def follow(module: nn.Module, uncut: nn.Module, kept: Kept, batches: Iterable[Tensor], count: int) -> None:
    """Re-estimate, in place, the norms of a ``module`` that was cut from ``uncut`` on the first ``count`` images of
    batches.
    """
    if count and has_batch_norm(module):
        images = first_images(batches, count)
        recalibrate(module, images, controls(copy.deepcopy(uncut), images), kept)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the mean square of every channel in every image of (n, C, ...), (n, C) each."""
    space = tuple(range(2, values.ndim))
    return (values.mean(space), values.square().mean(space)) if space else (values, values.square())


def _control(norm: _Norm, samples: Sequence[Sample]) -> Control:
    mean, variance = (part.clone() for part in _statistics(norm))
    batches = [(sample.mean, sample.variance) for sample in samples]
    return Control(mean, variance, samples[0].means, samples[0].squares, batches)


def _statistics(norm: _Norm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _set(norm: _Norm, mean: Tensor, variance: Tensor) -> None:
    for old, new in zip(_statistics(norm), (mean, variance), strict=True):
        old.copy_(new)


def _together(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of each channel over images, both (n, C); 0 where it is negative or there is none.
    """
    one, other = one - one.mean(0), other - other.mean(0)
    size = one.square().sum(0) * other.square().sum(0)
    return ((one * other).sum(0) / (size + _TINY).sqrt()).where(size > _TINY, 0.0).clamp(0.0, 1.0)


def _norms(module: nn.Module) -> dict[str, _Norm]:
    return {name: part for name, part in module.named_modules()
            if isinstance(part, _Norm) and part.track_running_stats}  # fmt: skip

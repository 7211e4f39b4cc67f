"""Hints: what the student's layers are given follows what the teacher's are given, channel by channel.

FitNets (Romero et al., ICLR 2015, equation 3) need a regressor between features of two shapes; here the student was cut
out of the teacher, so that every channel it kept has its own in the teacher, and Surgery knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeprune.model import Surgery
from edgeprune.operators import channels_at, geometry, run_hooked

FAINT = 1e-3
"""Of the batch's mean: features of less count as this much. The few channels that a layer kept can all be dark in an
image, of which any error would be an endless share.
"""


class Hints:
    """What flows between the layers of a student and between those of its teacher; hooks on both, until ``close``.

    ``surgery`` made the student of the teacher, which is uncut. Both are on one device; ``inputs`` may be elsewhere.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, surgery: Surgery, inputs: tuple[Tensor, ...]
    ) -> None:
        there = dict(student.named_modules(remove_duplicate=False))
        self._names = [name for name in readers(teacher, inputs) if geometry(there.get(name, nn.Identity()))]
        self._layers = [teacher.get_submodule(name) for name in self._names]
        self._kept = [surgery.kept.get(name, (None, None))[1] for name in self._names]
        self._given: dict[tuple[bool, int], Tensor] = {}
        self._hooks = [
            module.get_submodule(name).register_forward_pre_hook(self._keeper(of_teacher, number))
            for of_teacher, module in ((False, student), (True, teacher))
            for number, name in enumerate(self._names)
        ]

    def _keeper(self, of_teacher: bool, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if of_teacher or torch.is_grad_enabled():  # a student that is scored in between has nothing to follow
                self._given[of_teacher, number] = given[0]

        return keep

    def distance(self) -> Tensor:
        """Return the squared error of the last batch's features as a share of the teacher's, mean over layers and
        images; 0 where there is nothing to compare.
        """
        apart = [self._apart(number) for number in range(len(self._names))]
        self._given.clear()  # or a batch of features would be held until the next
        return torch.stack(apart).mean() if apart else torch.zeros(())

    def _apart(self, number: int) -> Tensor:
        student, teacher = self._given[False, number], self._given[True, number].detach()
        kept = self._kept[number]
        if kept is not None:
            channels = channels_at(self._layers[number])
            teacher = teacher.index_select(channels, torch.tensor(kept, device=teacher.device))
        of_image = tuple(range(1, teacher.ndim))
        error, whole = (torch.linalg.vector_norm(x, dim=of_image).square() for x in (student - teacher, teacher))
        least = FAINT * whole.mean()
        share = error / whole.clamp(min=least.clamp(min=torch.finfo(least.dtype).tiny))
        mean: Tensor = (share * (least > 0.0)).mean()
        return mean

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def readers(module: nn.Module, inputs: tuple[Tensor, ...]) -> Sequence[str]:
    """Return the layers with filters in the order they are called, one for each tensor that any of them is given; not
    those that are given ``inputs`` as they are.
    """
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    inputs = tuple(one.to(device) for one in inputs)
    given: list[Tensor] = list(inputs)
    found: list[str] = []

    def note(name: str, source: object) -> None:
        if isinstance(source, Tensor) and not any(source is one for one in given):
            given.append(source)
            found.append(name)

    hooks = [
        part.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0] if args else None))
        for name, part in module.named_modules()
        if geometry(part)
    ]
    run_hooked(module, inputs, hooks)
    return found


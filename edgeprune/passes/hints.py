"""Hints: the student's features in front of its output layers follow the teacher's, channel by channel.

FitNets (Romero et al., ICLR 2015, equation 3) need a regressor between features of two shapes; here the student was cut
out of the teacher, so that every channel it kept has its own in the teacher, and Surgery knows which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgeprune.frontends.detector import Detector
from edgeprune.model import Surgery
from edgeprune.operators import geometry, observe


class Hints:
    """What flows into the output layers of a student and its teacher; hooks on both, until ``close``."""

    def __init__(self, student: nn.Module, teacher: nn.Module, surgery: Surgery, inputs: tuple[Tensor, ...]) -> None:
        self._names = output_layers(teacher, inputs)
        self._kept = [surgery.kept.get(name, (None, None))[1] for name in self._names]
        self._given: dict[tuple[bool, int], Tensor] = {}
        self._hooks = [
            module.get_submodule(name).register_forward_pre_hook(self._keeper(of_teacher, number))
            for of_teacher, module in ((False, student), (True, teacher))
            for number, name in enumerate(self._names)
        ]

    def _keeper(self, of_teacher: bool, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self._given[of_teacher, number] = given[0]

        return keep

    def distance(self) -> Tensor:
        """Return the squared error of the last batch's features as a share of the teacher's, mean over layers and
        images; 0 where there is no output layer.
        """
        apart = [self._apart(number) for number in range(len(self._names))]
        return torch.stack(apart).mean() if apart else torch.zeros(())

    def _apart(self, number: int) -> Tensor:
        student, teacher = self._given[False, number], self._given[True, number].detach()
        kept = self._kept[number]
        if kept is not None:
            teacher = teacher.index_select(1, torch.tensor(kept, device=teacher.device))
        error, whole = ((x.square().flatten(1).mean(1)) for x in (student - teacher, teacher))
        return (error / whole.clamp(min=1e-6)).mean()

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def output_layers(module: nn.Module, inputs: tuple[Tensor, ...]) -> Sequence[str]:
    """Return the layers with filters that read the last features: in a detector those that read what its head is given,
    else the last one called.
    """
    calls = observe(module, inputs)
    filters = [name for name in sorted(calls, key=lambda n: calls[n].order) if geometry(module.get_submodule(name))]
    if not isinstance(module, Detector):
        return filters[-1:]
    head = f"model.{len(module.model) - 1}"
    maps: list[Tensor] = []
    found: list[str] = []

    def note(name: str, given: tuple[Tensor, ...]) -> None:
        if any(given[0] is one for one in maps):
            found.append(name)

    hooks = [module.get_submodule(head).register_forward_pre_hook(lambda _, given: maps.extend(given))]
    for name in filters:
        if name.startswith(f"{head}."):
            layer = module.get_submodule(name)
            hooks.append(layer.register_forward_pre_hook(lambda _, given, name=name: note(name, given)))
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found

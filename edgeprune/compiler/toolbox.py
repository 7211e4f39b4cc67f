"""The passes of the default pipeline, configured for one build."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeprune import find
from edgeprune.agents.base import Agent
from edgeprune.agents.presets import preset as preset_called
from edgeprune.agents.warm import with_episodes
from edgeprune.compiler.pipeline import AnyPass
from edgeprune.compiler.request import configure
from edgeprune.errors import BadOption, UnmetRequirement
from edgeprune.passes.activation import Activation
from edgeprune.passes.dialect import Dialect
from edgeprune.passes.export import Export
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.prune import Prune
from edgeprune.passes.quantize import Quantize, Wanted
from edgeprune.passes.sparsify import Sparsify, Told
from edgeprune.tasks.base import Task

Effort = Literal["quick", "normal", "long"]
TRANSFER_EPOCHS: Mapping[Effort, int] = {"quick": 15, "normal": 60, "long": 150}
PATIENCE = 10
EVALUATIONS: Mapping[Effort, tuple[int, int]] = {"quick": (80, 4), "normal": (200, 12), "long": (600, 36)}
"""Evaluations of a whole run: at least so many, and so many a free group."""
HALVING: Mapping[Effort, float] = {"quick": 0.0, "normal": 0.0, "long": 0.25}
"""Epochs of the first rung of a search's finalists."""


@dataclass(frozen=True)
class Toolbox:
    """One configured pass of each kind. ``evaluations`` are the whole run's; ``data`` whether there are real images.

    ``dialect`` holds one pass for targets whose runtime does not read all of ONNX, and none for others.
    """

    prune: Prune
    activation: Activation
    sparsify: Sparsify
    finetune: Finetune
    export: Export
    quantize: Quantize
    evaluations: int
    data: bool
    dialect: tuple[Dialect, ...] = ()

    def ending(self) -> list[AnyPass]:
        """Return the passes that make a finished graph of a module: export, lower the precision, speak the dialect."""
        return [self.export, self.quantize, *self.dialect]

    @property
    def trains(self) -> bool:
        """Whether candidates are fine-tuned."""
        return self.data and self.finetune.epochs > 0

    def searching(
        self, limits: Mapping[str, float], evaluations: int, aligned: bool, earlier: Told | None = None
    ) -> Sparsify:
        """Return the search under given ceilings with its share of the evaluations, and of the imagined episodes;
        ``earlier`` is what the searches before it were told.
        """
        return dataclasses.replace(
            self.sparsify,
            agent=with_episodes(self.sparsify.agent, min(1.0, evaluations / self.evaluations)),
            limits=tuple(sorted(limits.items())),
            evaluations=evaluations,
            aligned=aligned or self.sparsify.aligned,
            earlier={name: dict(scores) for name, scores in (earlier or {}).items()},
        )


def transfer(settings: Mapping[str, Mapping[str, str]], effort: Effort, task: Task | type[Task]) -> Finetune:
    """Return the training that a model with a new head gets before anything is compiled: on labels alone.

    It ends when the score on the search split has not risen for PATIENCE epochs. ``task`` says what training
    had better use. Raises BadOption for settings that cannot be.
    """
    usual = Finetune(epochs=TRANSFER_EPOCHS[effort], patience=PATIENCE)
    alone = {**task.training, "distillation": 0.0, "hints": 0.0}
    return configure(dataclasses.replace(usual, **alone), settings.get("transfer", {}), "transfer")


def toolbox(
    settings: Mapping[str, Mapping[str, str]],
    *,
    agent: str | Agent | None,
    evaluations: int | None,
    epochs: int | None,
    effort: Effort,
    precision: Wanted,
    data: bool,
    free_groups: int,
    task: Task | type[Task],
    dialect: bool = False,
    preset: str | None = None,
) -> Toolbox:
    """Return the passes of a build; ``settings`` win over what the other arguments imply, and ``agent`` and they over a
    ``preset``.

    ``task`` says what search and fine-tuning had better use; ``dialect`` that the target's runtime does not read all of
    ONNX.

    Without ``data`` only the uniform agent can work, and nothing is trained. Raises BadOption and UnmetRequirement
    for options that cannot be.
    """
    if evaluations is not None and evaluations < 1:
        raise BadOption(f"--evaluations must be at least 1, not {evaluations}")
    if epochs is not None and epochs < 0:
        raise BadOption(f"--epochs must not be negative, not {epochs}")
    if preset is not None:
        system = preset_called(preset)
        settings = system.under(settings, agent if agent is None or isinstance(agent, str) else agent.name)
        agent = system.agent if agent is None else agent
    if agent is None:
        agent = "ppo" if data else "uniform"
    if isinstance(agent, str) and not data and agent != "uniform":
        raise UnmetRequirement(f"agent {agent!r} needs data to score plans by; give --data, or --agent uniform")
    chosen: Agent = find.find("agents", agent)() if isinstance(agent, str) else agent
    if settings.get("agent"):
        chosen = configure(chosen, settings["agent"])
    least, each = EVALUATIONS[effort]
    count = evaluations if evaluations is not None else max(least, each * free_groups)
    usual = dataclasses.replace(Finetune(epochs=task.epochs[effort] if epochs is None else epochs), **task.training)
    finetune = configure(usual, settings.get("finetune", {}))
    quantize = configure(Quantize(precision=precision), settings.get("quantize", {}))
    halving = HALVING[effort] if data and finetune.epochs else 0.0
    searching = Sparsify(agent=chosen, evaluations=count, halving=halving)
    sparsify = configure(dataclasses.replace(searching, **task.searching), settings.get("sparsify", {}))
    if sparsify.mixed and (quantize.precision != "auto" or quantize.lowered is not None):
        raise BadOption("sparsify.mixed chooses where int8 pays; it has no say where a precision or layers are given")
    if sparsify.halving and not finetune.epochs:
        raise BadOption("sparsify.halving trains a search's finalists as the result is trained; give --epochs too")
    if sparsify.halving:  # else how the result is trained has no say in the search, which stays in the cache
        sparsify = dataclasses.replace(sparsify, training=dataclasses.replace(finetune, epochs=1, patience=0))
    return Toolbox(
        prune=configure(Prune(), settings.get("prune", {})),
        activation=configure(Activation(), settings.get("activation", {})),
        sparsify=sparsify,
        finetune=finetune,
        export=configure(Export(), settings.get("export", {})),
        quantize=quantize,
        evaluations=sparsify.evaluations,
        data=data,
        dialect=_conforming(settings.get("dialect", {}), dialect),
    )


def _conforming(asked: Mapping[str, str], dialect: bool) -> tuple[Dialect, ...]:
    if asked and not dialect:
        raise BadOption("dialect.… is for targets whose runtime does not read all of ONNX, and this one's does")
    return (configure(Dialect(), asked),) if dialect else ()

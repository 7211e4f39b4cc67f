"""What a comparison is to compare, as one value, and the rows that come of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune import find
from edgeprune.agents.base import Agent
from edgeprune.budget import Limit
from edgeprune.compiler.cells import Ablation, Method
from edgeprune.compiler.request import Request, configure
from edgeprune.compiler.toolbox import Toolbox
from edgeprune.errors import BadOption, nearest

ABLATIONS: tuple[Ablation, ...] = ("no-recalibration", "no-distillation", "no-measured-cost")
"""What a comparison may leave out, in rows of their own."""
TABLES = ("sparsify", "finetune", "task", "agent", "export", "dialect")
"""What ``settings`` may be about."""
OF_GRAPHS = ("export", "dialect")
"""Those of TABLES that only make a finished graph."""
OF_BUILDS = ("actions", "observation", "reward", "reward_weights", "reward_grid", "ratio", "warm", "mixed")
"""Options of ``sparsify`` that say how episodes are played."""
EVALUATIONS = 300
SEEDS = 5


@dataclass(frozen=True)
class Contest:
    """What to compare. Of ``request`` count the model, data, target, settings, device, seed and folder.

    ``agents`` are names or instances. Seeds are ``request.seed`` and those after it, ``seeds`` of them. Each of
    ``budgets`` holds ceilings on ``macs``, ``parameters`` and, as ``request.table`` tells it, ``latency``. ``cold``
    adds every learning agent without its warm start; ``measure`` times the emitted float32 graphs.
    """

    request: Request
    agents: tuple[str | Agent, ...]
    budgets: tuple[dict[str, Limit], ...] = ({"macs": Limit(0.5, True)},)
    seeds: int = SEEDS
    evaluations: int = EVALUATIONS
    epochs: int = 0
    cold: bool = False
    ablations: tuple[Ablation, ...] = ()
    measure: bool = False

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("evaluations", 1), ("epochs", 0)):
            if getattr(self, name) < least:
                raise BadOption(f"--{name} must be at least {least}, not {getattr(self, name)}")
        first = self.request.seed
        if first + self.seeds > 2**32:
            raise BadOption(f"{self.seeds} seeds from {first} on go beyond 2**32 - 1; give a smaller --seed")
        for ablation in set(self.ablations).difference(ABLATIONS):
            raise BadOption(f"unknown ablation {ablation!r}{nearest(ablation, ABLATIONS)}")
        self._require_table()
        self._require_say()
        if not self.agents or not self.budgets:
            raise BadOption("nothing to compare: give --agents and a ceiling")

    @property
    def emits(self) -> bool:
        """Whether finished graphs are made: to be timed, or to tell a latency table."""
        return self.measure or self.request.table is not None

    def _require_say(self) -> None:
        """Raise BadOption for settings that would decide nothing."""
        for table in self.request.settings:
            if table not in TABLES:
                raise BadOption(f"a comparison has no {table!r} to set{nearest(table, TABLES)}")
            if table in OF_GRAPHS and not self.emits:
                raise BadOption(f"{table}.… has no say in a comparison that times nothing; give --measure or --table")
        for name in self.request.settings.get("sparsify", {}):
            if name in OF_BUILDS:
                raise BadOption(f"a comparison has every agent play by the same rules; sparsify.{name} is for compile")

    def _require_table(self) -> None:
        """Raise BadOption where something is asked for that only a latency table can tell."""
        timed = ["latency" in budget for budget in self.budgets]
        if self.request.table is None and any(timed):
            raise BadOption("--max-latency of a comparison is of what a latency table tells; give --table FILE too")
        if any(timed) and self.request.settings.get("sparsify", {}).get("granularity", "channel") != "channel":
            raise BadOption("zeros make no kernel faster, so --max-latency is for sparsify.granularity=channel")
        if "no-measured-cost" in self.ablations and not all(timed):
            raise BadOption(
                "--ablation no-measured-cost goes by MACs where others go by a table; give --table and --max-latency"
            )


def budgets(**ceilings: Sequence[Limit]) -> tuple[dict[str, Limit], ...]:
    """Return every combination of the ceilings that were given for each quantity; half the MACs where none was."""
    given = {quantity: limits for quantity, limits in ceilings.items() if limits} or {"macs": [Limit(0.5, True)]}
    return tuple(dict(zip(given, chosen, strict=True)) for chosen in itertools.product(*given.values()))


def written(quantity: str, limit: Limit) -> str:
    """Return a ceiling as people write it."""
    word = {"macs": "MACs"}.get(quantity, quantity)
    if limit.relative:
        return f"{limit.value:g}x {word}"
    return f"{limit.value:g} ms" if quantity == "latency" else f"{limit.value / 1e6:g} M {word}"


def methods(contest: Contest, tools: Toolbox) -> list[Method]:
    """Return the rows: every agent, learning ones warm, then the cold ones, then each ablation of all of these."""
    if "no-distillation" in contest.ablations and not tools.finetune.epochs:
        raise BadOption("--ablation no-distillation is about fine-tuning; give --epochs")
    if contest.request.settings.get("finetune") and not tools.finetune.epochs:
        raise BadOption("finetune.… has no say in a comparison that trains nothing; give --epochs")
    usual = [
        Method(name, dataclasses.replace(tools.sparsify, agent=agent), tools.finetune, agent.learns)
        for name, agent in _agents(contest).items()
    ]
    cold = [dataclasses.replace(one, label=f"{one.label} (cold)", warm=False) for one in usual if one.warm]
    rows = usual + (cold if contest.cold else [])
    left_out: list[Method] = []
    for ablation in dict.fromkeys(contest.ablations):
        for one in rows:
            label = f"{one.label} ({ablation.replace('-', ' ')})"
            changed = dataclasses.replace(one, label=label, ablation=ablation)
            if ablation == "no-recalibration":
                changed = dataclasses.replace(changed, sparsify=dataclasses.replace(one.sparsify, recalibration=0))
            elif ablation == "no-distillation":
                plain = dataclasses.replace(one.finetune, distillation=0.0, hints=0.0)
                step = one.sparsify
                if step.training is not None:
                    step = dataclasses.replace(step, training=dataclasses.replace(plain, epochs=1, patience=0))
                changed = dataclasses.replace(changed, finetune=plain, sparsify=step)
            left_out.append(changed)
    return rows + left_out


def _agents(contest: Contest) -> dict[str, Agent]:
    """Return the agents by name, each with those of the options under ``agent`` that it has."""
    asked = contest.request.settings.get("agent", {})
    agents: dict[str, Agent] = {}
    fields: set[str] = set()
    for given in contest.agents:
        agent: Agent = find.find("agents", given)() if isinstance(given, str) else given
        if agent.name in agents:
            raise BadOption(f"agent {agent.name!r} is named twice")
        own = {f.name for f in dataclasses.fields(agent)}
        fields |= own
        agents[agent.name] = configure(agent, {name: text for name, text in asked.items() if name in own}, agent.name)
    for name in asked:
        if name not in fields:
            raise BadOption(f"none of these agents has an option {name!r}{nearest(name, fields)}")
    return agents

"""What a comparison consists of: cells, each an agent, a seed and a budget, and what a finished one found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune.agents.base import Agent
from edgeprune.files import write_atomic
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.sparsify import Sparsify
from edgeprune.report import Measurement

SCHEMA = "edgeprune-cell/2"
Ablation = Literal["", "no-recalibration", "no-distillation", "no-measured-cost"]


@dataclass(frozen=True)
class Method:
    """What is compared: an agent and how it is started, or with what left out. ``label`` is its own.

    ``sparsify`` holds the agent and says how its plans are scored while it searches, ``finetune`` how the chosen one is
    trained.
    """

    label: str
    sparsify: Sparsify
    finetune: Finetune
    warm: bool = False
    ablation: Ablation = ""

    @property
    def agent(self) -> Agent:
        """The searcher itself."""
        return self.sparsify.agent


@dataclass(frozen=True)
class Ceiling:
    """One budget: how it was written, and the absolute ceilings on ``macs``, ``parameters`` and ``latency`` (ms, as a
    table tells it) that it means.
    """

    label: str
    limits: Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """One search of a comparison."""

    method: Method
    seed: int
    ceiling: Ceiling


class Finding(BaseModel):
    """What a finished cell found. ``audit`` is before fine-tuning, ``tuned`` after it on the same images.

    ``test`` is of the final model. All scores but ``search`` are of the cut model in float32, its batch norms
    re-estimated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: str = Field(SCHEMA, serialization_alias="schema", validation_alias="schema")
    key: str = Field(description="hash of everything that decides this cell")
    method: str
    agent: str
    warm: bool
    ablation: Ablation
    seed: int
    budget: str
    plan: str = Field(description="channels kept, group by group; 0 is a dropped block")
    search: float = Field(description="score that chose the plan, on ``images`` of those that choose")
    images: int
    audit: float
    tuned: float | None = Field(description="None without fine-tuning")
    test: float
    macs: float
    parameters: float
    told_ms: float | None = Field(None, description="latency that the table tells of this plan, in fp32")
    evaluations: int = Field(description="true evaluations, those of a warm start included")
    own: int = Field(description="of these, the agent's own")
    improvements: tuple[tuple[int, float], ...] = Field(description="(evaluations, best feasible score from there on)")
    journalled: int = Field(description="evaluations read back from the journal, which another cell had paid for")
    seconds: float = Field(description="of the search alone; read-back evaluations take none")
    measurement: Measurement | None = Field(None, description="of the emitted float32 ONNX, against the original's")


def path_of(folder: Path, cell: Cell, name: str) -> Path:
    """Return the file of a cell: named for people, and by its key."""
    words = f"{cell.method.label} {cell.ceiling.label} seed {cell.seed}"
    return folder / f"{re.sub(r'[^a-z0-9.]+', '-', words.lower()).strip('-')}-{name[:16]}.json"


def read(path: Path, name: str) -> Finding | None:
    """Return a finished cell of exactly this key, or None."""
    try:
        found = Finding.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.key == name else None


def write(path: Path, found: Finding) -> None:
    """Write a finished cell: all of it or nothing."""
    write_atomic(path, found.model_dump_json(by_alias=True, indent=1) + "\n")

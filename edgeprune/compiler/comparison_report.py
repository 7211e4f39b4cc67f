"""What a comparison says: the content of ``compare.json``, put together from its finished cells.

Scores are fractions. Every figure names its images: *search* chose the plan, *audit* is the rest of that split and
chose nothing (``audit`` before fine-tuning, ``tuned`` after), *test* was read once for each final model and chose
nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edgeprune.compiler.cells import Finding
from edgeprune.compiler.statistics import Anova, Difference, Line, Point, PowerLaw, Summary
from edgeprune.report import Objective, SplitRow

SCHEMA = "edgeprune-comparison/2"
REFERENCE = "random"
"""Whom every method is held against, besides the best baseline."""


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Dense(_Data):
    """The original, on the same images as the methods."""

    search: float
    audit: float
    test: float
    macs: float
    parameters: float


class BudgetRow(_Data):
    """One budget: its ceilings in absolute terms, the baseline that searched best under it, and the variance between
    methods.
    """

    label: str
    limits: dict[str, float]
    best_baseline: str | None = Field(description="of those that do not learn, by the mean score on search")
    anova: dict[str, Anova | None] = Field(description="between methods, by score: audit, tuned")


class MethodRow(_Data):
    """One method under one budget, over its seeds."""

    method: str
    agent: str
    budget: str
    learns: bool
    warm: bool
    ablation: str
    search: Summary
    audit: Summary
    tuned: Summary | None
    test: Summary
    macs_share: Summary
    parameters_share: Summary
    evaluations: Summary
    to_best: Summary = Field(description="evaluations until within 1 % of its own final best by the objective")
    latency_ratio: Summary | None = Field(description="p50 of the emitted float32 ONNX against the original's")
    curve: tuple[Point, ...] = Field(description="best by the objective, by true evaluations")
    against_reference: dict[str, Difference] = Field(description="more than ``reference``, paired by seed, by score")
    against_best: dict[str, Difference] = Field(description="more than the budget's best baseline, likewise")


class Comparison(_Data):
    """Everything a comparison says about itself."""

    schema_: str = Field(SCHEMA, serialization_alias="schema", validation_alias="schema")
    model: str
    metric: str
    target: str
    evaluations: int = Field(description="true evaluations that every cell may spend, a warm start's included")
    images: int = Field(description="that every plan was scored on while searching")
    objective: Objective = Field("metric", description="what plans were searched by; finalists race by the metric")
    finalists: int = Field(description="plans of a search, at most, that were scored on more of the images that choose")
    epochs: int
    seeds: list[int]
    splits: list[SplitRow]
    dense: Dense
    reference: str | None
    budgets: list[BudgetRow]
    rows: list[MethodRow]
    regression: dict[str, Line] = Field(
        description="audit score before fine-tuning on the share of MACs removed: distinct plans, by method and of all"
    )
    latency_law: PowerLaw | None = Field(
        description="p50 in ms = a · parameters^b, of the emitted float32 ONNX, over distinct plans"
    )
    cells: list[Finding]
    notes: list[str]
    options: dict[str, Any]
    environment: dict[str, Any]

    def to_json(self) -> str:
        """Return indented JSON with stable key order."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Comparison:
        """Read what ``to_json`` wrote; raises pydantic.ValidationError for anything else."""
        return cls.model_validate_json(text)

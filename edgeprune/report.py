"""What a build says about itself: plain data, JSON in and out. ``None`` always means "not measured", never 0.

``Report`` is the schema of ``report.json``; ``edgeprune list schema`` prints it as JSON Schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

SCHEMA = "edgeprune-report/1"
Objective = Literal["metric", "agreement"]


@dataclass(frozen=True, eq=False)
class Score:
    """A task's score on a split: higher is better, a fraction in [0, 1] for top-1 and mAP.

    ``per_item`` holds one value an image (float64, shape (n,)), in split order, so that two models can be paired;
    ``value`` is their mean where the score is one (top-1), else the score of the whole set.

    ``replicates`` (float64, shape (B,)) is for scores that are no mean over images (mAP): ``value`` of B bootstrap
    resamples of the images, the same ones for every score of these images; NaN where a resample has none.
    """

    value: float
    n: int
    per_item: NDArray[np.float64]
    replicates: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Turn what a task counted in (NumPy's or PyTorch's scalars, booleans) into what is stored and subtracted."""
        vars(self).update(value=float(self.value), n=int(self.n), per_item=np.asarray(self.per_item, np.float64))

    def drop_to(self, other: Score) -> tuple[float, float]:
        """Return (drop, standard error) of ``other`` below this score, paired on the same images.

        The standard error is that of the mean of the per-image differences, sd / sqrt(n); or, if both scores have
        replicates, the standard deviation of their differences (Efron & Tibshirani, 1993, chapter 6).
        """
        drops = self._drops(other)
        if drops is not None:
            return self.value - other.value, float(drops.std(ddof=1))
        difference = self.per_item - other.per_item
        error = float(difference.std(ddof=1) / np.sqrt(self.n)) if self.n > 1 else 0.0
        return self.value - other.value, error

    def drop_interval(self, other: Score) -> tuple[float, float]:
        """Return the 95 % interval of the drop to ``other``, paired on the same images.

        It is drop ± 1.96 standard errors; or, if both scores have replicates, from the 2.5th to the 97.5th
        percentile of their differences (the percentile interval; Efron & Tibshirani, 1993, chapter 13).
        """
        drop, error = self.drop_to(other)
        drops = self._drops(other)
        if drops is not None:
            low, high = np.percentile(drops, (2.5, 97.5))
            return float(low), float(high)
        return drop - 1.96 * error, drop + 1.96 * error

    def _drops(self, other: Score) -> NDArray[np.float64] | None:
        """Return the drop in every resample that has a score, or None unless both have at least two of them."""
        if self.n != other.n:
            raise ValueError(f"scores of {self.n} and {other.n} images cannot be paired")
        if self.replicates is None or other.replicates is None:
            return None
        if len(self.replicates) != len(other.replicates):
            raise ValueError(f"scores of {len(self.replicates)} and {len(other.replicates)} resamples cannot be paired")
        difference = self.replicates - other.replicates
        known = difference[~np.isnan(difference)]
        return known if len(known) > 1 else None


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Data):
    """Percentiles of single-run latency in milliseconds; an estimate has no spread."""

    p50: float
    p90: float | None = None
    p99: float | None = None


class Measurement(_Data):
    """What running an artifact on a target cost. ``unavailable`` carries no numbers."""

    source: Literal["measured", "estimated", "unavailable"]
    latency_ms: Latency | None = None
    runs: int | None = Field(None, description="timed runs the percentiles are over")
    warmup: int | None = Field(None, description="untimed runs before the first timed one")
    ratio: float | None = Field(None, description="p50 against the original's in the same interleaved session")
    ratio_interval: tuple[float, float] | None = Field(None, description="95 % interval of that ratio over rounds")
    power_mw: float | None = None
    energy_mj: float | None = None
    energy_source: Literal["measured", "estimated", "unavailable"] = "unavailable"
    peak_memory_bytes: int | None = None
    noisy: bool = Field(False, description="the spread stayed above the guard's bound: do not rank by it")
    conditions: dict[str, Any] = Field(default_factory=dict)


class ScoreReport(_Data):
    """A score with the split it was taken on, its paired drop and the 95 % interval of that drop."""

    metric: str = "score"
    value: float
    n: int
    split: Literal["search", "test", "synthetic"]
    drop: float | None = Field(None, description="paired drop against the original on the same images")
    drop_interval: tuple[float, float] | None = None


class Candidate(_Data):
    """A finished artifact: exported, at its final precision, scored and timed like every other."""

    name: str = Field(description="original, quantized-only, pruned-only, pruned-quantized, or a bisection probe")
    score: ScoreReport | None = None
    macs: float | None = None
    parameters: int | None = None
    size_bytes: int | None = None
    compressed_bytes: int | None = Field(None, description="of the deflated file; where a candidate is masked")
    nonzero_parameters: int | None = Field(None, description="parameters less the zeros of masks; None without masks")
    nonzero_macs: float | None = Field(None, description="MACs of those; the artifact computes all of ``macs``")
    precisions: dict[str, int] = Field(
        default_factory=dict, description="convolution count by precision that really runs"
    )
    measurement: Measurement = Measurement(source="unavailable")
    runtime: str = Field("", description="the runtime that runs it")
    held_floor: bool | None = None
    chosen: bool = False
    note: str = Field("", description="why it was chosen, dropped or not built")


class StepRecord(_Data):
    """One pass of the pipeline as it ran."""

    name: str = Field(serialization_alias="pass", validation_alias="pass")
    options: dict[str, Any]
    candidate: str = ""
    seconds: float
    cached: bool
    facts: dict[str, Any] = Field(default_factory=dict, description="what the pass found out, by its own names")
    _cuts: Any = PrivateAttr(None)

    @property
    def cuts(self) -> Any:
        """The ``Surgery`` that had been done to the original once this pass was through, where it gave a module. It is
        not in the report: the recipe has it.
        """
        return self._cuts


class GroupRow(_Data):
    """What became of one group of coupled channels, or of one layer's weights (``unit``), and why."""

    group: str
    unit: Literal["channels", "weights"] = "channels"
    channels: int
    kept: int
    dropped_block: str | None = None
    ladder: tuple[int, ...] = ()
    macs_share: float | None = None
    precision: Literal["int8", "float"] | None = Field(None, description="where the plan chose it")
    reason: str = ""


class SearcherRow(_Data):
    """What one searcher (agent or baseline) spent and found, at one cost target."""

    name: str
    target: float = Field(description="cost ceiling as a share of the original's MACs (or parameters)")
    evaluations: int = Field(description="true evaluations it spent; repeats and shared ones are free")
    best: float | None = Field(None, description="best search score, before fine-tuning")
    cost: float | None = Field(None, description="MACs (or parameters) of that best plan as a share of the original's")


class FinalistRow(_Data):
    """One of a search's best plans, scored again on images that the search did not look at."""

    plan: str = Field(description="channels kept, group by group; 0 is a dropped block")
    cost: float = Field(description="as a share of the original's")
    searched: float = Field(description="the search's own score of it")
    score: float = Field(description="on the most images that it was scored on again, before fine-tuning")
    images: int = Field(description="of the search split, how many those were")
    trained: float | None = Field(None, description="on the whole search split, after training")
    epochs: float = Field(0.0, description="how much training that was; who was given more is better")


class Evaluation(_Data):
    """One plan evaluated in the search, in order."""

    searcher: str
    target: float
    cost: float
    score: float


class LearningRow(_Data):
    """How far an agent's learning was: ``mean_reward`` is what so many episodes were paid, and where those were
    imagined it is a surrogate's expectation, never a score; ``best`` is the best true score so far.
    """

    searcher: str
    reward: str
    target: float
    evaluations: int = Field(description="true evaluations of the agent's own, so far")
    episodes: int
    mean_reward: float
    imagined: bool
    best: float | None = None


class GridRow(_Data):
    """What an agent found that was trained by one of several rewards."""

    reward: str
    target: float
    evaluations: int
    best: float | None = None


class Search(_Data):
    """The search as a whole. The reward trained the agent; the plan was chosen by its true score.

    ``objective`` is what ``history`` and the ``best`` of searchers, lessons and grid tell of a plan, and the
    ``searched`` of finalists: the task's score, or how near its outputs stay to the original's, in [0, 1], by a few
    images and no labels. All else is the task's score.
    """

    agent: str
    objective: Objective = "metric"
    evaluations: int
    resumed: int = Field(0, description="of these, read back from the journal of an interrupted run")
    best: float | None = Field(None, description="score of the plan taken, before fine-tuning, on ``images``")
    warm_start: float | None = Field(None, description="the same of the warm start's best plan, on the same images")
    images: int | None = Field(None, description="of the search split, the most that both were scored on")
    gain_over_warm_start: float | None = None
    agent_overhead: float | None = Field(
        None, description="share of the search's time not spent evaluating, plans read back counted as evaluated"
    )
    agent_seconds: float | None = Field(None, description="wall time of all searches that was not spent evaluating")
    searchers: list[SearcherRow] = Field(default_factory=list)
    history: list[Evaluation] = Field(default_factory=list)
    finalists: list[FinalistRow] = Field(default_factory=list, description="best first; the first plan was taken")
    preset: str | None = None
    actions: str = "ladder"
    observation: str = "full"
    reward: str = "constrained"
    warm: bool = Field(True, description="whether a learning agent was started from the baselines' best plans")
    learning: list[LearningRow] = Field(default_factory=list)
    reward_grid: list[GridRow] = Field(default_factory=list)


class CheckRow(_Data):
    """One limit of the budget and what was found."""

    quantity: str
    limit: float | None = Field(description="None for a share of what is not known")
    found: float | None
    basis: Literal["measured", "estimated", "exact", "unchecked"]
    held: bool | None


class SplitRow(_Data):
    """A split by name: what it is for, where it came from, how many images."""

    name: str
    n: int
    origin: str


class ArtifactRow(_Data):
    """A file of the build."""

    path: str
    sha256: str
    bytes: int


class KernelRow(_Data):
    """One kernel of an engine, in the builder's words; ``nodes`` are those of the graph that went into it."""

    name: str
    kind: str
    precision: str = ""
    nodes: tuple[str, ...] = ()
    ms: float | None = None


class EngineRow(_Data):
    """An engine, on what it runs, and how to build it again."""

    path: str
    builder: str
    version: str = Field(description="of TensorRT: another one does not load it")
    compute_capabilities: tuple[str, ...]
    command: tuple[str, ...] = Field(description="the exact command that builds it from the graph beside it")
    seconds: float
    precisions: dict[str, int] = Field(default_factory=dict, description="convolutions by what they really run in")
    memory_bytes: dict[str, int] = Field(default_factory=dict)
    layers: list[KernelRow] = Field(default_factory=list)


class PredictionRow(_Data):
    """What the latency table said of a finished graph that was then timed, at the pace of that session."""

    name: str
    predicted_ms: float
    measured_ms: float


class Report(_Data):
    """Everything a build says about itself: the content of ``report.json``."""

    schema_: str = Field(SCHEMA, serialization_alias="schema", validation_alias="schema")
    verdict: Literal["met", "not-met", "infeasible", "unchecked"]
    basis: Literal["measured", "estimated", "exact", "unchecked"]
    budget: list[CheckRow]
    target: dict[str, Any]
    splits: list[SplitRow]
    baseline: Candidate
    result: Candidate | None
    control: Candidate | None = Field(
        None, description="a dense model trained in this build after the pruned one's extra epochs, on the test split"
    )
    candidates: list[Candidate]
    probes: list[Candidate] = Field(default_factory=list, description="finished artifacts the bisection tried")
    steps: list[StepRecord]
    search: Search | None
    plan: list[GroupRow]
    learning: list[dict[str, Any]] = Field(
        default_factory=list, description="fine-tune epochs: candidate, epoch, loss, score"
    )
    artifacts: list[ArtifactRow]
    engine: EngineRow | None = None
    predictions: list[PredictionRow] = Field(default_factory=list, description="by the latency table, if there is one")
    environment: dict[str, Any]
    notes: list[str] = Field(default_factory=list)

    def to_json(self) -> str:
        """Return indented JSON with stable key order."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read what ``to_json`` wrote; raises pydantic.ValidationError for anything else."""
        return cls.model_validate_json(text)

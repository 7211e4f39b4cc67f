"""A realistic report, for every test that shows or checks one."""

from __future__ import annotations

import random
from typing import Any

from edgeprune.report import (
    ArtifactRow,
    Candidate,
    CheckRow,
    Evaluation,
    GroupRow,
    Latency,
    Measurement,
    Report,
    ScoreReport,
    Search,
    SearcherRow,
    SplitRow,
    StepRecord,
)


def candidate(name: str, p50: float | None, score: float, size: int, macs: float, **changes: Any) -> Candidate:
    original_score, original_p50 = 0.9172, 0.812
    measurement = Measurement(source="unavailable")
    if p50 is not None:
        ratio = p50 / original_p50
        measurement = Measurement(
            source="measured",
            latency_ms=Latency(p50=p50, p90=1.06 * p50, p99=1.31 * p50),
            runs=600,
            warmup=50,
            ratio=ratio,
            ratio_interval=(0.985 * ratio, 1.02 * ratio),
            peak_memory_bytes=41_000_000,
            conditions={"threads": 1, "rounds": 12, "load": 0.4},
        )
    drop = original_score - score
    found = ScoreReport(value=score, n=5000, split="search", drop=drop, drop_interval=(drop - 0.003, drop + 0.003))
    fields: dict[str, Any] = {
        "precisions": {"fp32": 21},
        "parameters": 269_000,
        "held_floor": drop <= 0.01,
    } | changes
    return Candidate(name=name, score=found, macs=macs, size_bytes=size, measurement=measurement, **fields)


def candidates() -> list[Candidate]:
    return [
        candidate("original", 0.812, 0.9172, 1_094_000, 40.8e6),
        candidate("quantized-only", 0.398, 0.9164, 318_000, 40.8e6, precisions={"int8": 20, "fp32": 1}),
        candidate("pruned-only", 0.655, 0.9121, 820_000, 29.9e6, parameters=201_000),
        candidate(
            "pruned-quantized",
            0.322,
            0.9110,
            251_000,
            29.9e6,
            precisions={"int8": 17, "fp32": 1},
            parameters=201_000,
            chosen=True,
            note="the fastest candidate that holds the floor",
        ),
    ]


def step(name: str, seconds: float, cached: bool, options: dict[str, Any], facts: dict[str, Any]) -> StepRecord:
    return StepRecord.model_validate(
        {
            "pass": name,
            "seconds": seconds,
            "cached": cached,
            "options": options,
            "facts": facts,
            "candidate": "pruned-quantized",
        }
    )


def report(**changes: Any) -> Report:
    """Return a report of a ResNet-20 build that met its budget; ``changes`` replace fields."""
    rng = random.Random(0)
    four = candidates()
    test = ScoreReport(value=0.9098, n=5000, split="test", drop=0.0066, drop_interval=(0.0021, 0.0111))
    history = [
        Evaluation(
            searcher=name, target=0.7, cost=0.97 * 0.7 + 0.03 * 0.7 * rng.random(), score=base + 0.05 * rng.random()
        )
        for name, base in (("uniform", 0.42), ("random", 0.40), ("greedy", 0.52), ("knapsack", 0.55), ("ppo", 0.57))
        for _ in range(2 if name == "uniform" else 24)
    ]
    groups = [
        GroupRow(
            group="conv1",
            channels=16,
            kept=16,
            ladder=(16,),
            macs_share=0.011,
            reason="locked: the zero-padded shortcut ties these channels to the next stage",
        ),
        *(
            GroupRow(
                group=f"layer{s}.{b}.conv1",
                channels=16 * 2 ** (s - 1),
                kept=k * 2 ** (s - 1),
                ladder=tuple(f * 2 ** (s - 1) for f in (16, 12, 8, 4)),
                macs_share=0.11,
                reason="chosen by ppo",
            )
            for s in (1, 2, 3)
            for b, k in enumerate((16, 8, 12))
        ),
        GroupRow(
            group="layer3.2.conv2",
            channels=64,
            kept=0,
            dropped_block="layer3.2",
            ladder=(64, 48, 32),
            macs_share=0.11,
        ),
    ]
    fields: dict[str, Any] = {
        "verdict": "met",
        "basis": "measured",
        "budget": [
            CheckRow(quantity="accuracy-drop", limit=0.01, found=0.0066, basis="measured", held=True),
            CheckRow(quantity="latency", limit=0.41, found=0.322, basis="measured", held=True),
            CheckRow(quantity="size", limit=382_900.0, found=251_000.0, basis="exact", held=True),
        ],
        "target": {"name": "host-cpu", "backend": "onnxruntime", "detected": {"cpu": "Example CPU", "vnni": True}},
        "splits": [
            SplitRow(name="train", n=50_000, origin="cifar10_train.npz"),
            SplitRow(name="search", n=5000, origin="half of cifar10_test.npz, stratified, seed 0"),
            SplitRow(name="test", n=5000, origin="the other half of cifar10_test.npz"),
        ],
        "baseline": four[0].model_copy(update={"score": ScoreReport(value=0.9164, n=5000, split="test")}),
        "result": four[3].model_copy(update={"score": test}),
        "candidates": four,
        "probes": [
            candidate(f"macs {m:.2f}x", 0.398 - 0.2 * (1 - m), 0.9172 - 0.05 * (1 - m), 300_000, m * 40.8e6)
            for m in (0.9, 0.8, 0.7, 0.6, 0.5)
        ],
        "steps": [
            step("prune", 1.2, False, {"criterion": "l1"}, {"dead": 0}),
            step("sparsify", 214.0, True, {"agent": "ppo", "evaluations": 98}, {"evaluations per second": 0.46}),
            step("finetune", 488.2, False, {"epochs": 12, "lr": 0.01}, {"best epoch": 11}),
        ],
        "search": Search(
            agent="ppo",
            evaluations=98,
            resumed=17,
            best=0.613,
            warm_start=0.598,
            gain_over_warm_start=0.015,
            agent_overhead=0.021,
            history=history,
            searchers=[
                SearcherRow(name=name, target=0.7, evaluations=n, best=best, cost=0.695)
                for name, n, best in (
                    ("uniform", 2, 0.44),
                    ("random", 24, 0.449),
                    ("greedy", 24, 0.57),
                    ("knapsack", 24, 0.598),
                    ("ppo", 24, 0.613),
                )
            ],
        ),
        "plan": groups,
        "learning": [
            {
                "candidate": "pruned-quantized",
                "epoch": e,
                "loss": 1.2 / (e + 1),
                "score": 0.915 - 0.2 / (e + 1) ** 1.5,
            }
            for e in range(12)
        ],
        "artifacts": [ArtifactRow(path="model.onnx", sha256="5e" * 32, bytes=251_000)],
        "environment": {"python": "3.12.3", "torch": "2.15.0", "onnxruntime": "1.31.0", "threads": 1},
        "notes": ["weights were fine-tuned on one process"],
    }
    return Report(**(fields | changes))

"""The three published systems on CIFAR-10's ResNet-20, each under the same ceiling, beside what their papers claim.

    EDGEPRUNE_DATA=data python examples/papers/study.py data/weights/cifar10_resnet20.safetensors

Every row is a build of its own, `edgeprune compile --preset NAME`, whose folder keeps the whole report. The table has
the plan's figures on images that chose nothing, what the agent added to its warm start, and how long it took to learn;
`curves.svg` has the learning curves. What is finished is kept in edgeprune's cache.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curves import plot

import edgeprune
from edgeprune import Report
from edgeprune.agents.presets import PRESETS
from edgeprune.compiler.progress import Bars

ARCH = str(Path(__file__).parents[1] / "cifar10" / "resnet.py") + ":resnet20"
CLAIMS: Mapping[str, str] = {
    "akperl": "3.00 → 1.90 mJ a run, 3 % less than magnitude pruning; converges after 200 000 steps (its own networks)",
    "driving": "mAP 42.5 → 41.7, 39.5, 34.8 and 45 → 28, 16, 11 ms with 50, 75, 90 % removed (YOLOv5, AGX Xavier)",
    "depgraphrl": "84.35 → 92.5 % top-1 after an epoch, 11 % less energy by its formula, 55.7 % by NVML, at a ratio of "
    "0.1; random groups: 92.33 % and 54.1 % (CIFAR-10)",
}


@dataclass(frozen=True)
class Row:
    """What one build found. ``energy`` is the result's share of the original's by the repaired formula, whatever the
    reward went by.
    """

    preset: str
    agent: str
    score: float
    drop: float
    drop_interval: tuple[float, float] | None
    macs: float
    parameters: float
    energy: float | None
    evaluations: int
    episodes: int
    agent_seconds: float
    best: float
    gain: float | None
    curve: list[dict[str, Any]]
    plan: dict[str, str]

    @staticmethod
    def of(report: Report) -> Row:
        """Read a row from a build's report."""
        result, baseline, search = report.result, report.baseline, report.search
        assert result is not None and baseline is not None and search is not None and search.best is not None
        assert result.score is not None and result.score.drop is not None
        assert result.macs and baseline.macs and result.parameters and baseline.parameters
        after, before = result.measurement.energy_mj, baseline.measurement.energy_mj
        return Row(
            search.preset or "", search.agent, result.score.value, result.score.drop, result.score.drop_interval,
            result.macs / baseline.macs, result.parameters / baseline.parameters,
            after / before if after and before else None, search.evaluations,
            sum(row.episodes for row in search.learning if row.imagined), search.agent_seconds or 0.0, search.best,
            search.gain_over_warm_start, [row.model_dump() for row in search.learning],
            {row.group: "dropped" if row.dropped_block else f"{row.kept} of {row.channels}" for row in report.plan},
        )  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    """Return the table: percent, shares of the original's, and the claims as printed."""
    lines = [
        "| preset | agent | top-1 | drop (95 %) | MACs | parameters | energy | true evaluations | imagined episodes | "
        "agent, s | gain over its warm start | the paper claims |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = " ({:+.2f} to {:+.2f})".format(*(100 * x for x in row.drop_interval)) if row.drop_interval else ""
        energy = "–" if row.energy is None else f"{row.energy:.2f}"
        gain = "no warm start" if row.gain is None else f"{100 * row.gain:+.2f}"
        lines.append(
            f"| {row.preset} | {row.agent} | {100 * row.score:.2f} | {100 * row.drop:+.2f}{spread} | {row.macs:.2f} | "
            f"{row.parameters:.2f} | {energy} | {row.evaluations} | {row.episodes} | {row.agent_seconds:.0f} | "
            f"{gain} | {CLAIMS[row.preset.removesuffix('-paper')]} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the builds and write ``rows.json``, ``table.md`` and ``curves.svg`` after every one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="weights of ResNet-20, such as cifar10_resnet20.safetensors")
    parser.add_argument("--arch", default=ARCH, help="default: examples/cifar10/resnet.py:resnet20")
    parser.add_argument("--data", type=Path, default=Path("cifar10"), help="default: cifar10, also in $EDGEPRUNE_DATA")
    parser.add_argument("--presets", nargs="+", default=["akperl", "driving", "depgraphrl"], choices=list(PRESETS))
    parser.add_argument("--max-macs", default="0.5x", help="the ceiling of every build (default %(default)s)")
    parser.add_argument("--evaluations", type=int, default=200, help="true ones a build (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning (default %(default)s)")
    parser.add_argument("--episodes", type=int, help="imagined ones a build (default: the paper's)")
    parser.add_argument("--images", type=int, default=2000, help="that score a plan (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/papers"), help="default %(default)s")
    asked = parser.parse_args(arguments)
    settings: dict[str, dict[str, str]] = {"sparsify": {"images": str(asked.images)}}
    if asked.episodes is not None:
        settings["agent"] = {"episodes": str(asked.episodes)}
    rows: list[Row] = []
    try:
        for preset in asked.presets:
            build = edgeprune.compile(
                asked.weights, arch=asked.arch, data=edgeprune_data(asked.data), preset=preset, max_macs=asked.max_macs,
                max_accuracy_drop=None, evaluations=asked.evaluations, epochs=asked.epochs, precision="fp32",
                cost="macs", energy="theoretical", settings=settings, seed=asked.seed, out=asked.out / preset,
                progress=Bars(),
            )  # fmt: skip
            rows.append(Row.of(build.report))
            (asked.out / "rows.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
            (asked.out / "table.md").write_text(markdown(rows), encoding="utf-8")
            plot([(row.preset, row.curve) for row in rows], asked.out / "curves.svg")
    except edgeprune.EdgepruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows))
    return 0


def edgeprune_data(path: Path) -> Path:
    """Return the data's path, looked up in $EDGEPRUNE_DATA too, as the command line does."""
    from edgeprune.compiler.request import data_path

    return data_path(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

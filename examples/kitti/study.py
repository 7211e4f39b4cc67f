"""The driving study, measured: a YOLOv5 on KITTI with 50, 75 and 90 % of its parameters removed.

    python examples/kitti/study.py yolov5n.pt kitti/data.yaml --out build/kitti-study

Every row is a finished ONNX file, trained on for the same number of epochs, scored on the images that chose nothing,
and timed in turns with all others, in one session at the end. The agent and uniform pruning start from the same dense
model and get the same fine-tuning, seed by seed. What is finished is kept in edgeprune's cache: a study that was
interrupted goes on where it was, and one that is started again only measures anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from results import Row, comparison, markdown, plot
from timing import together
from torch import zeros

import edgeprune
from edgeprune import OnnxModel, Pass, TorchModel
from edgeprune.agents.base import Agent
from edgeprune.agents.ppo import Ppo
from edgeprune.agents.uniform import Uniform
from edgeprune.compiler.progress import Bars
from edgeprune.compiler.request import parse_shape
from edgeprune.errors import Infeasible
from edgeprune.passes.export import Export
from edgeprune.passes.finetune import Finetune
from edgeprune.passes.quantize import Quantize
from edgeprune.passes.sparsify import Sparsify
from edgeprune.tasks.detection import Detection


@dataclass(frozen=True)
class Study:
    """The dense model and what is done to it."""

    dense: TorchModel
    task: Detection
    out: Path
    evaluations: int
    epochs: int

    def row(self, method: str, level: float, seed: int, cutting: Sequence[Pass], precision: str) -> Row:
        """Build one artifact and return what its report says."""
        training = [Finetune(epochs=self.epochs, **Detection.training)] if cutting else []
        lowering = [Quantize(precision="int8")] if precision == "int8" else []
        build = edgeprune.compile(
            self.dense, task=self.task, passes=[*cutting, *training, Export(), *lowering], seed=seed,
            max_accuracy_drop=None, out=self.folder(method, level, precision, seed), progress=Bars(),
        )  # fmt: skip
        found = build.report.result
        assert found is not None and found.score is not None and found.score.drop is not None
        assert found.measurement.latency_ms is not None and found.score.drop_interval is not None
        epochs = [e["score"] for e in build.report.learning if e["candidate"] == "result" and e["epoch"] == 0]
        return Row(
            method, level, seed, precision, found.score.value, found.score.drop, found.score.drop_interval,
            found.measurement.latency_ms.p50, found.measurement.ratio or 1.0, found.size_bytes or 0, found.macs or 0.0,
            found.nonzero_parameters or found.parameters or 0, epochs[0] if epochs else None,
        )  # fmt: skip

    def folder(self, method: str, level: float, precision: str, seed: int) -> Path:
        """Return where the artifact of a row lies."""
        return self.out / f"{method.replace(' ', '-')}-{100 * level:.0f}-{precision}-{seed}"

    def search(self, agent: Agent, level: float, evaluations: int, granularity: str = "channel") -> Sparsify:
        """Return the search for the best plan that keeps ``1 - level`` of the parameters."""
        limit = (1.0 - level) * self.dense.parameters()
        return Sparsify(  # the criterion is the same for all methods
            agent=agent, evaluations=evaluations, limits=(("parameters", limit),), criterion="taylor",
            granularity=granularity,  # type: ignore[arg-type]
        )  # fmt: skip

    def rows(self, levels: Sequence[float], seeds: int) -> Iterator[Row]:
        """Yield every row, the cheap ones first."""
        for precision in ("fp32", "int8"):
            yield self.row("dense", 0.0, 0, [], precision)
        methods: dict[str, Callable[[float], Sparsify]] = {
            "uniform": lambda level: self.search(Uniform(), level, 1),
            "agent": lambda level: self.search(Ppo(), level, self.evaluations),
        }
        for seed in range(seeds):
            for level in levels:
                for method, search in methods.items():
                    yield self.row(method, level, seed, [search(level)], "fp32")
                    if seed == 0:
                        yield self.row(method, level, seed, [search(level)], "int8")
        for level in levels:
            try:
                yield self.row("zero weights", level, 0, [self.search(Uniform(), level, 1, "element")], "fp32")
            except Infeasible as error:  # masks leave at least an eighth of a layer
                print(f"zero weights {level:.2f}: {error}", flush=True)


def dense_model(weights: Path, data: Path, shape: tuple[int, ...], out: Path) -> TorchModel:
    """Return the model trained for the data's classes, as the first step of a build leaves it."""
    build = edgeprune.compile(
        weights, data=data, input_shape=shape, passes=[Export()], max_accuracy_drop=None, out=out, progress=Bars()
    )
    spec = OnnxModel.read(build.directory / "model.onnx").spec
    return TorchModel(edgeprune.load(build.directory), spec, (zeros(shape),))


def write(rows: Sequence[Row], out: Path) -> None:
    """Write ``rows.json``, ``table.md`` and ``plot.svg``."""
    (out / "rows.json").write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    (out / "table.md").write_text(markdown(rows), encoding="utf-8")
    plot(rows, out / "plot.svg")


def main(arguments: Sequence[str]) -> int:
    """Run the study and write ``rows.json``, ``table.md`` and ``plot.svg`` after every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="a YOLOv5 checkpoint, such as yolov5n.pt")
    parser.add_argument("data", type=Path, help="a data.yaml, or a folder in KITTI's layout")
    parser.add_argument("--input", default="1x3x192x640", help="1x3xHxW; KITTI's images are wide (default %(default)s)")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.5, 0.75, 0.9], help="shares removed")
    parser.add_argument("--seeds", type=int, default=3, help="how often each cell is repeated (default %(default)s)")
    parser.add_argument("--evaluations", type=int, default=60, help="true evaluations a search (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning, the same for all (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/kitti-study"), help="default %(default)s")
    asked = parser.parse_args(arguments)
    try:
        dense = dense_model(asked.weights, asked.data, parse_shape(asked.input), asked.out / "dense")
        task = Detection.open(asked.data, dense.spec, transfer="done")
        study = Study(dense, task, asked.out, asked.evaluations, asked.epochs)
        rows: list[Row] = []
        for row in study.rows(asked.levels, asked.seeds):
            rows.append(row)
            write(rows, asked.out)
            print(f"{row.method} {row.level:.2f} {row.precision} seed {row.seed}: mAP {row.score:.4f}", flush=True)
        print("all artifacts once more, in one session", flush=True)
        rows = together(rows, {r: study.folder(r.method, r.level, r.precision, r.seed) / "model.onnx" for r in rows})
        write(rows, asked.out)
    except edgeprune.EdgepruneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(markdown(rows), *comparison(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

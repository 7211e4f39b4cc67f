"""What a user would pick instead of edgeprune, one function each: benchmarks/peers.py runs them, each in a process.

    python benchmarks/peer_methods.py METHOD NETWORK MODEL FOLDER --epochs E --macs SHARE

Every method starts from the same module, the same exporter and the same calibration images, 256 of them or as many as
the task has. What is pruned has its batch norms re-estimated and is fine-tuned by the same pass, with the original as
teacher (both edgeprune's own; only its plans tell which channels they kept, so only they follow the teacher's features
too; and where activations are replaced, it trains after each of those steps as well). Then ONNX Runtime quantizes it,
and NNCF for OpenVINO, unless pruning alone is compared. Each leaves its graphs in FOLDER and a line of JSON on standard
output: the graph of each runtime, MACs, seconds, peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from peer_networks import NETWORKS, in_torch_alone
from search import not_needed
from torch import nn

import edgeprune
from edgeprune.benches.choose import bench_for
from edgeprune.budget import Budget
from edgeprune.compiler.request import configure
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context, Silent
from edgeprune.passes.export import Export
from edgeprune.passes.finetune import Finetune
from edgeprune.profiles import board
from edgeprune.recalibration import first_images, recalibrate
from edgeprune.tracing import size_of

CALIBRATION = 256
Graphs = dict[str, Path]
"""The graph for each runtime."""


class Job:
    """One network, its data, how it is to be compressed, and a folder to leave a graph in."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.folder, self.network = asked, asked.folder, NETWORKS[asked.network]
        opened = self.network.open(asked.model, asked.seed)
        self.model, self.task = opened.original, opened.task
        self.reached = 1.0
        bench = bench_for(board.load("host-cpu"))

        @contextmanager
        def running(graph: OnnxModel) -> Iterator[Predict]:
            with bench.open(graph) as run:
                yield batched(run, graph.spec)

        self.context = Context(
            board=bench.board, task=self.task, budget=Budget(None), seed=asked.seed, original=self.model,
            baseline=None, open=running, measure=not_needed, workspace=self.folder, progress=Silent(), train_threads=2,
        )  # fmt: skip

    def images(self) -> NDArray[np.float32]:
        """Return the calibration images (n, C, H, W)."""
        images: NDArray[np.float32] = torch.cat(list(self.task.calibration_batches()))[:CALIBRATION].numpy()
        return images

    def exported(self, model: TorchModel | None = None) -> Path:
        """Return the float32 graph of a model, the original's unless told otherwise."""
        return Export().run(model or self.model, self.context).path

    def trained(self, module: nn.Module) -> TorchModel:
        """Return a pruned module, fine-tuned."""
        recalibrate(module, first_images(self.task.calibration_batches(), CALIBRATION))
        model = TorchModel(module.eval(), self.model.spec, self.model.inputs)
        self.reached = size_of(model)["macs"] / size_of(self.model)["macs"]
        usual: dict[str, Any] = {**self.task.training, "hints": 0.0}  # a peer does not tell which channels it kept
        finetune = Finetune(epochs=self.asked.epochs, **usual)
        return configure(finetune, self.network.settings.get("finetune", {})).run(model, self.context)

    def ended(self, module: nn.Module) -> Graphs:
        """Fine-tune a pruned module, and quantize it for each runtime unless pruning alone is compared."""
        graph = self.exported(self.trained(module))
        if self.asked.pruning_alone:
            return {"onnxruntime": graph}
        return ort_ptq(self, graph) | (nncf_openvino(self, graph) if installed("nncf", "openvino") else {})


def installed(*packages: str) -> bool:
    """Return whether all of these packages are there."""
    try:
        return bool([metadata.version(package) for package in packages])
    except metadata.PackageNotFoundError:
        return False


def fp32(job: Job) -> Graphs:
    """The original, not quantized."""
    graph = job.exported()
    return {"onnxruntime": graph} | ({"openvino": graph} if installed("openvino") else {})


def ort_ptq(job: Job, graph: Path | None = None) -> Graphs:
    """ONNX Runtime's static quantization: QDQ, scales by channel, ranges by extremes; weights of 7 bits where
    the processor's 8-bit products saturate, as its documentation advises.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.left: Iterator[Any] = iter([{name: image[None]} for image in job.images()])

        def get_next(self) -> Any:
            return next(self.left, None)

    ready, done = job.folder / "ready.onnx", job.folder / "ort.onnx"
    quant_pre_process(str(graph or job.exported()), str(ready))
    name = onnx.load(str(ready)).graph.input[0].name
    int8 = job.context.board.int8
    quantize_static(str(ready), str(done), Reader(name), QuantFormat.QDQ, per_channel=True,
                    reduce_range=int8 is not None and int8.reduce_range,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return {"onnxruntime": done}


def nncf_ort(job: Job) -> Graphs:
    """NNCF's post-training quantization of the ONNX graph, under ONNX Runtime."""
    import nncf

    graph = onnx.load(str(job.exported()))
    name, done = graph.graph.input[0].name, job.folder / "nncf.onnx"
    data = nncf.Dataset(list(job.images()), lambda image: {name: image[None]})
    onnx.save(nncf.quantize(graph, data, subset_size=CALIBRATION), str(done))
    return {"onnxruntime": done}


def nncf_openvino(job: Job, graph: Path | None = None) -> Graphs:
    """NNCF's post-training quantization of the OpenVINO model, under OpenVINO."""
    import nncf
    import openvino

    read = openvino.Core().read_model(str(graph or job.exported()))
    data = nncf.Dataset(list(job.images()), lambda image: image[None])
    done = job.folder / "nncf.xml"
    openvino.save_model(nncf.quantize(read, data, subset_size=CALIBRATION), str(done), compress_to_fp16=False)
    return {"openvino": done}


def modelopt_ptq(job: Job) -> Graphs:
    """ModelOpt's post-training quantization of the ONNX graph, its ranges by entropy as it has them by default; what is
    not lowered stays in float32, as processors compute it.
    """
    from modelopt.onnx.quantization import quantize

    done = job.folder / "modelopt.onnx"
    quantize(
        str(job.exported()), quantize_mode="int8", calibration_data=job.images(), calibration_eps=["cpu"],
        high_precision_dtype="fp32", output_path=str(done), log_level="ERROR",
    )  # fmt: skip
    return {"onnxruntime": done}


def torch_pruning(job: Job, norm: int, everywhere: bool) -> Graphs:
    """Torch-Pruning to the share of MACs by the L1 norm of filters or the L2 norm of whole groups (DepGraph's, without
    sparse training), the same ratio in every layer or one ranking of all channels. The ratio is found as a user would:
    by trying.
    """
    import torch_pruning as tp

    if norm == 1:
        importance: Any = tp.importance.MagnitudeImportance(p=1, group_reduction="first")
    else:
        importance = tp.importance.GroupMagnitudeImportance(p=2)

    def pruned(ratio: float) -> nn.Module:
        module = job.model.clone().module
        fixed = [part for name, part in module.named_modules()
                 if isinstance(part, nn.Linear | nn.Conv2d) and job.network.fixed(name, part)]  # fmt: skip
        tp.pruner.BasePruner(
            module, job.model.inputs[0], importance=importance, pruning_ratio=ratio, global_pruning=everywhere,
            max_pruning_ratio=0.95, ignored_layers=fixed,
            round_to=None if job.asked.pruning_alone else 4,  # kernels like fours; MACs do not mind
        ).step()  # fmt: skip
        return module

    def size(ratio: float) -> float:
        return size_of(TorchModel(pruned(ratio).eval(), job.model.spec, job.model.inputs))["macs"]

    # Sizes jump, and rounded ones not always down: of all ratios the one that keeps most under the ceiling.
    sizes = {ratio: size(ratio) for ratio in np.arange(0.02, 0.9, 0.02).round(2).tolist()}
    fitting = {ratio: macs for ratio, macs in sizes.items() if macs <= job.asked.macs * size_of(job.model)["macs"]}
    return job.ended(pruned(max(fitting, key=lambda ratio: fitting[ratio])))


def fastnas(job: Job) -> Graphs:
    """ModelOpt's FastNAS to the share of MACs, then as all. Wants torchprofile 0.0.4."""
    import modelopt.torch.prune as mtp

    few = range(min(1000, next(split.n for split in job.task.splits() if split.name == "search")))

    def score(module: nn.Module) -> float:
        predict = TorchModel(module.eval(), job.model.spec, job.model.inputs).predict
        return job.task.score(predict, "search", few).value

    space = mtp.fastnas.FastNASConfig()  # whose widths are multiples of 32, too coarse for layers of 16 to 64
    widest = max(part.out_channels for part in job.model.module.modules() if isinstance(part, nn.Conv2d))
    step = min(32, widest // 16)
    space["nn.Conv2d"]["*"]["channel_divisor"] = space["nn.BatchNorm2d"]["*"]["feature_divisor"] = step
    images = [(batch.inputs, batch.targets) for _, batch in zip(range(8), job.task.train_batches(0, 0), strict=False)]
    module, _ = mtp.prune(
        in_torch_alone(job.model.clone().module, job.model.inputs[0]), mode=[("fastnas", space)],
        constraints={"flops": f"{100 * job.asked.macs:g}%"},
        dummy_input=job.model.inputs[0],
        config={"data_loader": images, "score_func": score, "checkpoint": str(job.folder / "fastnas.pth"),
                "collect_func": lambda batch: batch[0]},
    )  # fmt: skip
    return job.ended(module)


def ours(job: Job, **options: Any) -> Graphs:
    """``edgeprune compile`` with the command's defaults, but for the epochs and what is named."""
    if job.asked.pruning_alone:
        options |= {"precision": "fp32", "cost": "macs"}
    build = edgeprune.compile(
        **job.network.asked(job.asked.model), epochs=job.asked.epochs, evaluations=job.asked.evaluations,
        seed=job.asked.seed, out=job.folder / "build", **options,
    )  # fmt: skip
    result = build.report.result
    assert result is not None and result.macs
    job.reached = result.macs / size_of(job.model)["macs"]
    return {result.runtime or "onnxruntime": build.directory / "model.onnx"}


METHODS: dict[str, Callable[[Job], Graphs]] = {
    "fp32": fp32,
    "ort-ptq": ort_ptq,
    "nncf-ort": nncf_ort,
    "nncf-openvino": nncf_openvino,
    "modelopt-ptq": modelopt_ptq,
    "torch-pruning-l1-uniform": lambda job: torch_pruning(job, 1, False),
    "torch-pruning-l1-global": lambda job: torch_pruning(job, 1, True),
    "torch-pruning-group-uniform": lambda job: torch_pruning(job, 2, False),
    "torch-pruning-group-global": lambda job: torch_pruning(job, 2, True),
    "modelopt-fastnas": fastnas,
    "edgeprune-floor": lambda job: ours(job, max_accuracy_drop=job.asked.floor),
    "edgeprune-macs": lambda job: ours(job, max_accuracy_drop=None, max_macs=f"{job.asked.macs:g}x"),
}
"""In the order of the table."""
QUANTIZE_ALONE = ("ort-ptq", "nncf-ort", "nncf-openvino", "modelopt-ptq")
TO_A_SHARE = tuple(name for name in METHODS if name not in ("fp32", *QUANTIZE_ALONE, "edgeprune-floor"))
"""What is told which share of the MACs to keep."""


def options(parser: argparse.ArgumentParser) -> None:
    """Add what peers.py passes on to each method."""
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning, for all that prune")
    parser.add_argument("--floor", type=float, default=0.003, help="largest drop of edgeprune-floor, as a fraction")
    parser.add_argument("--evaluations", type=int, help="of edgeprune's searches; by default as many as compile has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pruning-alone", action="store_true", help="leave everything in float32")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    options(parser)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs that a pruner may keep")
    asked = parser.parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    started = time.perf_counter()
    job = Job(asked)
    graphs = METHODS[asked.method](job)
    told = {
        "graphs": {runtime: str(graph) for runtime, graph in graphs.items()}, "macs": job.reached,
        "seconds": time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a user would pick instead of edgeprune, one function each: benchmarks/peers.py runs them, each in a process.

    python benchmarks/peer_methods.py METHOD NETWORK FOLDER --epochs E --macs SHARE

Every method starts from the same module, the same exporter and the same 256 calibration images; what is pruned is
fine-tuned by the same pass (edgeprune's own, with the original as teacher), and quantized by ONNX Runtime. Each leaves
its graph in FOLDER and a line of JSON on standard output: the graph's file, its runtime, MACs, seconds, peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from conditions import data_pack
from numpy.typing import NDArray
from search import not_needed, opened
from torch import nn

import edgeprune
from edgeprune.benches.choose import bench_for
from edgeprune.budget import Budget
from edgeprune.model import OnnxModel, Predict, TorchModel, batched
from edgeprune.passes.base import Context, Silent
from edgeprune.passes.export import Export
from edgeprune.passes.finetune import Finetune
from edgeprune.profiles import board
from edgeprune.tracing import size_of

CALIBRATION = 256
RESNETS = Path(__file__).parents[1] / "examples" / "cifar10" / "resnet.py"


class Job:
    """One network, its data and a folder to leave a graph in."""

    def __init__(self, network: str, folder: Path, epochs: int, macs: float) -> None:
        self.network, self.folder, self.epochs, self.macs = network, folder, epochs, macs
        self.model, self.task = opened(network, data_pack())
        self.reached = 1.0
        bench = bench_for(board.load("host-cpu"))

        @contextmanager
        def running(graph: OnnxModel) -> Iterator[Predict]:
            with bench.open(graph) as run:
                yield batched(run, graph.spec)

        self.context = Context(
            board=bench.board, task=self.task, budget=Budget(None), seed=0, original=self.model,
            baseline=None, open=running, measure=not_needed, workspace=folder, progress=Silent(), train_threads=2,
        )  # fmt: skip

    def images(self) -> NDArray[np.float32]:
        """Return the calibration images (n, 3, 32, 32)."""
        images: NDArray[np.float32] = torch.cat(list(self.task.calibration_batches()))[:CALIBRATION].numpy()
        return images

    def exported(self, model: TorchModel | None = None) -> Path:
        """Return the float32 graph of a model, the original's unless told otherwise."""
        return Export().run(model or self.model, self.context).path

    def trained(self, module: nn.Module) -> TorchModel:
        """Return a pruned module, fine-tuned."""
        model = TorchModel(module.eval(), self.model.spec, self.model.inputs)
        self.reached = size_of(model)["macs"] / size_of(self.model)["macs"]
        return Finetune(epochs=self.epochs).run(model, self.context)


def fp32(job: Job) -> tuple[Path, str]:
    """The original, not quantized."""
    return job.exported(), "onnxruntime"


def ort_ptq(job: Job, graph: Path | None = None) -> tuple[Path, str]:
    """ONNX Runtime's static quantization: QDQ, a scale a channel, ranges by minimum and maximum."""
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
    quantize_static(str(ready), str(done), Reader(name), QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return done, "onnxruntime"


def nncf_ort(job: Job) -> tuple[Path, str]:
    """NNCF's post-training quantization of the ONNX graph, under ONNX Runtime."""
    import nncf

    graph = onnx.load(str(job.exported()))
    name, done = graph.graph.input[0].name, job.folder / "nncf.onnx"
    data = nncf.Dataset(list(job.images()), lambda image: {name: image[None]})
    onnx.save(nncf.quantize(graph, data, subset_size=CALIBRATION), str(done))
    return done, "onnxruntime"


def nncf_openvino(job: Job) -> tuple[Path, str]:
    """NNCF's post-training quantization of the OpenVINO model, under OpenVINO."""
    import nncf
    import openvino

    read = openvino.Core().read_model(str(job.exported()))
    data = nncf.Dataset(list(job.images()), lambda image: image[None])
    done = job.folder / "nncf.xml"
    openvino.save_model(nncf.quantize(read, data, subset_size=CALIBRATION), str(done), compress_to_fp16=False)
    return done, "openvino"


def torch_pruning(job: Job, everywhere: bool) -> tuple[Path, str]:
    """Torch-Pruning by L1 to the share of MACs, the same ratio in every layer or one ranking of all channels, then
    ``ort_ptq``. The ratio is found as a user would: by trying.
    """
    import torch_pruning as tp

    def pruned(ratio: float) -> nn.Module:
        module = job.model.clone().module
        # What the shortcuts without parameters tie cannot go: their zero padding is a constant of the architecture.
        kept = [part for name, part in module.named_modules()
                if isinstance(part, nn.Linear | nn.Conv2d) and not name.endswith(".conv1")]  # fmt: skip
        tp.pruner.MagnitudePruner(
            module, job.model.inputs[0], importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=ratio,
            global_pruning=everywhere, max_pruning_ratio=0.95, ignored_layers=kept, round_to=4,
        ).step()  # fmt: skip
        return module

    def size(ratio: float) -> float:
        return size_of(TorchModel(pruned(ratio).eval(), job.model.spec, job.model.inputs))["macs"]

    # Rounding makes sizes jump, and not always down: of all ratios the one that keeps most under the ceiling.
    sizes = {ratio: size(ratio) for ratio in np.arange(0.2, 0.9, 0.02).round(2).tolist()}
    fitting = {ratio: macs for ratio, macs in sizes.items() if macs <= job.macs * size_of(job.model)["macs"]}
    return ort_ptq(job, job.exported(job.trained(pruned(max(fitting, key=lambda ratio: fitting[ratio])))))


def fastnas(job: Job) -> tuple[Path, str]:
    """ModelOpt's FastNAS to the share of MACs, then ``ort_ptq``. Wants torchprofile 0.0.4."""
    import modelopt.torch.prune as mtp

    def score(module: nn.Module) -> float:
        predict = TorchModel(module.eval(), job.model.spec, job.model.inputs).predict
        return job.task.score(predict, "search", range(1000)).value

    space = mtp.fastnas.FastNASConfig()  # whose widths are multiples of 32, too coarse for layers of 16 to 64
    space["nn.Conv2d"]["*"]["channel_divisor"] = space["nn.BatchNorm2d"]["*"]["feature_divisor"] = 4
    images = [(batch.inputs, batch.targets) for _, batch in zip(range(8), job.task.train_batches(0, 0), strict=False)]
    module, _ = mtp.prune(
        job.model.clone().module, mode=[("fastnas", space)], constraints={"flops": f"{100 * job.macs:g}%"},
        dummy_input=job.model.inputs[0],
        config={"data_loader": images, "score_func": score, "checkpoint": str(job.folder / "fastnas.pth"),
                "collect_func": lambda batch: batch[0]},
    )  # fmt: skip
    return ort_ptq(job, job.exported(job.trained(module)))


def ours(job: Job, **options: Any) -> tuple[Path, str]:
    """``edgeprune compile`` with the command's defaults, but for the epochs and what is named."""
    build = edgeprune.compile(
        data_pack() / "weights" / f"cifar10_{job.network}.safetensors", arch=f"{RESNETS}:{job.network}",
        data=data_pack() / "cifar10", epochs=job.epochs, out=job.folder / "build", **options,
    )  # fmt: skip
    result = build.report.result
    assert result is not None and result.macs
    job.reached = result.macs / size_of(job.model)["macs"]
    return build.directory / "model.onnx", result.runtime or "onnxruntime"


METHODS: dict[str, Callable[[Job], tuple[Path, str]]] = {
    "fp32": fp32,
    "ort-ptq": ort_ptq,
    "nncf-ort": nncf_ort,
    "nncf-openvino": nncf_openvino,
    "torch-pruning-uniform": lambda job: torch_pruning(job, False),
    "torch-pruning-global": lambda job: torch_pruning(job, True),
    "modelopt-fastnas": fastnas,
    "edgeprune-floor": lambda job: ours(job, max_accuracy_drop=0.01),
    "edgeprune-macs": lambda job: ours(job, max_accuracy_drop=0.05, max_macs=f"{job.macs:g}x"),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("method", choices=list(METHODS))
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--macs", type=float, required=True)
    asked = parser.parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    started = time.perf_counter()
    job = Job(asked.network, asked.folder, asked.epochs, asked.macs)
    graph, runtime = METHODS[asked.method](job)
    told = {
        "graph": str(graph), "runtime": runtime, "macs": job.reached, "seconds": time.perf_counter() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])

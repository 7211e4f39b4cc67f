"""The two levels of the intermediate representation: a torch module and an ONNX file, each with its spec.

TorchModel ── export ──> OnnxModel ── emit (backends) ──> Artifact
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeprune.errors import BadModel

Runner = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""One call of a runtime: input name -> array, output name -> array. The shapes are the artifact's own (static)."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Any number of images, float32 (n, C, H, W) -> outputs (n, ...). What tasks score, at every level."""

METADATA_KEY = "edgeprune.spec"
PIXELS = 1 << 21
"""Of the images of one forward pass, at most: with 250 of 224 px a single layer's output would take 1.2 GB."""


@dataclass(frozen=True)
class ModelSpec:
    """What a runtime must know to feed the model; travels in safetensors and ONNX metadata and the manifest.

    ``input_shape`` is (N, C, H, W). ``mean`` and ``std`` hold one number a channel, for pixels scaled to [0, 1].
    ``resize`` names the evaluation transform: ``none``, ``squash bilinear``, or ``crop 0.875 bicubic``.
    """

    input_shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = "none"
    colour: str = "RGB"
    classes: tuple[str, ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys, so that equal specs are equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what ``to_json`` wrote. Raises BadModel for anything else."""
        try:
            raw = json.loads(text)
            tuples = {k: tuple(v) for k, v in raw.items() if isinstance(v, list)}
            return cls(**{**raw, **tuples})
        except (ValueError, TypeError, AttributeError) as error:
            raise BadModel(f"the model's edgeprune metadata cannot be read: {error}") from error


@dataclass(frozen=True)
class Surgery:
    """How a module differs from its original: resolved indices, so that applying it is plain slicing.

    ``kept`` maps a module's qualified name to (output indices, input indices) to keep, None where the side is whole;
    ``dropped`` names the residual blocks replaced by an identity. Indices always refer to the original module.
    ``activations`` maps an activation's name to the kind that replaced it (``edgeprune.activations.CHEAPER``).
    ``masks`` maps a layer's name to how many of its weights are not zero, or to ``"2:4"``; the weights are those left
    by the cut (``edgeprune.masks``). ``floating`` are the layers that are not to be lowered to int8.
    """

    kept: Mapping[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    activations: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, int | str] = field(default_factory=dict)
    floating: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.kept or self.dropped or self.activations or self.masks or self.floating)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a recipe; what is not used is left out, so that plain cuts look as they always did."""
        plain: dict[str, Any] = {
            "kept": {k: [None if side is None else list(side) for side in v] for k, v in self.kept.items()},
            "dropped": list(self.dropped),
        }
        extra: dict[str, Any] = {
            "activations": dict(self.activations), "masks": dict(self.masks), "floating": list(self.floating),
        }  # fmt: skip
        return plain | {name: value for name, value in extra.items() if value}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Surgery:
        """Read what ``to_json`` gave, now or when there was less of it."""
        kept = {
            k: (None if o is None else tuple(o), None if i is None else tuple(i)) for k, (o, i) in raw["kept"].items()
        }
        extra = dict(raw.get("activations", {})), dict(raw.get("masks", {})), tuple(raw.get("floating", ()))
        return cls(kept, tuple(raw["dropped"]), *extra)


@dataclass(frozen=True)
class TorchModel:
    """An eager module with its spec: in eval mode and on the CPU between passes.

    ``inputs`` is one example batch (float32 NCHW, batch 1). ``surgery`` says how the module was cut from the original
    it descends from; it is empty for the original itself.
    """

    module: nn.Module
    spec: ModelSpec
    inputs: tuple[Tensor, ...]
    surgery: Surgery = Surgery()

    def clone(self) -> TorchModel:
        """Return a deep copy whose module shares nothing with this one."""
        return TorchModel(copy.deepcopy(self.module), self.spec, self.inputs, self.surgery)

    def parameters(self) -> int:
        """Return the number of parameters, shared ones counted once."""
        return sum(p.numel() for p in self.module.parameters())

    def verify(self) -> None:
        """Run one forward pass; raises BadModel unless it gives one finite tensor with the batch first."""
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise BadModel(
                    f"the weights hold NaN or infinity, first in {name!r}; the checkpoint is damaged or diverged"
                )
        self.module.eval()
        try:
            with torch.no_grad():
                output = self.module(*self.inputs)
        except Exception as error:
            shape = "x".join(map(str, self.inputs[0].shape))
            raise BadModel(
                f"the model does not run on a {shape} input ({type(error).__name__}: {first_line(error)}); "
                f"give its real input shape with --input"
            ) from error
        if not isinstance(output, Tensor) or output.ndim < 1 or output.shape[0] != self.inputs[0].shape[0]:
            raise BadModel(
                f"the model must return one tensor with the batch first, but it returned {_describe(output)}"
            )
        if not torch.isfinite(output).all():
            raise BadModel("the model's output is not finite on its example input")

    def digest(self) -> str:
        """Return the sha256 over the exported graph, the weights, the spec and which of the weights are masked.

        Raises BadModel when torch.export cannot capture the module.
        """
        try:
            program = torch.export.export(self.module, self.inputs)
        except Exception as error:
            raise BadModel(
                f"torch.export cannot capture this model ({type(error).__name__}: {first_line(error)}); models whose "
                f"forward depends on data cannot be compiled"
            ) from error
        digest = hashlib.sha256(program.graph_module.code.encode())
        digest.update(self.spec.to_json().encode())
        if self.surgery.masks:
            digest.update(json.dumps(dict(self.surgery.masks), sort_keys=True).encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def predict(self, images: NDArray[np.float32], batch: int = 250) -> NDArray[np.float32]:
        """Run the module, on whatever device it is, on images (n, C, H, W) without gradients, ``batch`` of them at most
        at a time; a ``Predict``.
        """
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        with torch.no_grad():
            parts = [self.module(torch.from_numpy(part).to(device)) for part in portions(images, batch)]
        result: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return result


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file of one piece; its precision is what its Cast and Q/DQ nodes say, never a flag passed sideways.

    ``runtime`` names the backend that is to run it where the target has several; empty for the target's first.
    """

    path: Path
    spec: ModelSpec
    runtime: str = ""

    @classmethod
    def read(cls, path: Path) -> OnnxModel:
        """Open a file edgeprune wrote and take the spec from its metadata. Raises BadModel for any other file."""
        import onnx

        try:
            proto = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise BadModel(
                f"{path} is not a readable ONNX file ({type(error).__name__}: {first_line(error)})"
            ) from error
        for entry in proto.metadata_props:
            if entry.key == METADATA_KEY:
                return cls(path, ModelSpec.from_json(entry.value))
        shape = tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim) if proto.graph.input else ()
        if not shape or 0 in shape:
            raise BadModel(f"{path} was not written by edgeprune and has no static input shape; export it with one")
        return cls(path, ModelSpec(shape))

    def reference(self) -> OnnxModel:
        """Return it as ONNX Runtime runs it, whatever the target's runtime is.

        That computes in exactly the types of the graph and loads at once, where another may round, and build for
        minutes: for comparing graphs, not for judging what is deployed.
        """
        return replace(self, runtime="onnxruntime")

    def clone(self) -> OnnxModel:
        """Return itself: passes write new files and never touch the one they were given."""
        return self

    def verify(self) -> None:
        """Check the graph and run it once in ONNX Runtime; raises BadModel unless it works and is finite."""
        import onnx
        import onnxruntime

        try:
            onnx.checker.check_model(str(self.path), full_check=True)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            outputs = session.run(None, {name: np.zeros(self.spec.input_shape, np.float32)})
        except Exception as error:
            raise BadModel(f"the emitted graph is not valid ({type(error).__name__}: {first_line(error)})") from error
        if not all(np.isfinite(o).all() for o in outputs):
            raise BadModel("the emitted graph's output is not finite on a zero input")

    def digest(self) -> str:
        """Return the sha256 of the file."""
        return file_digest(self.path)

    def size_bytes(self) -> int:
        """Return the size of the file."""
        return self.path.stat().st_size


def portions(images: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
    """Yield images (n, C, H, W) in order, up to ``most`` at a time: fewer where these have over PIXELS pixels."""
    count = max(1, min(most, PIXELS // max(math.prod(images.shape[2:]), 1)))
    for start in range(0, len(images), count):
        yield images[start : start + count]


def batched(runner: Runner, spec: ModelSpec) -> Predict:
    """Turn a runner of a static batch into a ``Predict`` over any number of images.

    The last batch is filled up with zeros and cut again. The runner's only input and first output are used.
    """
    size = spec.input_shape[0]

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            missing = size - len(batch)
            if missing:
                batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
            output = next(iter(runner({"input": np.ascontiguousarray(batch)}).values()))
            parts.append(output[: size - missing] if missing else output)
        return np.concatenate(parts)

    return predict


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's text, cut to 200 characters: for messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _describe(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a mapping with keys {list(output)[:5]}"
    return f"a {type(output).__name__}"

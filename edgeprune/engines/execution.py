"""Run an engine on the GPU of this machine: what goes in and comes out are NumPy arrays."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.engines import tensorrt_api
from edgeprune.engines.gpu import Gpu, open_gpu
from edgeprune.engines.tensorrt_api import Loaded, Refused, Tensor
from edgeprune.errors import BadModel


class Execution:
    """An engine with its tensors on the GPU, which go when that is closed.

    Raises BadModel for an engine with shapes that are left open, or types that NumPy has not, and Lacking where the
    GPU's memory is too small.
    """

    def __init__(self, loaded: Loaded, gpu: Gpu) -> None:
        self._loaded, self._gpu = loaded, gpu
        self.tensors = loaded.tensors()
        for tensor in self.tensors:
            if -1 in tensor.shape or not tensor.dtype:
                raise BadModel(f"{tensor.name} of the engine is no array of a fixed shape: {tensor.shape}")
        sizes = {x.name: math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in self.tensors}
        self._addresses = {name: gpu.allocate(max(size, 1)) for name, size in sizes.items()}
        with _explained("cannot be run"):
            loaded.bind(self._addresses)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once, copies to and from the GPU included; what is returned is the caller's own.

        Raises BadModel for a feed that is missing or does not suit, and where the engine fails.
        """
        sent = [self._upload(tensor, feeds) for tensor in self.tensors if tensor.is_input]
        with _explained("failed"):
            self._loaded.start(self._gpu.stream)
        outputs = {x.name: np.empty(x.shape, x.dtype) for x in self.tensors if not x.is_input}
        for name, array in outputs.items():
            self._gpu.download(array, self._addresses[name])
        self._gpu.wait()
        del sent  # the copies read it until here
        return outputs

    def layer_times(self, feeds: Mapping[str, NDArray[Any]], runs: int) -> dict[str, list[float]]:
        """Return the milliseconds that each layer took in each of ``runs`` runs, in order, after one more.

        TensorRT waits between layers from now on, so that this execution is of no further use for timing.
        """
        self.run(feeds)
        told = self._loaded.profile()
        for _ in range(runs):
            self.run(feeds)
        times: defaultdict[str, list[float]] = defaultdict(list)
        for name, ms in told:
            times[name].append(ms)
        return dict(times)

    def _upload(self, tensor: Tensor, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Copy one feed, and return what must stay until the run is over."""
        name, shape, dtype = tensor.name, tensor.shape, tensor.dtype
        if name not in feeds:
            raise BadModel(f"the engine's input {name!r} is not among what it is fed: {sorted(feeds)}")
        array = np.ascontiguousarray(feeds[name])
        if array.shape != shape or array.dtype != dtype:
            raise BadModel(f"the engine's input {name!r} is {dtype} {shape}, not {array.dtype} {array.shape}")
        self._gpu.upload(self._addresses[name], array)
        return array


@contextmanager
def executing(engine: Path) -> Iterator[Execution]:
    """Load an engine's file into this process and onto its GPU. Raises what Execution raises; Lacking without one."""
    trt, card = tensorrt_api.load(), open_gpu()
    with ExitStack() as stack:
        stack.callback(card.close)
        with _explained("cannot be loaded"):
            loaded = tensorrt_api.Loaded(trt, engine.read_bytes())
        stack.callback(loaded.close)
        yield Execution(loaded, card)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn TensorRT's own refusal into BadModel."""
    try:
        yield
    except Refused as error:
        raise BadModel(f"the engine {what}: {'; '.join(map(str, error.args[:3]))}") from error

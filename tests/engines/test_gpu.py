"""The GPU's memory by cuda-bindings and by pycuda; both are stand-ins (SYNTHETIC) but in the last test."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from cuda_stand_in import MEMORY, Cuda, Driver

from edgeprune.engines import gpu
from edgeprune.engines.gpu import CudaBindings, Device, PyCuda
from edgeprune.errors import BadModel, Lacking


@pytest.mark.parametrize(
    ("card", "device"),
    [
        (lambda: CudaBindings(Cuda()), Device("SYNTHETIC GPU", "8.9", 8 << 30, "12.4")),
        (lambda: PyCuda(Driver()), Device("SYNTHETIC GPU", "7.5", 4 << 30, "11.8")),
    ],
    ids=["cuda-bindings", "pycuda"],
)
def test_what_is_copied_there_comes_back(card: Any, device: Device) -> None:
    one = card()
    assert one.device() == device and one.stream == 77
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int64)
    addresses = [one.allocate(array.nbytes) for array in (first, second)]
    assert len({*addresses, *MEMORY}) == 2
    for array, address in zip((first, second), addresses, strict=True):
        one.upload(address, array)
        back = np.empty_like(array)
        one.download(back, address)
        one.wait()
        np.testing.assert_array_equal(back, array)
    one.close()
    one.close()
    assert not MEMORY


def test_pycuda_leaves_the_context_as_it_was() -> None:
    driver = Driver()
    card = PyCuda(driver)
    assert driver.depth == 1
    card.close()
    assert driver.depth == 0


@pytest.mark.parametrize(
    ("opened", "sentence"),
    [
        (lambda: CudaBindings(Cuda({"cudaGetDeviceCount": "cudaErrorInsufficientDriver"})),
         "no NVIDIA GPU answers here (cudaErrorInsufficientDriver: in words); install NVIDIA's driver: nvidia-smi must "
         "list a GPU"),
        (lambda: CudaBindings(Cuda(count=0)), "no NVIDIA GPU answers here (there is none); install"),
        (lambda: PyCuda(Driver("init")),
         "no NVIDIA GPU answers here (cuInit failed: no CUDA-capable device is detected); install NVIDIA's driver"),
        (lambda: PyCuda(Driver(count=0)), "no NVIDIA GPU answers here (there is none); install"),
        (lambda: CudaBindings(Cuda({"cudaMalloc": "cudaErrorMemoryAllocation"})).allocate(3 << 20),
         "the GPU has no memory for 3 MiB more; end what else runs on it (nvidia-smi lists that), or use a smaller"),
        (lambda: PyCuda(Driver("mem_alloc")).allocate(3 << 20), "the GPU has no memory for 3 MiB more; end what else"),
    ],
)  # fmt: skip
def test_what_is_lacking(opened: Any, sentence: str) -> None:
    with pytest.raises(Lacking) as caught:
        opened()
    assert str(caught.value).startswith(sentence)
    assert not MEMORY


@pytest.mark.parametrize(
    "card",
    [
        lambda: CudaBindings(Cuda({"cudaMemcpyAsync": "cudaErrorIllegalAddress"})),
        lambda: PyCuda(Driver("memcpy_htod_async")),
    ],
    ids=["cuda-bindings", "pycuda"],
)
def test_what_fails_on_the_gpu(card: Any) -> None:
    one, array = card(), np.zeros(4, np.float32)
    with pytest.raises(BadModel, match=r"^the GPU failed \(.*[Ii]llegal"):
        one.upload(one.allocate(array.nbytes), array)
    one.close()
    assert not MEMORY


def test_which_package_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()

    def spec(name: str) -> object:
        if name not in there and name != "pycuda.driver":
            raise ModuleNotFoundError(name)
        return name if name in there else None

    monkeypatch.setattr(gpu.importlib.util, "find_spec", spec)  # type: ignore[attr-defined]
    found = []
    for one in ("", "pycuda.driver", "cuda.cudart", "cuda.bindings.runtime"):
        there.add(one)
        found.append(gpu.installed())
    assert found == [None, "pycuda", "cuda-bindings", "cuda-bindings"]


def _cuda_without_gpu() -> bool:
    try:
        if find_spec("cuda.bindings.runtime") is None:
            return False
        from cuda.bindings import runtime
    except ImportError:
        return False
    return int(runtime.cudaGetDeviceCount()[0]) != 0


@pytest.mark.skipif(not _cuda_without_gpu(), reason="cuda-bindings is not installed, or there is a GPU")
def test_the_real_package_without_a_driver() -> None:
    with pytest.raises(Lacking, match=r"no NVIDIA GPU answers here \(cudaError\w+: .+\); install NVIDIA's driver"):
        gpu.open_gpu()

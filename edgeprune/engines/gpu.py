"""The GPU of this machine: its memory and a stream, by whichever package is there, cuda-bindings or pycuda."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgeprune.errors import BadModel, Lacking

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRIVER = "install NVIDIA's driver: nvidia-smi must list a GPU"


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability such as "8.9", bytes of memory, and the CUDA version of its driver."""

    name: str
    capability: str
    memory: int
    driver: str


class Gpu(ABC):
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses another), with one stream.

    Whatever lies on it goes with ``close``. Every method raises Lacking where memory runs out, and BadModel where
    something that ran before has failed: CUDA tells that late.
    """

    package: ClassVar[str]
    stream: int
    """The stream's handle."""

    @abstractmethod
    def device(self) -> Device:
        """Return what GPU it is."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes."""

    @abstractmethod
    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to an address. It must stay as it is until ``wait`` returns."""

    @abstractmethod
    def download(self, array: NDArray[Any], address: int) -> None:
        """Fill a contiguous array from an address. It is filled when ``wait`` returns."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until all that was asked of the stream is done."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; after a failure that may be refused, and the process's end does it."""


class CudaBindings(Gpu):
    """NVIDIA's own Python package: functions of the CUDA runtime that return (error, value)."""

    package: ClassVar[str] = "cuda-bindings"

    def __init__(self, runtime: Any) -> None:
        self._cuda = runtime
        self._addresses: list[int] = []
        error, count = runtime.cudaGetDeviceCount()
        if error != runtime.cudaError_t.cudaSuccess or not count:
            reason = self._text(error) if error != runtime.cudaError_t.cudaSuccess else "there is none"
            raise Lacking(f"no NVIDIA GPU answers here ({reason}); {_DRIVER}")
        self._stream = self._check(runtime.cudaStreamCreate())
        self.stream = int(self._stream)

    def device(self) -> Device:
        """Ask the runtime and the driver."""
        found = self._check(self._cuda.cudaGetDeviceProperties(0))
        version = self._check(self._cuda.cudaDriverGetVersion())
        name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
        return Device(name.rstrip("\0"), f"{found.major}.{found.minor}", int(found.totalGlobalMem), _version(version))

    def allocate(self, size: int) -> int:
        """Keep the address, to free it."""
        self._addresses.append(int(self._check(self._cuda.cudaMalloc(size), size)))
        return self._addresses[-1]

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check(self._cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self._stream))

    def download(self, array: NDArray[Any], address: int) -> None:
        """Copy in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._check(self._cuda.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self._stream))

    def wait(self) -> None:
        """Wait for the stream alone."""
        self._check(self._cuda.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Free all; what the runtime says of it is not asked."""
        while self._addresses:
            self._cuda.cudaFree(self._addresses.pop())
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = None

    def _check(self, answer: tuple[Any, ...], size: int = 0) -> Any:
        """Return the value of an answer, None where it has none."""
        error = answer[0]
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            raise Lacking(_full(size))
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise BadModel(f"the GPU failed ({self._text(error)})")
        return answer[1] if len(answer) > 1 else None

    def _text(self, error: Any) -> str:
        words = [self._cuda.cudaGetErrorName(error)[1], self._cuda.cudaGetErrorString(error)[1]]
        return ": ".join(one.decode() if isinstance(one, bytes) else str(one) for one in words)


class PyCuda(Gpu):
    """The package of many older installations, JetPack's among them: objects, and exceptions."""

    package: ClassVar[str] = "pycuda"

    def __init__(self, driver: Any) -> None:
        self._cuda = driver
        self._memory: dict[int, Any] = {}
        try:
            driver.init()
            if not driver.Device.count():
                raise Lacking(f"no NVIDIA GPU answers here (there is none); {_DRIVER}")
            self._device = driver.Device(0)
            self._context = self._device.retain_primary_context()  # the one that TensorRT uses
            self._context.push()
        except driver.Error as error:
            raise Lacking(f"no NVIDIA GPU answers here ({error}); {_DRIVER}") from error
        self._stream = self._try(driver.Stream)
        self.stream = int(self._stream.handle)

    def device(self) -> Device:
        """Ask the driver."""
        major, minor = self._device.compute_capability()
        version = _version(self._cuda.get_driver_version())
        return Device(str(self._device.name()), f"{major}.{minor}", int(self._device.total_memory()), version)

    def allocate(self, size: int) -> int:
        """Keep the object, which frees its bytes when it goes."""
        memory = self._try(self._cuda.mem_alloc, size)
        self._memory[int(memory)] = memory
        return int(memory)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy in the stream's order."""
        self._try(self._cuda.memcpy_htod_async, address, array, self._stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Copy in the stream's order."""
        self._try(self._cuda.memcpy_dtoh_async, array, address, self._stream)

    def wait(self) -> None:
        """Wait for the stream alone."""
        self._try(self._stream.synchronize)

    def close(self) -> None:
        """Free all, and leave the context to whoever had it before."""
        while self._memory:
            with suppress(self._cuda.Error):
                self._memory.popitem()[1].free()
        if self._stream is not None:
            self._stream = None
            with suppress(self._cuda.Error):
                self._cuda.Context.pop()

    def _try(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._cuda.MemoryError as error:
            raise Lacking(_full(arguments[0] if arguments else 0)) from error
        except self._cuda.Error as error:
            raise BadModel(f"the GPU failed ({error})") from error


def installed() -> str | None:
    """Return the name of the package that would be used; None if there is none."""
    for package, module in (("cuda-bindings", "cuda.bindings.runtime"), ("cuda-bindings", "cuda.cudart"),
                            ("pycuda", "pycuda.driver")):  # fmt: skip
        with suppress(ModuleNotFoundError):
            if importlib.util.find_spec(module) is not None:
                return package
    return None


def open_gpu() -> Gpu:
    """Open the GPU with the first package that is there. Raises Lacking where none is, or no GPU answers."""
    try:
        try:
            from cuda.bindings import runtime
        except ModuleNotFoundError:
            import cuda.cudart as runtime  # its name in older releases
        return CudaBindings(runtime)
    except ModuleNotFoundError:
        pass
    try:
        from pycuda import driver
    except ModuleNotFoundError:
        raise Lacking("engines need cuda-bindings to run; install it with: pip install 'edgeprune[tensorrt]'") from None
    except ImportError as error:  # it is linked with the driver's own library
        raise Lacking(f"pycuda cannot be imported ({error}); {_DRIVER}") from error
    return PyCuda(driver)


def _full(size: int) -> str:
    asked = f" for {size / 2**20:.0f} MiB more" if size else ""
    return f"the GPU has no memory{asked}; end what else runs on it (nvidia-smi lists that), or use a smaller batch"


def _version(packed: int) -> str:
    return f"{packed // 1000}.{packed % 1000 // 10}"

"""SYNTHETIC: stands in for the CUDA runtime of cuda-bindings, and for pycuda's driver, where there is no GPU.

The names of cuda-bindings are real, recorded in tests/engines/api; pycuda's are after its sources
(src/wrapper/wrap_cudadrv.cpp). The GPU's memory is a dictionary, and copies really copy.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

API = Path(__file__).parent / "engines" / "api"
MEMORY: dict[int, bytearray] = {}
"""What lies on the "GPU", by address."""


class Member(int):
    """A member of an enumeration, as pybind11 shows it."""

    text: str

    def __str__(self) -> str:
        return self.text


def members(name: str, names: list[str]) -> SimpleNamespace:
    found = {}
    for i, one in enumerate(names):
        found[one] = Member(i)
        found[one].text = f"{name}.{one}"
    return SimpleNamespace(**found)


class Cuda:
    """``cuda.bindings.runtime``: its functions return (error, value). ``fails`` maps a function's name to an error."""

    def __init__(self, fails: dict[str, str] | None = None, count: int = 1) -> None:
        told = json.loads((API / "cuda-bindings-13.4.json").read_text())
        self.names, self.fails, self.count = set(told["functions"]), fails or {}, count
        self.cudaError_t = members("cudaError_t", told["enums"]["cudaError_t"])
        self.cudaMemcpyKind = members("cudaMemcpyKind", told["enums"]["cudaMemcpyKind"])
        self.open: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self.names:
            raise AttributeError(f"module 'cuda.bindings.runtime' has no attribute {name!r}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            values = getattr(self, f"do_{name[4:]}")(*arguments)
            if name in self.fails:
                return (getattr(self.cudaError_t, self.fails[name]), *(None for _ in values))
            return (self.cudaError_t.cudaSuccess, *values)

        return call

    def do_GetDeviceCount(self) -> tuple[Any, ...]:  # noqa: N802
        return (self.count,)

    def do_GetDeviceProperties(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return (SimpleNamespace(name=b"SYNTHETIC GPU\0\0", major=8, minor=9, totalGlobalMem=8 << 30),)

    def do_DriverGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return (12040,)

    def do_GetErrorName(self, error: Member) -> tuple[Any, ...]:  # noqa: N802
        return (str(error).partition(".")[2].encode(),)

    def do_GetErrorString(self, error: Member) -> tuple[Any, ...]:  # noqa: N802
        return (b"in words",)

    def do_StreamCreate(self) -> tuple[Any, ...]:  # noqa: N802
        self.open.append("stream")
        return (77,)

    def do_StreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream == 77
        return ()

    def do_StreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.open.remove("stream")
        return ()

    def do_Malloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        address = (max(MEMORY, default=0) or 4096) + (1 << 20)
        if "cudaMalloc" not in self.fails:
            MEMORY[address] = bytearray(size)
        return (address,)

    def do_Free(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del MEMORY[address]
        return ()

    def do_MemcpyAsync(self, to: int, source: int, size: int, kind: Member, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert stream == 77
        if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice:
            assert len(MEMORY[to]) == size
            MEMORY[to][:] = ctypes.string_at(source, size)
        else:
            assert kind == self.cudaMemcpyKind.cudaMemcpyDeviceToHost and len(MEMORY[source]) == size
            ctypes.memmove(to, bytes(MEMORY[source]), size)
        return ()


class Allocation:
    """pycuda's DeviceAllocation."""

    def __init__(self, size: int) -> None:
        self.address = (max(MEMORY, default=0) or 4096) + (1 << 20)
        MEMORY[self.address] = bytearray(size)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        del MEMORY[self.address]


class Driver:
    """``pycuda.driver``. ``fails`` names a function that raises, ``full`` whether for want of memory."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    def __init__(self, fails: str = "", count: int = 1) -> None:
        self.fails, self.depth = fails, 0
        context = SimpleNamespace(push=lambda: self._deeper(1))
        device = SimpleNamespace(name=lambda: "SYNTHETIC GPU", compute_capability=lambda: (7, 5),
                                 total_memory=lambda: 4 << 30, retain_primary_context=lambda: context)  # fmt: skip
        self.Device: Any = lambda number: device
        self.Device.count = lambda: count
        self.Context = SimpleNamespace(pop=lambda: self._deeper(-1))
        self.Stream = lambda: SimpleNamespace(handle=77, synchronize=lambda: None)

    def _deeper(self, by: int) -> None:
        self.depth += by

    def init(self) -> None:
        if self.fails == "init":
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def get_driver_version(self) -> int:
        return 11080

    def mem_alloc(self, size: int) -> Allocation:
        if self.fails == "mem_alloc":
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        return Allocation(size)

    def memcpy_htod_async(self, to: int, source: Any, stream: Any) -> None:
        if self.fails == "memcpy_htod_async":
            raise self.Error("cuMemcpyHtoDAsync failed: an illegal memory access was encountered")
        MEMORY[to][:] = memoryview(source).cast("B")

    def memcpy_dtoh_async(self, to: Any, source: int, stream: Any) -> None:
        memoryview(to).cast("B")[:] = MEMORY[source]

"""Checkpoint files made by hand: what torch.save would never write."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

HUGE = 25 * 10**9  # float32 elements: 100 GB


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def storage(numel: int, kind: str = "FloatStorage", key: str = "0") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(stored: int, size: int, stride: int = 1, offset: int = 0) -> bytes:
    shape, strides = number(size) + b"\x85", number(stride) + b"\x85"
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = storage(stored) + number(offset) + shape + strides + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def pickled(body: bytes | Any) -> bytes:
    """Return a protocol 2 pickle of raw opcodes, or of an object."""
    return b"\x80\x02" + body + b"." if isinstance(body, bytes) else pickle.dumps(body, protocol=2)


def torch_zip(
    path: Path, data_pkl: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> Path:
    """Write an archive laid out as torch.save's, with a correct checksum for every member."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        archive.writestr("archive/byteorder", "little")
        for key, data in (storages or {"0": bytes(16)}).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def torch_legacy(path: Path, body: bytes | Any, keys: list[str], data: bytes) -> Path:
    """Write the format before torch 1.6."""
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        buffer.write(pickled(part) if isinstance(part, dict) else pickle.dumps(part, protocol=2))
    buffer.write(pickled(body))
    buffer.write(pickled(keys))
    buffer.write(data)
    path.write_bytes(buffer.getvalue())
    return path

"""Tell files apart by their content, and answer those that are not weights with what was found and what to do."""

from __future__ import annotations

import codecs
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Literal, NamedTuple

from edgeprune.errors import BadModel

Kind = Literal["torch-zip", "torch-legacy", "safetensors"]

_USE_STATE_DICT = "save its eager module's weights with torch.save(module.state_dict(), ...) and give --arch"
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, TensorFlow); edgeprune compiles PyTorch models only"),
    (4, b"TFL3", "is a TensorFlow Lite model; edgeprune compiles PyTorch models only"),
    (0, b"\x93NUMPY", "is a NumPy array, not a model; " + _USE_STATE_DICT),
    (0, b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (0, b"BZh", "is compressed with bzip2; unpack it first"),
    (0, b"\xfd7zXZ\x00", "is compressed with xz; unpack it first"),
    (257, b"ustar", "is a tar archive; unpack it first, or, if torch before 0.2 wrote it, save it with a newer one"),
)
_ONNX = "is an ONNX model; edgeprune starts from the PyTorch model it was exported from, give that instead"
_ONNX_HEAD = rb"\x08[\x01-\x1f][\x12\x1a\x3a\x42]"  # protobuf: ir_version, then producer, its version, graph or opset
_HEAD = 512


class Sniffed(NamedTuple):
    """What a file is, with the archive prefix of a torch zip (empty for the other kinds)."""

    kind: Kind
    prefix: str = ""


def sniff(file: IO[bytes], path: Path) -> Sniffed:
    """Return what an open file holds, by content; its suffix only helps where bytes alone do not tell.

    ``path`` is for messages. Raises BadModel, saying what was found and what to do, for everything but torch
    checkpoints and safetensors.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_HEAD)
    if not head:
        raise BadModel(f"{path} is empty; copy or download it again")
    if head.startswith(b"PK"):
        return Sniffed("torch-zip", _zip_prefix(file, path))
    if _is_safetensors(head, size):
        return Sniffed("safetensors")
    if head[:1] == b"\x80" and b"\x02" <= head[1:2] <= b"\x05":
        return Sniffed("torch-legacy")
    raise BadModel(f"{path} {_foreign(head, path.suffix.lower())}")


def _is_safetensors(head: bytes, size: int) -> bool:
    """A safetensors file begins with the length of its JSON header, 8 bytes little-endian, and the header's brace."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _zip_prefix(file: IO[bytes], path: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise BadModel(
            f"{path} is truncated or damaged (a zip archive without its end); copy or download it again"
        ) from error
    prefix, _, _ = names[0].partition("/") if names else ("", "", "")
    inside = {name.removeprefix(f"{prefix}/") for name in names}
    answer = _foreign_zip(names, inside)
    if answer:
        raise BadModel(f"{path} {answer}")
    return prefix


def _foreign_zip(names: list[str], inside: set[str]) -> str | None:
    """Return the answer to a zip archive that is not a checkpoint, None for one that is."""
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return "is a TorchScript archive, whose graph is frozen; " + _USE_STATE_DICT
    if "archive_format" in inside or "serialized_exported_program.json" in names:
        return "is an exported program (.pt2), whose graph is frozen; " + _USE_STATE_DICT
    if ".data/extern_modules" in inside:
        return "is a torch.package archive, which carries code; " + _USE_STATE_DICT
    if "data.pkl" in inside:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive (.npz), not a model; give data with --data"
    if "model.weights.h5" in names:
        return "is a Keras model; edgeprune compiles PyTorch models only"
    return "is a zip archive, but not one that torch.save wrote; if the checkpoint is inside, unpack it first"


def _foreign(head: bytes, suffix: str) -> str:
    """Return the answer to a file that is neither zip, pickle nor safetensors."""
    for offset, magic, answer in _MAGIC:
        if head[offset:].startswith(magic):
            return answer
    if head.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the file itself; run `git lfs pull` in its repository"
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE):
        return "is a web page or XML, not a model (a failed download?); download the file itself"
    if suffix == ".onnx" or re.match(_ONNX_HEAD, head):
        return _ONNX
    if suffix == ".pb":
        return "is a TensorFlow graph; edgeprune compiles PyTorch models only"
    if suffix == ".safetensors":
        return "is truncated or not a safetensors file; copy or download it again"
    if _is_text(head):
        return "is a text file, not a model; give a .safetensors or .pt file"
    start = head[:8].hex(" ")
    return f"is not a model file edgeprune knows (it begins with {start}); give .safetensors or what torch.save wrote"


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the head may end inside a character
    except UnicodeDecodeError:
        return False
    return all(c.isspace() or c.isprintable() for c in text)

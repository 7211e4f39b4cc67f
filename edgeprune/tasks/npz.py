"""Reading ``.npz`` files that nobody vouches for: no pickle, and no memory is asked for before the claim is checked."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from edgeprune.errors import BadData

_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, NotImplementedError,
           RuntimeError, SyntaxError, struct.error, tokenize.TokenError, UserWarning)
"""What zipfile, its decompressors and numpy's header parser raise over damaged bytes (found by fuzzing)."""
_MEMORY_SHARE = 0.5
"""The share of the free memory that a dataset's arrays may claim together."""


def keys(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an ``.npz``, from its index alone. Raises BadData unless it is one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))
    except _DAMAGE as error:
        raise BadData(f"{path} is not a readable .npz file ({_reason(error)}); write it with numpy.savez") from error


def load(path: Path, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Return the arrays called ``names``, after all their headers have been checked.

    Raises BadData for a missing array, an array of Python objects, a header that does not match the bytes behind it,
    more bytes than half of the free memory, and damage of any kind.
    """
    missing = sorted(set(names) - set(keys(path)))
    if missing:
        raise BadData(f"{path} lacks {', '.join(missing)}; it holds {', '.join(keys(path)) or 'nothing'}")
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(_claimed_bytes(path, archive, name) for name in names)
        free = psutil.virtual_memory().available
        if claimed > _MEMORY_SHARE * free:
            raise BadData(
                f"{path} claims {claimed / 1e6:.0f} MB of arrays but only {free / 1e6:.0f} MB of memory are free; "
                f"give an image folder (train/, val/), which is read image by image"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except _DAMAGE as error:
        raise BadData(f"{path} is damaged ({_reason(error)}); write it anew with numpy.savez") from error


def _claimed_bytes(path: Path, archive: zipfile.ZipFile, name: str) -> int:
    """Return the bytes an array's header claims; BadData if the archive does not hold as many."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        shape, dtype = _header(file)
        start = file.tell()
    if dtype.hasobject:
        raise BadData(f"{name} of {path} holds Python objects, which are never loaded; save it as an integer array")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + size != entry.file_size:
        raise BadData(
            f"{path} is damaged ({name} claims shape {'x'.join(map(str, shape))} of {dtype}, which is not what the "
            f"archive stores); write it anew with numpy.savez"
        )
    return size


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"array format version {version} is not one of images or labels")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of headers that only Python 2 or damage writes
        shape, _, dtype = read(file)
    return shape, dtype


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return text[0][:120] if text else type(error).__name__

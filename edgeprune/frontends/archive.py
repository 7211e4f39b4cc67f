"""Open what torch.save wrote without running or allocating what the file merely claims.

Before torch's weights-only loader sees the file, its pickle is walked (``pickle_walk``) and every claimed storage is
compared with the bytes that are there: a claim is not worth more than the file.
"""

from __future__ import annotations

import io
import mmap
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, cast

import torch

from edgeprune.errors import BadModel, MissingPackage, UnsafeModel
from edgeprune.frontends import families, safe_globals, ultralytics_package
from edgeprune.frontends.claims import MalformedError
from edgeprune.frontends.pickle_walk import Walk, walk
from edgeprune.frontends.sniff import Sniffed
from edgeprune.model import first_line

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before 1.6: this, 1001, system facts, the object, storage keys
_LEGACY_PROTOCOL = 1001
_NAMED = 5  # how many names a message lists


def read(file: IO[bytes], sniffed: Sniffed, path: Path, trust_pickle: bool) -> tuple[Any, bool]:
    """Return (object, trusted) of an open torch checkpoint; ``trusted`` tells that the file was free to run code.

    With ``trust_pickle`` a file the safe loader cannot read is unpickled as it is. Otherwise raises UnsafeModel when
    the file names anything outside the safe list and BadModel when it is damaged or claims more than it holds.
    """
    try:
        names = (_check_zip(file, sniffed.prefix) if sniffed.kind == "torch-zip" else _check_legacy(file)).names
    except UnsafeModel as error:
        if trust_pickle:
            return _load(file, path, None), True
        raise UnsafeModel(f"{path} {error}") from error.__cause__
    except MalformedError as error:
        if trust_pickle:
            return _load(file, path, None), True
        raise BadModel(
            f"{path} cannot be loaded: {error}; copy it again from a source you trust, or save it again with "
            f"torch.save(module.state_dict(), ...) and give --arch"
        ) from error
    return _load(file, path, names), False


def _load(file: IO[bytes], path: Path, names: set[str] | None) -> Any:
    """Load with torch: weights only and the checked names, or, where ``names`` is None, as a trusted pickle."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of renamed sources and old formats; verify() judges the result
            if names is None:
                # S301: only behind --trust-pickle
                return torch.load(file, map_location="cpu", weights_only=False)
            with torch.serialization.safe_globals(safe_globals.resolve(names)):
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or trusted pickle may raise anything
        raise BadModel(f"{path} cannot be loaded ({type(error).__name__}: {first_line(error)})") from error


def _check_zip(file: IO[bytes], prefix: str) -> Walk:
    file_size = file.seek(0, 2)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(archive, members, prefix, file_size)
            pickle = archive.open(f"{prefix}/data.pkl").read()
        file.seek(0)
        reader = torch._C.PyTorchFileReader(cast(Any, file))
        sizes = {name: reader.get_record_size(name) for name in reader.get_all_records()}
        same = reader.get_record("data.pkl") == pickle
    except MalformedError:
        raise
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise MalformedError("its zip archive is damaged") from error
    # What was checked must be what torch will read: a crafted archive can show two readers different directories.
    if not same or sizes != {m.filename.removeprefix(f"{prefix}/"): m.file_size for m in members}:
        raise MalformedError("its zip archive is ambiguous")
    found = _walk(io.BytesIO(pickle))
    for storage in found.storages.values():
        held = sizes.get(f"data/{storage.key}")
        if held is None or storage.nbytes > held:
            raise MalformedError(f"it claims {storage.nbytes} bytes for storage {storage.key!r} and holds {held or 0}")
    return found


def _check_members(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], prefix: str, file_size: int) -> None:
    """Check that the archive is laid out as torch.save does: stored, unencrypted, one folder, no name twice."""
    names = [m.filename.lower() for m in members]  # torch's reader does not tell upper from lower case
    if len(set(names)) != len(names) or any(not m.filename.startswith(f"{prefix}/") for m in members):
        raise MalformedError("its zip archive is ambiguous")
    if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size or m.flag_bits & 1 for m in members):
        raise MalformedError("its zip archive is compressed, which torch.save never does")
    claimed = sum(m.file_size for m in members)
    if claimed > file_size:
        raise MalformedError(f"its zip archive claims {claimed} bytes but the file has {file_size}")


def _walk(stream: IO[bytes]) -> Walk:
    """Walk one pickle. Raises UnsafeModel, naming what is not on the safe list, and MalformedError."""
    found = walk(stream)
    if not found.unsafe:
        return found
    other = found.unsafe - ultralytics_package.NAMES.keys()
    if not other:  # the rest is safe where the package is there to resolve it
        raise MissingPackage("ultralytics", "ultralytics", "a checkpoint of YOLOv8 or YOLO11")
    names = sorted(other)
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    family = families.of(other)
    if family:
        raise UnsafeModel(f"is {family}, which edgeprune cannot read (it names {listed}); {families.READABLE}")
    raise UnsafeModel(
        f"is a pickle that would run code of its own when loaded: it names {listed}; save its weights alone with "
        f"torch.save(module.state_dict(), ...) and give --arch, or, if you trust who made it, give --trust-pickle"
    )


def _check_legacy(file: IO[bytes]) -> Walk:
    """Check a file in the format before torch 1.6: five pickles, then each storage as its element count and its
    bytes."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        stream = cast(IO[bytes], view)
        first = _walk(stream)
        if first.value != _LEGACY_MAGIC:
            raise MalformedError("it is a Python pickle, but not one that torch.save wrote")
        if _walk(stream).value != _LEGACY_PROTOCOL:
            raise MalformedError("it was written by an unknown version of torch.save")
        _walk(stream)
        found = _walk(stream)
        keys = _walk(stream).value
        _check_storages(found, keys, view)
    return found


def _check_storages(found: Walk, keys: Any, view: mmap.mmap) -> None:
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(found.storages):
        raise MalformedError("its storages are not the ones its pickle names")
    position = view.tell()
    for key in keys:
        storage = found.storages[key]
        header = view[position : position + 8]
        held = struct.unpack("<q", header)[0] if len(header) == 8 else -1
        position += 8 + storage.nbytes
        if held != storage.numel or position > len(view):
            raise MalformedError(f"it claims {storage.nbytes} bytes for storage {key!r} and does not hold them")

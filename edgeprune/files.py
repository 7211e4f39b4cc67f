"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeprune.errors import NoSpace

_UNWRITABLE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.ENOENT: "nothing can be created there",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOTDIR: "a part of this path is a file",
    errno.EEXIST: "a part of this path is a file",
    errno.EISDIR: "there is a folder of this name",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk reports an error",
}


@contextmanager
def mending(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write below ``path`` into NoSpace, one sentence that says how to mend it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise NoSpace(
                f"cannot write {path}: {_UNWRITABLE[error.errno]}; free some space or choose another folder "
                f"(--out for the build, EDGEPRUNE_CACHE for the cache)"
            ) from error
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` through a temporary neighbour, fsync and rename: all of it or nothing.

    Creates the folder. Raises NoSpace when the disk refuses.
    """
    with mending(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise

"""What survives an interruption: folders named by the hash of everything their content depends on, and fsynced
journals.

A wrong hit is the worst bug a cache can have, so a key covers the whole package's source, the user's files, graph,
weights, data content, options, board, thread counts and library versions. Whatever is not in the key must not change
the content.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import json
import os
import platform
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs

from edgeprune.errors import BadOption
from edgeprune.files import mending, write_atomic

PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "onnxscript",
    "torch-pruning",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "scipy",
    "scikit-learn",
    "pillow",
    "torchvision",
    "timm",
    "torchmetrics",
    "faster-coco-eval",
    "ultralytics",
)
_KNOWN = {*sys.stdlib_module_names, "edgeprune", "numpy", "torch", "torchvision", "timm", "ultralytics"} - {"__main__"}
"""Where code comes from that ``source_digest`` and ``versions`` already speak for."""
_INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose files are a package's, and no user's own."""


def root() -> Path:
    """Return the cache folder: ``EDGEPRUNE_CACHE``, else the platform's user cache."""
    named = os.environ.get("EDGEPRUNE_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("edgeprune"))


@functools.cache
def source_digest() -> str:
    """Return the sha256 over every source file of the package, names included."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".toml", ".html")):
        digest.update(f"{path.relative_to(folder).as_posix()}|{path.stat().st_size}|".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of every library that decides what a build computes; absent ones are left
    out.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_digest(things: Iterable[object]) -> dict[str, str]:
    """Return the sha256 of the files that define the classes of ``things``, and of all that those import, by module,
    where they are the user's own.

    Code that cannot be read (typed into a console) gets a number used once: what it computes is never taken from the
    store. What a function imports while it runs is not seen before it did; of an installed package the file that was
    imported counts, and not all that it imports in turn.
    """
    left = [cls.__module__ for thing in things for cls in type(thing).__mro__]
    found: dict[str, str] = {}
    while left:
        name = left.pop()
        if name not in found and name.partition(".")[0] not in _KNOWN:
            module = sys.modules.get(name)
            found[name] = "" if _bare(module) else _file_of(name)
            left += _imported(module)
    return {name: digest for name, digest in sorted(found.items()) if digest}


def _bare(module: ModuleType | None) -> bool:
    """Whether it is a package without a file of its own."""
    return hasattr(module, "__path__") and getattr(module, "__file__", None) is None


def _imported(module: ModuleType | None) -> set[str]:
    """Return the modules that what is global in a user's module comes from; of an installed one none."""
    file = getattr(module, "__file__", None)
    if module is None or (file is not None and _INSTALLED.intersection(Path(file).parts)):
        return set()
    told = [value.__name__ if isinstance(value, ModuleType) else _maker(value) for value in vars(module).values()]
    there = {name: sys.modules.get(name) for name in told}
    return {name for name, one in there.items() if getattr(one, "__file__", None) is not None or _bare(one)}


def _maker(value: object) -> str:
    own = None
    with suppress(Exception):  # a proxy answers as it likes
        own = getattr(value, "__module__", None)
    return own if isinstance(own, str) else type(value).__module__


def _file_of(module: str) -> str:
    try:
        return hashlib.sha256(Path(inspect.getfile(sys.modules[module])).read_bytes()).hexdigest()
    except (KeyError, TypeError, OSError):
        return uuid.uuid4().hex


def key(*parts: Any) -> str:
    """Return the full sha256 over JSON-able parts, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


class Store:
    """Folders by key below the cache root."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or root()

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Hold the folder of a key for this process alone; waits while another build works in it.

        Raises NoSpace when it cannot be created.
        """
        path = self.folder / name[:2] / name[2:]
        with mending(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / ".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path


def finished(folder: Path) -> dict[str, Any] | None:
    """Return what ``finish`` recorded in this folder, or None if the work there was never completed."""
    try:
        record = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        files = record["files"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    intact = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files)
    return record if intact else None


def finish(folder: Path, files: list[str], record: Mapping[str, Any]) -> None:
    """Mark the folder's work as complete; the last thing written, so that a half-done folder never counts."""
    sizes = {name: (folder / name).stat().st_size for name in files}
    write_atomic(folder / "done.json", json.dumps({**record, "files": sizes}, sort_keys=True, indent=1))


class Journal(MutableMapping[str, float]):
    """A dictionary of scores that is on the disk before the next one is asked for.

    One JSON line an entry, fsynced; a line cut off by a kill is dropped on reading. Floats survive exactly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, float] = {}
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            self._values = dict(json.loads(line) for line in whole.splitlines())
            if whole != content:
                with mending(path):
                    os.truncate(path, len(whole))

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __setitem__(self, name: str, value: float) -> None:
        with mending(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, value]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError("a journal only grows")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def require_writable(folder: Path) -> None:
    """Raise BadOption, NoSpace or Lacking, before any work, unless files can be written below ``folder``.

    Leaves nothing behind: a folder that was not there is not there afterwards.
    """
    with mending(folder):
        if folder.exists() and not folder.is_dir():
            raise BadOption(f"{folder} is a file, not a folder; choose another --out")
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
    probe = folder / ".edgeprune-probe"
    try:
        write_atomic(probe, b"\0" * 4096)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
            for one in missing:
                one.rmdir()

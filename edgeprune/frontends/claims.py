"""What a pickle may claim about memory: storages, tensors as views of them, keys. Pure checks, nothing is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeprune.frontends.safe_globals import STORAGES


class MalformedError(Exception):
    """Raised when a pickle is damaged, or does what a checkpoint has no need to do."""


@dataclass(frozen=True)
class Name:
    """A global the pickle mentions."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A storage the pickle claims, or a view of one: its key in the archive, its type and number of elements."""

    key: str
    type: str
    numel: int

    @property
    def nbytes(self) -> int:
        """Return the size claimed, in bytes."""
        return self.numel * STORAGES[self.type]


def storage(claim: Any) -> tuple[Storage, Storage] | Name:
    """Return (root, view) of a persistent id of torch.save, or the name of a storage type that is not on the safe list.

    The id is ("storage", type, key, location, elements), before torch 1.6 with a view (key, offset, size), in elements,
    or None at its end. Raises MalformedError for anything else.
    """
    if type(claim) is not tuple or len(claim) not in (5, 6) or claim[0] != "storage":
        if type(claim) is tuple and claim[:1] == ("module",):
            raise MalformedError("it holds a whole module in the format before torch 1.6, which is not read safely")
        raise MalformedError("its pickle claims a storage in a form edgeprune does not know")
    _, kind, key, _, numel, *view = claim
    if not isinstance(kind, Name) or type(key) is not str or not _is_count(numel):
        raise MalformedError("its pickle claims a storage that cannot exist")
    if kind.text not in STORAGES:
        return kind
    root = Storage(key, kind.text, numel)
    return root, root if not view or view[0] is None else _view(root, view[0])


def _view(root: Storage, view: Any) -> Storage:
    _, offset, size = view
    if not (_is_count(offset) and _is_count(size) and offset + size <= root.numel):
        raise MalformedError("its pickle describes a view outside its storage")
    return Storage(root.key, root.type, size)


def tensor_elements(storage: Any, offset: Any, size: Any, stride: Any) -> int:
    """Return the number of elements of a strided view after checking that it lies inside its storage.

    The view ends at offset + sum((size - 1) * stride) + 1; torch would *grow* a storage that is too small. An
    expanded view, which has more elements than its storage, would cost memory in the first copy and is refused too.
    """
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Storage) or len(size) != len(stride) or not all(map(_is_count, numbers)):
        raise MalformedError("its pickle describes a tensor that cannot exist")
    count: int = math.prod(size)
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if count else 0
    if max(end, count) > storage.numel:
        shape = "x".join(map(str, size))
        raise MalformedError(f"it claims a {shape} tensor in a storage of {storage.numel} elements")
    return count


def check_keys(keys: list[Any]) -> None:
    """Refuse keys whose hash may take time exponential in their depth (nested tuples) or that are objects."""
    flat = (str, int, float, bool, bytes, type(None))
    for key in keys:
        if not (isinstance(key, flat) or (isinstance(key, tuple) and all(isinstance(k, flat) for k in key))):
            raise MalformedError("its pickle uses an object as a key")


def check_collection(arguments: tuple[Any, ...]) -> None:
    """Check the arguments of set, Counter or OrderedDict: nothing, a list or a dictionary, of plain keys."""
    if len(arguments) > 1 or any(type(a) not in (list, dict) for a in arguments):
        raise MalformedError("its pickle makes a collection from something that is neither a list nor a dictionary")
    entries = list(arguments[0]) if arguments else []
    check_keys([e[0] if isinstance(e, (list, tuple)) and len(e) == 2 else e for e in entries])


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0

"""From what a checkpoint holds to weights in a network: find the tensors, strip wrappers' prefixes, compare, load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import BadModel

_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net",
             "module", "weights")
"""Keys training scripts wrap weights in, averaged weights first: they are what those scripts evaluate."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_BOOKKEEPING = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")  # counters no output depends on
_LISTED = 4


def unwrap(found: Any, label: str) -> tuple[nn.Module | dict[str, Tensor], tuple[str, ...]]:
    """Return the module or the state dict inside what a checkpoint held, and the keys it was wrapped in, outermost
    first.

    Raises BadModel, beginning with ``label``, when there is neither.
    """
    path: list[str] = []
    while isinstance(found, Mapping) and len(path) < len(_WRAPPERS):
        if found and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
            return dict(found), tuple(path)
        key = next((k for k in _WRAPPERS if isinstance(found.get(k), (Mapping, nn.Module))), None)
        if key is None:
            break
        found = found[key]
        path.append(key)
    if isinstance(found, nn.Module):
        return found, tuple(path)
    if isinstance(found, Mapping):
        keys = ", ".join(repr(k)[:40] for k in list(found)[:_LISTED]) or "none"
        raise BadModel(f"{label} holds no weights that can be found (its keys: {keys}); save module.state_dict() alone")
    raise BadModel(f"{label} holds a {type(found).__name__}, not a network or its weights; save module.state_dict()")


def strip(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without prefixes that wrappers (DataParallel, compile, Lightning) put before every name."""
    own = list(module.state_dict())
    result = dict(state)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            named = [k for k in result if k not in _BOOKKEEPING]
            if named and all(k.startswith(prefix) for k in named) and not all(k.startswith(prefix) for k in own):
                result = {k.removeprefix(prefix): v for k, v in result.items()}
    return result


def head_size(state: Mapping[str, Tensor], module: nn.Module, head: str | None) -> int | None:
    """Return the number of classes the checkpoint's head has; None if it has none of that name."""
    weight = strip(state, module).get(f"{head}.weight")
    return int(weight.shape[0]) if weight is not None and weight.ndim >= 2 else None


def load(module: nn.Module, state: Mapping[str, Tensor], arch: str, label: str) -> tuple[str, ...]:
    """Put a state dict into the network, in place and as float32; return notes for the user.

    Raises BadModel, beginning with ``label``, unless names and shapes agree, but for counters that no output depends
    on.
    """
    state = strip(state, module)
    module.float()
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(_BOOKKEEPING)]
    unexpected = [k for k in state if k not in own and not k.endswith(_BOOKKEEPING)]
    differing = [k for k in state if k in own and state[k].shape != own[k].shape]
    if missing or unexpected or differing:
        raise BadModel(f"{label} does not fit --arch {arch}: {_difference(missing, unexpected, differing, state, own)}")
    module.load_state_dict(dict(state), strict=False)  # what may be missing was judged above
    return _precision_note(state.values())


def to_float32(module: nn.Module) -> tuple[str, ...]:
    """Convert a loaded module in place; return a note if its weights were stored otherwise."""
    note = _precision_note(module.state_dict().values())
    module.float()
    return note


def _precision_note(tensors: Any) -> tuple[str, ...]:
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} - {"float32"})
    return (f"the weights are stored as {', '.join(kinds)}; they were converted to float32",) if kinds else ()


def _difference(
    missing: list[str], unexpected: list[str], differing: list[str], state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> str:
    if differing and not missing and not unexpected and _only_classes(differing, state, own):
        stored, built = state[differing[0]].shape[0], own[differing[0]].shape[0]
        layer = differing[0].rpartition(".")[0]
        return (f"its head {layer!r} has {stored} classes and the network's has {built}; give a factory, "
                f"file.py:factory, that builds it with {stored}")
    parts = []
    if missing:
        parts.append(f"it lacks {_some(missing)}")
    if unexpected:
        parts.append(f"it also has {_some(unexpected)}")
    if differing:
        first = differing[0]
        parts.append(f"shapes differ in {_some(differing)} ({first} is {_shape(state[first])} in the file and "
                     f"{_shape(own[first])} in the network)")
    return f"{'; '.join(parts)}; name the architecture these weights were trained with"


def _only_classes(differing: list[str], state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Tell whether weight and bias of one layer differ, and only in the number of outputs."""
    layers = {k.rpartition(".")[0] for k in differing}
    return len(layers) == 1 and all(state[k].shape[1:] == own[k].shape[1:] and state[k].ndim for k in differing)


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"

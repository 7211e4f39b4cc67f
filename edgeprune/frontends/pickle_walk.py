"""Read a pickle without running it: which names it uses, how, and how much memory it claims.

A symbolic walk over the opcodes that torch.save writes. Nothing is imported, called or allocated beyond the pickle's
own size; what the walk accepts is then left to torch's weights-only loader.
"""

from __future__ import annotations

import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from pickletools import genops
from typing import IO, Any

from edgeprune.frontends import claims
from edgeprune.frontends.claims import MalformedError, Name, Storage
from edgeprune.frontends.safe_globals import CALLS, NAMESPACES, STORAGES, VALUES, classes

_SHARING = 4  # tensors may view stored elements more than once (tied weights), but not without end
_FILLED_BY_ITEMS = frozenset({"collections.OrderedDict", "collections.Counter"})


@dataclass(eq=False)
class Made:
    """What a call or a class would have made."""

    of: str


@dataclass
class Walk:
    """What a pickle holds. ``value`` is its result with every object replaced by a stand-in."""

    names: set[str] = field(default_factory=set)
    unsafe: set[str] = field(default_factory=set)
    storages: dict[str, Storage] = field(default_factory=dict)
    viewed: int = 0
    value: Any = None


def walk(stream: IO[bytes]) -> Walk:
    """Walk one pickle, leaving ``stream`` behind its end.

    The stream must be in memory or mapped: reading past its end has to cost nothing. Names outside the safe list end
    up in ``unsafe`` and the walk goes on, to name them all. Raises MalformedError for anything else a torch checkpoint
    does not hold; if unsafe names were found before that, they are returned instead, because they say more.
    """
    reader = _Reader()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the strings of protocol 0, which are refused below
            for opcode, argument, _ in genops(stream):
                reader.step(opcode.name, argument)
        reader.finish()
    except MalformedError:
        if not reader.found.unsafe:
            raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if not reader.found.unsafe:
            raise MalformedError(f"its pickle is damaged ({type(error).__name__})") from error
    return reader.found


class _Reader:
    """The stack machine. Literals are themselves, everything else is a stand-in."""

    def __init__(self) -> None:
        self.found = Walk()
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        self._classes = classes()
        self._stateful = (self._classes, self.found.unsafe, {"collections.OrderedDict"})

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode]())
        elif opcode in _HANDLERS:
            _HANDLERS[opcode](self, argument)
        elif opcode in ("INST", "STACK_GLOBAL"):
            self._unreadable_name(opcode, argument)
        else:
            raise MalformedError(f"its pickle uses the instruction {opcode}, which torch.save does not write")

    def finish(self) -> None:
        self.found.value = self._stack.pop()
        if self._protocol != 2:
            raise MalformedError(f"it was saved with pickle protocol {self._protocol}, and torch's safe loader reads 2")
        stored = sum(storage.numel for storage in self.found.storages.values())
        if self.found.viewed > _SHARING * stored:
            raise MalformedError(f"its tensors claim {self.found.viewed} elements but it stores {stored}")

    def _proto(self, version: int) -> None:
        self._protocol = version

    def _nothing(self, argument: Any) -> None:
        """Stop, frames: they change nothing."""

    def _name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._use(module, name))

    def _use(self, module: str, name: str) -> Name:
        if (module, name) in NAME_MAPPING:  # Python 2's names, as torch's loader maps them
            module, name = NAME_MAPPING[module, name]
        text = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        self.found.names.add(text)
        if not (text in CALLS or text in STORAGES or text in VALUES or text in self._classes):
            self.found.unsafe.add(text)
        return Name(text)

    def _unreadable_name(self, opcode: str, argument: Any) -> None:
        """Note the name that newer and older protocols give, which torch's weights-only loader does not read."""
        if opcode == "INST":
            self.found.unsafe.add(str(argument).replace(" ", "."))
            raise MalformedError("its pickle uses the instruction INST, which torch.save does not write")
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._use(str(module), str(name)))

    def _mark(self, argument: None) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _tuple(self, argument: None) -> None:
        items = self._to_mark()
        self._stack.append(tuple(items))

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, argument: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _append(self, argument: None) -> None:
        item = self._stack.pop()
        self._list().append(item)

    def _appends(self, argument: None) -> None:
        items = self._to_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        target = self._stack[-1]
        if type(target) is not list:
            raise MalformedError("its pickle appends to something that is not a list")
        return target

    def _set_item(self, argument: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_items(self, argument: None) -> None:
        items = self._to_mark()
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = list(zip(items[::2], items[1::2], strict=True))
        claims.check_keys([key for key, _ in pairs])
        if type(target) is dict:
            target.update(pairs)
        elif not (isinstance(target, Made) and target.of in _FILLED_BY_ITEMS):
            raise MalformedError("its pickle sets items of something that is not a dictionary")

    def _build(self, argument: None) -> None:
        self._stack.pop()
        target = self._stack[-1]
        # A tensor's own state would reach Tensor.set_, which grows storages: layers and OrderedDict alone have one here
        if not isinstance(target, Made) or not any(target.of in names for names in self._stateful):
            raise MalformedError("its pickle sets the state of something that has none")

    def _new(self, argument: None) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        if not isinstance(cls, Name) or (cls.text not in self.found.unsafe
                                         and (cls.text not in self._classes or arguments != ())):
            raise MalformedError("its pickle makes an object that is not an empty layer")
        self._stack.append(Made(cls.text))

    def _reduce(self, argument: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise MalformedError("its pickle calls something that is not a function")
        if function.text in self.found.unsafe:
            self._stack.append(Made(function.text))
        elif function.text in CALLS:
            self._stack.append(self._call(function.text, arguments))
        elif function.text in NAMESPACES and not arguments:
            self._stack.append(Made(function.text))
        else:
            raise MalformedError(f"its pickle calls {function.text}, which a checkpoint has no need to do")

    def _call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function == "torch.Size":
            return tuple(arguments[0])
        if function in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            self.found.viewed += claims.tensor_elements(*arguments[:4])
            if len(arguments) > 6:
                raise MalformedError("its pickle gives a tensor metadata that edgeprune does not know")
        if function in ("builtins.set", "collections.Counter", "collections.OrderedDict"):
            claims.check_collection(arguments)
        return Made(function)

    def _persistent(self, argument: None) -> None:
        claim = claims.storage(self._stack.pop())
        if isinstance(claim, Name):
            self.found.unsafe.add(claim.text)
            self._stack.append(Made(claim.text))
            return
        root, view = claim
        if self.found.storages.setdefault(root.key, root) != root and root.numel:  # empty ones may share a key
            raise MalformedError(f"it claims the storage {root.key!r} twice, with different sizes")
        self._stack.append(view)


_LITERALS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING",
                       "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "LONG4"})
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple, "EMPTY_LIST": list,
    "EMPTY_DICT": dict, "EMPTY_SET": lambda: Made("builtins.set"),
}
_HANDLERS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _Reader._proto, "STOP": _Reader._nothing, "FRAME": _Reader._nothing, "GLOBAL": _Reader._name,
    "MARK": _Reader._mark, "TUPLE": _Reader._tuple, "TUPLE1": lambda r, _: r._tuple_of(1),
    "TUPLE2": lambda r, _: r._tuple_of(2), "TUPLE3": lambda r, _: r._tuple_of(3), "BINPUT": _Reader._put,
    "LONG_BINPUT": _Reader._put, "MEMOIZE": _Reader._memoize, "BINGET": _Reader._get, "LONG_BINGET": _Reader._get,
    "APPEND": _Reader._append, "APPENDS": _Reader._appends, "SETITEM": _Reader._set_item,
    "SETITEMS": _Reader._set_items, "BUILD": _Reader._build, "NEWOBJ": _Reader._new, "REDUCE": _Reader._reduce,
    "BINPERSID": _Reader._persistent,
}

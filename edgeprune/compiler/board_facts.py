"""What is known of a target, in words: its runtime, its precisions and peaks, its power sensor, its dialect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune import find
from edgeprune.backends.base import Backend
from edgeprune.profiles import board as boards
from edgeprune.profiles.board import Board, Int8Layout, Power, Precision


@dataclass(frozen=True)
class BoardFacts:
    """A target and its runtimes, the first deciding, by the version that is installed where the target is this machine,
    else by that of its file; None where neither is known.
    """

    board: Board
    versions: Mapping[str, str | None]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {**self.board.model_dump(mode="json"), "versions": dict(self.versions)}

    @property
    def title(self) -> str:
        """The target in one line."""
        return f"{self.board.name}: {self.board.description}"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield (what, in words), leaving out what neither the board's file nor this machine tells."""
        board = self.board
        yield "target", self.title
        yield "processor", str(board.detected.get("cpu", "")) if board.local else ""
        yield "runtime", ", ".join(map(self._runtime, self.versions))
        yield "software", board.software
        yield "compute capability", ", ".join(board.compute_capabilities)
        yield "precisions", ", ".join(board.precisions)
        yield "channels", _each("multiples of {} for {}", board.channel_multiples)
        yield "peaks", _each("{:g} TOPS in {}", board.tera_ops)
        yield "memory", _memory(board)
        yield "kernel start", f"{board.launch_us:g} µs" if board.launch_us else ""
        yield "power", _power(board.power)
        yield "dialect", _dialect(board)

    def _runtime(self, name: str) -> str:
        version = self.versions[name]
        if version:
            return f"{name} {version}" if self.board.local else f"{name} {version} there"
        return f"{name} (not installed)" if self.board.local else name


def facts_of(target: str) -> BoardFacts:
    """Return what is known of a target, fitted to this machine where that is the target.

    Raises BadOption for an unknown one.
    """
    board = boards.load(target)
    first: Backend = find.find("backends", board.backend)()
    if not board.local:
        return BoardFacts(board, {board.backend: board.version or None, **dict.fromkeys(board.runtimes)})
    others: dict[str, Backend] = {name: find.find("backends", name)() for name in board.runtimes}
    versions = {name: one.version() for name, one in {board.backend: first, **others}.items()}
    return BoardFacts(first.fit(board), versions)


def _each(words: str, values: Mapping[Precision, float]) -> str:
    return ", ".join(words.format(value, precision) for precision, value in values.items())


def _memory(board: Board) -> str:
    told = []
    size = board.memory_gib or board.detected.get("memory_bytes", 0) / 2**30
    if size:
        told.append(f"{size:.3g} GiB")
    if board.bandwidth_gb_s:
        told.append(f"{board.bandwidth_gb_s:g} GB/s")
    return ", ".join(told)


def _power(power: Power) -> str:
    if power.sensor == "none":
        told = ["no sensor: an external meter is wanted"]
    else:
        rails = [f"rails {', '.join(power.rails)}"] if power.rails else []
        whole = [f"the whole is {' + '.join(power.total)}"] if power.total else []
        told = [", ".join([power.sensor, *rails]), *whole]
    return "; ".join([*told, *([f"modes {', '.join(power.modes)}"] if power.modes else [])])


def _dialect(board: Board) -> str:
    told = [f"opset up to {board.opset}", f"IR up to {board.ir_version}"]
    if board.typing:
        told.append(f"typing {' or '.join(board.typing)}")
    if board.int8 is not None:
        told.append(_int8(board.int8))
    return ", ".join(told)


def _int8(layout: Int8Layout) -> str:
    by = "by channel" if layout.per_channel else "by tensor"
    weight = f"7-bit {layout.weight}" if layout.reduce_range else layout.weight
    return f"{layout.activation} activations and {weight} weights {by}, {layout.bias} bias"

"""Targets as data: one TOML file a board, unknown keys refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from edgeprune.errors import BadOption, nearest

Precision = Literal["fp32", "fp16", "int8"]


class Int8Layout(BaseModel):
    """How the target's runtime wants int8 Q/DQ: it decides whether convolutions really run as int8."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    activation: Literal["uint8", "int8"]
    weight: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    reduce_range: bool = Field(False, description="7-bit weights, where 8-bit products saturate (x86 without VNNI)")


class Board(BaseModel):
    """A target: its runtime, the precisions that really exist on it and what channel counts it likes.

    ``channel_multiples`` maps a precision to the multiple below which fewer channels stop being faster.
    ``detected`` holds what was found on this machine, for the report; it is never read from the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str
    backend: str
    opset: int = Field(ge=13)
    ir_version: int = Field(ge=7)
    precisions: tuple[Precision, ...]
    channel_multiples: dict[Precision, PositiveInt]
    int8: Int8Layout | None = None
    detected: dict[str, Any] = Field(default_factory=dict)

    @property
    def widest_multiple(self) -> int:
        """The channel multiple that every precision of this board likes."""
        return max(self.channel_multiples.values(), default=1)


def names() -> list[str]:
    """Return the names of the boards that ship with edgeprune."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.toml"))


def load(name: str) -> Board:
    """Return a board by name, or by the path of a TOML file of the user's own.

    ``host-cpu`` is completed with what this machine's processor can do. Raises BadOption for an unknown name, an
    unreadable file, an unknown key or a value out of range.
    """
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / f"{name}.toml"
    if not path.is_file():
        hint = "; no such file" if name.endswith(".toml") else nearest(name, names())
        raise BadOption(f"unknown target {name!r}{hint}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        if "detected" in raw:
            raise BadOption(f"{path}: 'detected' is found out by edgeprune and cannot be set")
        board = Board.model_validate(raw)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadOption(f"{path}: {where}: {first['msg']}") from error
    if board.name == "host-cpu":
        from edgeprune.profiles.host import detect

        board = detect(board)
    return board

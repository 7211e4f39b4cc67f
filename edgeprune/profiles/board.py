"""Targets as data: one TOML file a board, unknown keys refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from edgeprune.errors import BadOption, nearest

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Typing = Literal["weak", "strong"]
Sensor = Literal["ina3221", "rapl", "nvml", "rpi-pmic", "none"]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Int8Layout(_Data):
    """How the target's runtime wants int8 Q/DQ: it decides whether convolutions really run as int8.

    ``bias`` stays float or becomes int32 behind a DequantizeLinear; ``weight_nodes`` says whether weights are stored as
    int8 behind a DequantizeLinear, or in float behind a QuantizeLinear and a DequantizeLinear.
    """

    activation: Literal["uint8", "int8"]
    weight: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    reduce_range: bool = Field(False, description="7-bit weights, where 8-bit products saturate (x86 without VNNI)")
    bias: Literal["int32", "float"] = "int32"
    weight_nodes: Literal["dequantize", "quantize-dequantize"] = "dequantize"


class Power(_Data):
    """Where the board's power can be read. ``total`` names the rails that add up to the whole: never more than that."""

    sensor: Sensor
    total: tuple[str, ...] = ()
    rails: tuple[str, ...] = ()
    modes: tuple[str, ...] = Field((), description="names of its power modes, or of its CPU frequency governors")

    @model_validator(mode="after")
    def _total_is_of_rails(self) -> Power:
        missing = [rail for rail in self.total if rail not in self.rails]
        if missing:
            raise ValueError(f"total names {missing[0]!r}, which is not among the rails")
        return self


class Board(_Data):
    """A target: its runtime, the precisions that really exist on it, what channel counts it likes, and its peaks.

    ``backend`` is the runtime that everything is decided by; ``runtimes`` are others that may run what comes out, if
    they are installed and faster. ``local`` says that it is this machine. ``opset`` and ``ir_version`` are the highest
    that its runtime reads, ``version`` is that of the runtime where the board dictates it. ``typing`` says whether
    TensorRT chooses the precision by flags (weak) or takes it from the graph (strong). ``channel_multiples`` maps a
    precision to the multiple below which fewer channels stop being faster. ``tera_ops`` are dense 10^12 operations a
    second, two a MAC; ``launch_us`` is what starting one kernel costs. ``python`` is the interpreter there that has the
    runtime, where the runtime is ONNX Runtime on another machine. ``detected`` holds what was found on this machine,
    for the report; it is never read from the file.
    """

    name: str
    description: str
    backend: str
    runtimes: tuple[str, ...] = ()
    local: bool = False
    version: str = ""
    python: str = "python3"
    software: str = ""
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^\d+\.\d$")], ...] = ()
    opset: int = Field(ge=13)
    ir_version: int = Field(ge=7)
    typing: tuple[Typing, ...] = ()
    precisions: tuple[Precision, ...] = Field(min_length=1)
    channel_multiples: dict[Precision, PositiveInt]
    memory_gib: PositiveFloat | None = None
    bandwidth_gb_s: PositiveFloat | None = None
    launch_us: NonNegativeFloat = 0.0
    tera_ops: dict[Precision, PositiveFloat] = Field(default_factory=dict)
    int8: Int8Layout | None = None
    power: Power = Power(sensor="none")
    detected: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Board:
        if ("int8" in self.precisions) != (self.int8 is not None):
            raise ValueError("int8 among the precisions and a table [int8] go together")
        for table in ("channel_multiples", "tera_ops"):
            for precision in getattr(self, table):
                if precision not in self.precisions:
                    raise ValueError(f"{table} names {precision}, which is not among the precisions")
        if self.backend == "tensorrt" and not self.typing:
            raise ValueError("a TensorRT board says in typing whether its graphs are weakly or strongly typed")
        return self

    def run_by(self, runtime: str) -> Board:
        """Return this board with another of its runtimes as the one that everything is decided by.

        Raises BadOption for one that it does not have.
        """
        known = (self.backend, *self.runtimes)
        if runtime not in known:
            raise BadOption(f"{self.name} has no runtime {runtime!r}{nearest(runtime, known)}")
        return self.model_copy(update={"backend": runtime})

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
        message = first["msg"].removeprefix("Value error, ")
        raise BadOption(f"{path}: {where}: {message}" if where else f"{path}: {message}") from error
    if board.name == "host-cpu":
        from edgeprune.profiles.host import detect

        board = detect(board)
    return board

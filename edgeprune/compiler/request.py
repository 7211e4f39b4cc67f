"""Everything a build depends on, as one value, and how text becomes options.

The command line and ``edgeprune.toml`` both end here; the driver reads nothing else.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from edgeprune import find
from edgeprune.agents.presets import preset
from edgeprune.budget import Budget, Cost, EnergyMethod
from edgeprune.errors import BadOption, nearest
from edgeprune.profiles.ssh import Ssh

T = TypeVar("T")
Settings = Mapping[str, Mapping[str, str]]
MOST_THREADS = 1024
MOST_WORKERS = 4096


@dataclass(frozen=True)
class Request:
    """What to build. Two equal requests on the same machine and files are the same build.

    ``board`` is where the target is, ``ssh://user@host:port``; None for this machine, or for nowhere. ``table`` is the
    file of a latency table that the search is to aim by; what it lacks is measured into it. ``energy`` says how energy
    is told, and ``power_log`` is the CSV file of an external meter that tells it.
    ``preset`` names a published system, whose options give way to ``agent`` and ``settings``.
    ``settings`` holds text by pass (or ``task``, ``agent``) and field, as given by ``--set finetune.lr=0.01``;
    ``configure`` turns it into values. ``input_shape`` is (1, C, H, W). ``evaluations`` and ``epochs`` None take what
    ``effort`` says. ``workers`` score plans in parallel, None being one a core: threads, or Ray's with ``ray``, on a
    cluster of this machine's own or on the one at ``ray_address``.
    """

    model: Path | None = None
    arch: str | None = None
    trust_pickle: bool = False
    data: Path | None = None
    task: str = "auto"
    input_shape: tuple[int, ...] | None = None
    target: str = "host-cpu"
    board: str | None = None
    table: Path | None = None
    energy: EnergyMethod = "sensor"
    power_log: Path | None = None
    budget: Budget = field(default_factory=Budget)
    agent: str | None = None
    preset: str | None = None
    evaluations: int | None = None
    epochs: int | None = None
    effort: Literal["quick", "normal", "long"] = "normal"
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    settings: Settings = field(default_factory=dict)
    recipe: Path | None = None
    cost: Cost = "measured"
    require_measured: bool = False
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None
    ray: bool = False
    ray_address: str | None = None
    seed: int = 0
    out: Path = Path("build/model")

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in ("effort", "precision", "cost", "device", "energy"):
            value, known = getattr(self, name), get_args(hints[name])
            if value not in known:
                raise BadOption(f"{name} {value!r} is not known{nearest(str(value), known)}")
        if self.preset is not None:
            preset(self.preset)
        if not 1 <= self.threads <= MOST_THREADS:
            raise BadOption(f"threads must be in [1, {MOST_THREADS}], not {self.threads}")
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise BadOption(f"workers must be in [1, {MOST_WORKERS}], not {self.workers}")
        if self.table is not None and self.cost != "measured":
            raise BadOption(f"--table is for a search by the clock; it has no say with --cost {self.cost}")
        check_power_log(self.energy, self.power_log)
        if self.board is not None:
            Ssh.parse(self.board)
        if not 0 <= self.seed < 2**32:
            raise BadOption(f"the seed must be in [0, 2**32), not {self.seed}")


def check_power_log(energy: EnergyMethod, power_log: Path | None) -> None:
    """Raise BadOption where an external meter is given, and energy is to be told in another way."""
    if power_log is not None and energy != "sensor":
        raise BadOption(f"--power-log is an external meter's; it has no say with --energy {energy}, so leave one out")


@overload
def configure(target: type[T], settings: Mapping[str, str], title: str = "") -> T: ...
@overload
def configure(target: T, settings: Mapping[str, str], title: str = "") -> T: ...
def configure(target: Any, settings: Mapping[str, str], title: str = "") -> Any:
    """Return an instance of a dataclass (or a changed copy of one) with fields set from text by their annotated types.

    ``title`` is what messages call it, where the user knows it by another name than its own. Understood are int, float
    (finite), bool, str, Path, Literal, Optional (``none``) and tuples (commas between).

    Raises BadOption for an unknown field, naming the nearest, and for text the field's type does not allow.
    """
    cls = target if isinstance(target, type) else type(target)
    title = title or getattr(cls, "name", cls.__name__)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    hints = get_type_hints(cls) if settings else {}
    values = {}
    for name, text in settings.items():
        if name not in known:
            raise BadOption(f"{title} has no option {name!r}" + (nearest(name, known) if known else "; it has none"))
        try:
            values[name] = _convert(text, hints[name])
        except ValueError:
            raise BadOption(f"{title}.{name} takes {_describe(hints[name])}, not {text!r}") from None
    try:
        return cls(**values) if isinstance(target, type) else dataclasses.replace(target, **values)
    except ValueError as error:
        raise BadOption(f"{title}: {error}") from error


def parse_shape(text: str) -> tuple[int, ...]:
    """Read ``1x3x224x224`` as (1, 3, 224, 224). Raises BadOption for anything but 1xCxHxW."""
    match = re.fullmatch(r"1x([1-9]\d{0,5})x([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
    if match is None:
        raise BadOption(
            f"--input {text!r} is not understood; give 1xCxHxW (batch 1, channels, height, width), such as 1x3x224x224"
        )
    return (1, *map(int, match.groups()))


def parse_settings(items: Sequence[str], base: Settings) -> dict[str, dict[str, str]]:
    """Merge ``PASS.FIELD=VALUE`` items, the later winning, over ``base``.

    Raises BadOption for another form or an unknown pass.
    """
    merged = {table: dict(fields) for table, fields in base.items()}
    for item in items:
        match = re.fullmatch(r"([\w-]+)\.(\w+)=(.*)", item, re.DOTALL)
        if match is None:
            raise BadOption(f"--set {item!r} is not understood; give PASS.FIELD=VALUE, such as finetune.lr=0.01")
        table, name, value = match.groups()
        if table not in tables():
            raise BadOption(f"--set {item!r}: unknown pass {table!r}{nearest(table, tables())}")
        merged.setdefault(table, {})[name] = value
    return merged


def tables() -> list[str]:
    """Return what ``--set`` and the tables of a config file may be about: the passes, the training of a new head, the
    task and the agent.
    """
    return [*find.names("passes"), "transfer", "task", "agent"]


def read_config(path: Path, options: Collection[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Read an ``edgeprune.toml``: ([compile] as option name -> text, the other tables as settings).

    ``options`` are the names allowed in [compile], with dashes, as on the command line. Raises BadOption for a file
    that cannot be read, and for unknown tables and keys, naming the nearest.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadOption(f"--config {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"--config {path} is not valid TOML: {error}") from error
    known = ["compile", *tables()]
    for name, table in raw.items():
        if not isinstance(table, dict):
            raise BadOption(f"{path}: {name!r} stands outside a table; put it under [compile]")
        if name not in known:
            raise BadOption(f"{path}: unknown table [{name}]{nearest(name, known)}")
    chosen = raw.pop("compile", {})
    for name in chosen:
        if name not in options:
            raise BadOption(f"{path}: [compile] has no option {name!r}{nearest(name, options)}")
    as_text = {t: {k: _to_text(v, f"{path}: {t}.{k}") for k, v in fields.items()} for t, fields in raw.items()}
    return {k: _to_text(v, f"{path}: compile.{k}") for k, v in chosen.items()}, as_text


def data_path(path: Path) -> Path:
    """Return ``path``, or the one below the folder ``EDGEPRUNE_DATA`` names when only that exists."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if folder and not path.is_absolute() and not path.exists() and (Path(folder) / path).exists():
        return Path(folder) / path
    return path


def default_out(source: Path | None, arch: str | None, suffix: str = "") -> Path:
    """Return the folder of what was not given one: build/, the name of the model, of a build or of an architecture, and
    the suffix.
    """
    if source is None:
        name = (arch or "model").rpartition(":")[2]
    else:
        name = source.resolve().name if source.is_dir() else source.resolve().stem
    return Path("build") / re.sub(r"[^\w.-]+", "-", f"{name}-{suffix}" if suffix else name)


def _to_text(value: object, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, str)):
        return str(value)
    if isinstance(value, list) and all(isinstance(v, (int, float, str)) for v in value):
        return ",".join(_to_text(v, where) for v in value)
    raise BadOption(f"{where} must be text, a number, true, false or a list of those")


def _convert(text: str, kind: Any) -> Any:
    """Return ``text`` as a value of the annotation ``kind``; ValueError if it is none."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _first(text, [NoneType] * (NoneType in args) + [a for a in args if a is not NoneType])
    if origin is Literal:
        return {str(a): a for a in args}[_member(text, [str(a) for a in args])]
    if origin is tuple:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        kinds = [args[0]] * len(parts) if args[1:] == (Ellipsis,) else list(args)
        return tuple(_convert(part, each) for part, each in zip(parts, kinds, strict=True))
    if kind not in _SCALARS:
        raise ValueError(kind)
    return _SCALARS[kind][1](text)


def _first(text: str, kinds: Sequence[Any]) -> Any:
    for kind in kinds[:-1]:
        try:
            return _convert(text, kind)
        except ValueError:
            continue
    return _convert(text, kinds[-1])


def _member(text: str, known: Collection[str]) -> str:
    if text not in known:
        raise ValueError(text)
    return text


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[_member(text.lower(), ("true", "false"))]


def _nothing(text: str) -> None:
    _member(text.lower(), ("none",))


_SCALARS: Mapping[Any, tuple[str, Any]] = {
    int: ("a whole number", int),
    float: ("a number", _finite),
    bool: ("true or false", _boolean),
    str: ("text", str),
    Path: ("a path", Path),
    NoneType: ("none", _nothing),
}


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple and args[1:] == (Ellipsis,):
        return f"a list with commas between, each {_describe(args[0])}"
    if origin is tuple:
        return f"{len(args)} values with commas between"
    return _SCALARS[kind][0] if kind in _SCALARS else "a value that can only be given from Python"

"""Hostile checkpoints: refused with exit code 2, nothing executed, nothing allocated, torch's loader not even asked."""

from __future__ import annotations

import builtins
import os
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import HUGE, Call, name, number, pickled, storage, tensor, text, torch_legacy, torch_zip
from torch import nn

from edgeprune.errors import BadModel, UnsafeModel
from edgeprune.frontends import archive
from edgeprune.frontends.checkpoint import Source, load

MEND = "; copy it again from a source you trust, or save it again with torch.save(module.state_dict(), ...) and give " \
       "--arch"


@pytest.fixture
def no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("torch.load was asked to read a hostile file")

    monkeypatch.setattr(torch, "load", refuse)


def refused(path: Path, error: type[BadModel] = BadModel) -> str:
    """Load, expect exactly this refusal, and return its text without the path."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error) as caught:
        load(Source(path, None), (1, 3, 8, 8))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert type(caught.value) is error and caught.value.exit_code == 2
    assert grown < 200_000, f"refusing it cost {grown} kB"
    return str(caught.value).removeprefix(str(path)).strip()


EXECUTING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "os.system": (lambda s: Call(os.system, f"touch {s}"), "posix.system"),
    "exec": (lambda s: Call(builtins.exec, f"open({str(s)!r}, 'w').close()"), "builtins.exec"),
    "open": (lambda s: Call(builtins.open, str(s), "w"), "io.open"),
    "nested getattr": (
        lambda s: Call(getattr, Call(getattr, Call(builtins.__import__, "os"), "path"), "join"),
        "builtins.__import__, builtins.getattr",
    ),
    "torch.hub.load": (lambda s: Call(torch.hub.load, str(s.parent), "entry"), "torch.hub.load"),
    "hidden in a state dict": (lambda s: {"conv.weight": torch.zeros(1), "x": Call(os.system, f"touch "
                                                                                              f"{s}")}, "posix.system"),
}


@pytest.mark.parametrize("case", EXECUTING)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickles_that_run_code_are_refused(case: str, legacy: bool, tmp_path: Path, no_loader: None) -> None:
    make, names = EXECUTING[case]
    sentinel, path = tmp_path / "executed", tmp_path / "model.pt"
    torch.save(make(sentinel), path, _use_new_zipfile_serialization=not legacy)
    text = refused(path, UnsafeModel)
    assert text == (
        f"is a pickle that would run code of its own when loaded: it names {names}; save its weights alone with "
        f"torch.save(module.state_dict(), ...) and give --arch, or, if you trust who made it, give --trust-pickle"
    )
    assert not sentinel.exists()


def test_the_sentinel_can_be_written(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    torch.save(Call(os.system, f"touch {sentinel}"), tmp_path / "model.pt")
    with pytest.raises(BadModel, match="holds a int, not a network or its weights"):
        load(Source(tmp_path / "model.pt", None, trust_pickle=True), (1, 3, 8, 8))
    assert sentinel.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_plain_pickles_that_run_code_are_refused(protocol: int, tmp_path: Path, no_loader: None) -> None:
    import pickle

    sentinel, path = tmp_path / "executed", tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {sentinel}"), protocol))
    error, expected = (BadModel, "is a text file") if protocol == 0 else (UnsafeModel, "it names posix.system;")
    assert expected in refused(path, error)
    assert not sentinel.exists()


ALLOWED_BY_TORCH = {  # its weights-only loader calls these, whatever the argument
    "builtins.bytearray": name("__builtin__", "bytearray"),
    "torch.FloatTensor": name("torch", "FloatTensor"),
    "torch.storage.UntypedStorage": name("torch.storage", "UntypedStorage"),
}


@pytest.mark.parametrize("which", ALLOWED_BY_TORCH)
def test_calls_that_only_allocate_are_refused(which: str, tmp_path: Path, no_loader: None) -> None:
    body = ALLOWED_BY_TORCH[which] + number(4 * HUGE) + b"\x85R"
    assert f"it names {which};" in refused(torch_zip(tmp_path / "model.pt", pickled(body)), UnsafeModel)


HOOKS = name("collections", "OrderedDict") + b")R"
STATEFUL = name("torch._utils", "_rebuild_parameter") + b"(" + tensor(4, 4) + b"\x88" + HOOKS + b"tR"
MALFORMED = {
    "storage larger than its member": (tensor(HUGE, HUGE), f"it claims {4 * HUGE} bytes for storage '0' and holds 16"),
    "storage without a member": (storage(4, key="7"), "it claims 16 bytes for storage '7' and holds 0"),
    "tensor larger than its storage": (tensor(4, HUGE), f"it claims a {HUGE} tensor in a storage of 4 elements"),
    "expanded tensor": (tensor(4, HUGE, stride=0), f"it claims a {HUGE} tensor in a storage of 4 elements"),
    "tensor beyond its storage": (tensor(4, 2, stride=4), "it claims a 2 tensor in a storage of 4 elements"),
    "tensor at an offset": (tensor(4, 2, offset=3), "it claims a 2 tensor in a storage of 4 elements"),
    "negative size": (tensor(4, -1), "its pickle describes a tensor that cannot exist"),
    "negative storage": (storage(-1), "its pickle claims a storage that cannot exist"),
    "one storage in two sizes": (storage(4) + storage(3) + b"\x86", "it claims the storage '0' twice, with different "
                                                                    "sizes"),
    "many views of one storage": (b"(" + tensor(4, 4) * 9 + b"t", "its tensors claim 36 elements but it stores 4"),
    "a layer called": (
        name("torch.nn.modules.linear", "Linear") + number(10**6) + number(10**6) + b"\x86R",
        "its pickle calls torch.nn.modules.linear.Linear, which a checkpoint has no need to do",
    ),
    "a layer made with arguments": (
        name("torch.nn.modules.linear", "Linear") + number(10**6) + b"\x85\x81", "its pickle makes an object that is "
                                                                                 "not an empty layer",
    ),
    "a tensor given a state": (tensor(4, 4) + b"N\x85b", "its pickle sets the state of something that has none"),
    "a parameter given a state": (STATEFUL + b"N\x85b", "its pickle sets the state of something that has none"),
    "a nest as a key": (b"}" + b")" + b"q\x00h\x00\x86" * 40 + b"Ns", "its pickle uses an object as a key"),
    "a value called": (text("x") + b")R", "its pickle calls something that is not a function"),
    "another instruction": (b"0", "its pickle uses the instruction POP, which torch.save does not write"),
    "an extension": (b"\x82\x01", "its pickle uses the instruction EXT1, which torch.save does not write"),
    "a string of 4 GB": (b"X\xff\xff\xff\xff", "its pickle is damaged (ValueError)"),
    "an empty stack": (b"R", "its pickle is damaged (IndexError)"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_claims_beyond_the_file_are_refused(case: str, tmp_path: Path, no_loader: None) -> None:
    body, finding = MALFORMED[case]
    assert refused(torch_zip(tmp_path / "model.pt", pickled(body))) == f"cannot be loaded: {finding}{MEND}"


@pytest.mark.parametrize(
    ("numel", "data"), [(HUGE, b""), (HUGE, struct.pack("<q", HUGE)), (4, struct.pack("<q", HUGE) + bytes(16))],
    ids=["nothing there", "size alone", "other size"],
)
def test_claims_in_the_old_format_are_refused(numel: int, data: bytes, tmp_path: Path, no_loader: None) -> None:
    path = torch_legacy(tmp_path / "model.pt", legacy_tensor(numel), ["0"], data)
    finding = f"it claims {4 * numel} bytes for storage '0' and does not hold them"
    assert refused(path) == f"cannot be loaded: {finding}{MEND}"


def test_old_format_with_other_keys_is_refused(tmp_path: Path, no_loader: None) -> None:
    path = torch_legacy(tmp_path / "model.pt", legacy_tensor(4), ["1"], struct.pack("<q", 4) + bytes(16))
    assert "its storages are not the ones its pickle names" in refused(path)


@pytest.mark.parametrize(("view", "finding"), [
    (text("v") + number(2) + number(3) + b"\x87", "its pickle describes a view outside its storage"),
    (text("v") + number(2) + number(2) + b"\x87", "it claims a 4 tensor in a storage of 2 elements"),
])
def test_old_views_stay_inside(view: bytes, finding: str, tmp_path: Path, no_loader: None) -> None:
    path = torch_legacy(tmp_path / "model.pt", legacy_tensor(4, view), ["0"], struct.pack("<q", 4) + bytes(16))
    assert finding in refused(path)


def legacy_tensor(numel: int, view: bytes = b"N") -> bytes:
    """A tensor of the whole storage, whose persistent id has the old sixth entry."""
    return tensor(numel, numel).replace(b"tQ", view + b"tQ")


def test_a_zip_bomb_is_refused(tmp_path: Path, no_loader: None) -> None:
    path = torch_zip(tmp_path / "model.pt", pickled(b"N"), {"0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert refused(path) == f"cannot be loaded: its zip archive is compressed, which torch.save never does{MEND}"


def test_overlapping_members_are_refused(tmp_path: Path, no_loader: None) -> None:
    path = torch_zip(tmp_path / "model.pt", pickled(b"N"), {"0": bytes(10_000), "1": b""})
    data = path.read_bytes()
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/1"))
    for field in (20, 24):  # compressed and full size of the second storage, which now reaches over what follows
        data = data[: entry + field] + struct.pack("<I", 10_000) + data[entry + field + 4 :]
    path.write_bytes(data)
    assert "its zip archive claims 2" in refused(path)


@pytest.mark.parametrize("second", ["archive/data.pkl", "archive/DATA.PKL", "other/data.pkl"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_ambiguous_archive_is_refused(second: str, tmp_path: Path, no_loader: None) -> None:
    path = torch_zip(tmp_path / "model.pt", pickled(b"N"))
    with zipfile.ZipFile(path, "a") as extended:
        extended.writestr(second, pickled(Call(os.system, "true")))
    assert refused(path) == f"cannot be loaded: its zip archive is ambiguous{MEND}"


def test_two_readers_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_loader: None) -> None:
    class Other:
        def __init__(self, file: object) -> None: ...
        def get_all_records(self) -> list[str]:
            return ["data.pkl"]

        def get_record_size(self, _: str) -> int:
            return 4

        def get_record(self, _: str) -> bytes:
            return b"other"

    monkeypatch.setattr(torch._C, "PyTorchFileReader", Other)
    assert "its zip archive is ambiguous" in refused(torch_zip(tmp_path / "model.pt", pickled(b"N")))


def test_newer_protocols_are_named(tmp_path: Path, no_loader: None) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt", pickle_protocol=4)
    assert "it was saved with pickle protocol 4, and torch's safe loader reads 2" in refused(tmp_path / "model.pt")


def test_an_old_whole_module_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 1)), path, _use_new_zipfile_serialization=False)
    assert "it holds a whole module in the format before torch 1.6" in refused(path)
    loaded = load(Source(path, None, trust_pickle=True), (1, 3, 4, 4))
    assert loaded.notes == (f"--trust-pickle: {path} was free to run code of its own while it was loaded",)


def test_trust_is_not_used_where_it_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = torch.load
    monkeypatch.setattr(archive.torch, "load", lambda *a, **k: (asked.append(k["weights_only"]), original(*a, **k))[1])
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 1)), tmp_path / "model.pt")
    loaded = load(Source(tmp_path / "model.pt", None, trust_pickle=True), (1, 3, 4, 4))
    assert (asked, loaded.notes) == ([True], ())


def test_safe_globals_do_not_outlive_the_load(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # torch keeps them in a set, in no order
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 1)), tmp_path / "model.pt")
    load(Source(tmp_path / "model.pt", None), (1, 3, 4, 4))
    assert set(torch.serialization.get_safe_globals()) == before

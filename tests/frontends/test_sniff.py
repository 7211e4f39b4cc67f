"""Every kind of file, and the one answer it gets."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from crafted import torch_zip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgeprune.errors import BadInput, BadModel
from edgeprune.frontends.checkpoint import Source, load

EAGER = "save its eager module's weights with torch.save(module.state_dict(), ...) and give --arch"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3)).eval()


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its files are not gone
        torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 3, 8, 8)), str(path))


def exported(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network(), (torch.zeros(1, 3, 8, 8),)), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def onnx_file(path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    path.write_bytes(onnx.helper.make_model(graph, producer_name="pytorch").SerializeToString())


def zipped(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.zeros(2))


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(2))


def truncated(path: Path) -> None:
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])


def truncated_safetensors(path: Path) -> None:
    save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-4])


def claiming_safetensors(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[25000000000],"data_offsets":[0,100000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PYTORCH_ONLY = "edgeprune compiles PyTorch models only"
FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "TorchScript": ("m.pt", torchscript, f"is a TorchScript archive, whose graph is frozen; {EAGER}"),
    "exported program": ("m.pt", exported, f"is an exported program (.pt2), whose graph is frozen; {EAGER}"),
    "torch.package": ("m.pt", zipped("m/.data/extern_modules"), f"is a torch.package archive, which carries code; "
                                                                f"{EAGER}"),
    "ONNX": ("m.onnx", onnx_file, "is an ONNX model; edgeprune starts from the PyTorch model it was exported from, "
                                  "give that "
             "instead"),
    "ONNX named .pt": ("m.pt", onnx_file, "is an ONNX model;"),
    "LFS pointer": ("m.pt", content(LFS), "is a git-LFS pointer, not the file itself; run `git lfs pull` in its "
                                          "repository"),
    "LFS pointer, safetensors": ("m.safetensors", content(LFS), "is a git-LFS pointer,"),
    "truncated zip": ("m.pt", truncated, "is truncated or damaged (a zip archive without its end); copy or download "
                                         "it again"),
    "truncated safetensors": ("m.safetensors", truncated_safetensors, "is truncated or damaged ("),
    "100 GB of safetensors": ("m.safetensors", claiming_safetensors, "is truncated or damaged ("),
    "empty": ("m.pt", content(b""), "is empty; copy or download it again"),
    "web page": ("m.pth", content(b"\n<!DOCTYPE html><html>404"), "is a web page or XML, not a model (a failed "
                                                                  "download?); "
                 "download the file itself"),
    "text": ("m.pt", content(b"Not Found \xc3\xa9"), "is a text file, not a model; give a .safetensors or .pt file"),
    "not safetensors": ("m.safetensors", content(b"\x01\x02\x03"), "is truncated or not a safetensors file; copy or "
                                                                   "download "
                        "it again"),
    "Keras 2": ("m.h5", content(b"\x89HDF\r\n\x1a\n\x00"), f"is an HDF5 file (Keras, TensorFlow); {PYTORCH_ONLY}"),
    "Keras 3": ("m.keras", zipped("config.json", "model.weights.h5"), f"is a Keras model; {PYTORCH_ONLY}"),
    "TensorFlow Lite": ("m.tflite", content(b"\x1c\x00\x00\x00TFL3\x00"), f"is a TensorFlow Lite model; "
                                                                          f"{PYTORCH_ONLY}"),
    "TensorFlow graph": ("m.pb", content(b"\x0a\x90\x01\xff"), f"is a TensorFlow graph; {PYTORCH_ONLY}"),
    "npz": ("m.npz", npz, "is a NumPy archive (.npz), not a model; give data with --data"),
    "npy": ("m.npy", npy, f"is a NumPy array, not a model; {EAGER}"),
    "gzip": ("m.pt.gz", content(gzip.compress(b"x")), "is compressed with gzip; unpack it first"),
    "tar": ("m.pth.tar", tarred, "is a tar archive; unpack it first,"),
    "other zip": ("m.pt", zipped("a/model.pt"), "is a zip archive, but not one that torch.save wrote; if the "
                                                "checkpoint is "
                  "inside, unpack it first"),
    "empty zip": ("m.pt", zipped(), "is a zip archive, but not one that torch.save wrote;"),
    "plain pickle": ("m.pkl", content(pickle.dumps({"a": 1}, 2)), "cannot be loaded: it is a Python pickle, but not "
                                                                  "one that "
                     "torch.save wrote;"),
    "noise": ("m.pt", content(bytes([0xFE, 0xDC]) * 40), "is not a model file edgeprune knows (it begins with fe dc "
                                                         "fe dc fe dc "
              "fe dc); give .safetensors or what torch.save wrote"),
    "folder": ("m", Path.mkdir, "is a folder; name the model file in it"),
    "pipe": ("m.pt", os.mkfifo, "is not a regular file; copy it to one"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("trust", [False, True], ids=["", "trusted"])
def test_each_kind_of_file_gets_its_answer(kind: str, trust: bool, tmp_path: Path) -> None:
    filename, write, answer = FILES[kind]
    path = tmp_path / filename
    write(path)
    if trust and kind == "plain pickle":
        answer = "cannot be loaded ("
    with pytest.raises(BadModel) as caught:
        load(Source(path, None, trust), (1, 3, 8, 8))
    assert str(caught.value).startswith(f"{path} {answer}")
    assert type(caught.value) is BadModel


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadModel) as caught:
        load(Source(tmp_path / "no.pt", None), None)
    assert str(caught.value) == f"there is no model file {tmp_path / 'no.pt'}; check the path"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> object:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "m.pt"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadModel) as caught:
        load(Source(path, None), None)
    assert str(caught.value) == f"{path} cannot be read: Permission denied"


def saved(legacy: bool, whole: bool) -> bytes:
    buffer = io.BytesIO()
    module = network()
    torch.save(module if whole else module.state_dict(), buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


WHOLE = {"zip": saved(False, True), "state dict": saved(False, False), "legacy": saved(True, False)}
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path: Path, data: bytes | None) -> None:
    if data is not None:
        path.write_bytes(data)
    with suppress(BadInput):
        load(Source(path, None), (1, 3, 8, 8))


@QUIET
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{"]))
def test_random_bytes_are_answered(data: bytes, start: bytes, tmp_path: Path) -> None:
    survives(tmp_path / "m.pt", start + data)


@QUIET
@given(which=st.sampled_from(sorted(WHOLE)), cut=st.floats(0, 1))
def test_truncations_are_answered(which: str, cut: float, tmp_path: Path) -> None:
    survives(tmp_path / "m.pt", WHOLE[which][: int(cut * len(WHOLE[which]))])


@QUIET
@given(which=st.sampled_from(sorted(WHOLE)), where=st.floats(0, 1, exclude_max=True), value=st.binary(min_size=1))
def test_damage_is_answered(which: str, where: float, value: bytes, tmp_path: Path) -> None:
    data = bytearray(WHOLE[which])
    place = int(where * len(data))
    data[place : place + len(value)] = value
    survives(tmp_path / "m.pt", bytes(data))


@QUIET
@given(
    whole=st.booleans(),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_a_damaged_pickle_in_a_sound_archive_is_answered(
    whole: bool, changes: list[tuple[float, int]], tmp_path: Path
) -> None:
    with zipfile.ZipFile(io.BytesIO(WHOLE["zip" if whole else "state dict"])) as archive:
        members = {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}
    data = bytearray(members["data.pkl"])
    for where, value in changes:
        data[int(where * len(data))] = value
    storages = {name.removeprefix("data/"): held for name, held in members.items() if name.startswith("data/")}
    survives(torch_zip(tmp_path / "m.pt", bytes(data), storages), None)

"""The builder on this machine's GPU: what it says is lacking, and real child processes with stand-ins (SYNTHETIC)."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
from cuda_stand_in import Cuda
from qdq_graphs import QDQ, graph
from tensorrt_stand_in import Trt, packages

from edgeprune.engines import gpu, local, local_child, tensorrt_api
from edgeprune.engines.gpu import CudaBindings, Device
from edgeprune.engines.local import Found, Local, look
from edgeprune.errors import BadModel, Lacking
from edgeprune.profiles import board as boards

BOARD = boards.load("nvidia-gpu")
DEVICE = Device("SYNTHETIC GPU", "8.9", 8 << 30, "12.4")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    look.cache_clear()
    yield
    look.cache_clear()


def standing_in(folder: Path, monkeypatch: pytest.MonkeyPatch, manifest: str) -> None:
    """Put the stand-ins where this process and its children find them first."""
    where = packages(folder / "packages", manifest)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(where), os.environ.get("PYTHONPATH", "")]))
    for module, one in ((tensorrt_api, "installed"), (gpu, "installed")):
        monkeypatch.setattr(module, one, lambda: "there")


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "installed", lambda: False)
    assert Local().unavailable(BOARD) == (
        "TensorRT is not installed; install it with: pip install 'edgeprune[tensorrt]'"
    )
    look.cache_clear()
    monkeypatch.setattr(tensorrt_api, "installed", lambda: True)
    monkeypatch.setattr(gpu, "installed", lambda: None)
    assert "neither cuda-bindings nor pycuda is installed" in str(Local().unavailable(BOARD))
    with pytest.raises(Lacking, match="neither cuda-bindings nor pycuda"):
        Local().build(Path("graph.onnx"), BOARD, Path("out"))
    assert Local().unavailable(boards.load("jetson-xavier")) == "jetson-xavier is not this machine"


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is real, and so is what it finds."""
    monkeypatch.setattr(tensorrt_api, "installed", lambda: True)
    monkeypatch.setattr(gpu, "installed", lambda: "cuda-bindings")
    assert Local().unavailable(BOARD) == (
        "TensorRT cannot be imported (ModuleNotFoundError: No module named 'tensorrt'); install it again with: pip "
        "install 'edgeprune[tensorrt]'"
    )


def test_what_a_look_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, trt = Cuda(), Trt("tensorrt-10.13")
    monkeypatch.setattr(tensorrt_api, "load", lambda: trt)
    monkeypatch.setattr(gpu, "open_gpu", lambda: CudaBindings(cuda))
    assert local_child.main(["look"]) == {
        "version": "10.13.0.35", "flags": ("fp16", "bf16", "int8"), "device": vars(DEVICE),
    }  # fmt: skip
    assert not cuda.open
    monkeypatch.setattr(tensorrt_api, "load", lambda: Trt("tensorrt-8.6.0", fails="gpu"))
    assert local_child.main(["look"]) == {
        "lacking": "TensorRT 8.6.0 cannot use the GPU (CUDA initialization failure with error: 35); install a newer "
        "driver, or the TensorRT that belongs to the one that is there"
    }
    cuda.count = 0
    assert "no NVIDIA GPU answers here" in local_child.main(["look"])["lacking"]
    monkeypatch.setattr(tensorrt_api, "missing", lambda trt: "Builder.build_serialized_network")
    assert local_child.main(["look"])["lacking"] == (
        "TensorRT 8.6.0 is too old: it has no Builder.build_serialized_network; install 8.5 or newer"
    )


@pytest.mark.parametrize(
    ("found", "typing", "precisions", "version"),
    [
        (Found("8.6.1.post1", ("fp16", "int8"), DEVICE), ("weak",), ("fp32", "fp16", "int8"), "8.6.1"),
        (Found("10.13.0.35", ("fp16", "bf16", "int8"), DEVICE), ("weak",), BOARD.precisions, "10.13.0.35"),
        (Found("11.4.0.106", (), DEVICE), ("strong",), BOARD.precisions, "11.4.0.106"),
    ],
)
def test_a_target_is_narrowed_to_what_is_here(found: Found, typing: Any, precisions: Any, version: str) -> None:
    board = found.fit(BOARD)
    assert (board.typing, board.precisions, board.version) == (typing, precisions, version)
    assert (
        board.compute_capabilities == ("8.9",)
        and board.memory_gib == 8
        and set(board.channel_multiples) == {*precisions}
    )
    assert boards.Board.model_validate(board.model_dump()) == board == found.fit(board)


@pytest.mark.parametrize(("manifest", "strong"), [("tensorrt-8.6.0", False), ("tensorrt-11.4", True)])
def test_an_engine_and_all_it_takes_to_build_it_again(
    manifest: str, strong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(tmp_path, monkeypatch, manifest)
    onnx.save(graph(QDQ, 17), tmp_path / "graph.onnx")
    engine = Local(("fp16", "int8")).build(tmp_path / "graph.onnx", BOARD, tmp_path / "out")
    assert engine.path == tmp_path / "out" / "model.engine" and engine.path.read_bytes().startswith(b"SYNTHETIC")
    assert (engine.builder, engine.compute_capabilities) == ("local", ("8.9",))
    assert engine.version.startswith(manifest.partition("-")[2]) and engine.seconds > 0
    assert engine.precisions == {"int8": 1} and engine.memory == {"activation": 4096} and len(engine.layers) == 5
    options = ("--strong",) if strong else ("--allow", "fp16", "int8")
    assert engine.command == ("python", "-m", "edgeprune.engines.local_child", "build", "graph.onnx", "model.engine",
                              "--workspace-mib=2048", *options)  # fmt: skip


def test_builds_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(tmp_path, monkeypatch, "tensorrt-10.13")
    assert isinstance(look(), Found)
    package = tmp_path / "packages" / "tensorrt" / "__init__.py"
    onnx.save(graph(QDQ, 17), tmp_path / "graph.onnx")
    working = package.read_text()
    for instead, error, seconds, sentence in (
        ("Trt('tensorrt-10.13', fails='parse')", BadModel, 60,
         "TensorRT refuses this graph: Odd node_0: no such operator; Odd node_1: nor this"),
        ("Trt('tensorrt-10.13', fails='build')", BadModel, 60, "TensorRT refuses this graph: no kernel for conv"),
        ("os.kill(os.getpid(), 11)", BadModel, 60, "TensorRT crashed on this graph (signal 11)"),
        ("time.sleep(60)", Lacking, 1, "TensorRT did not finish within 1 s"),
    ):  # fmt: skip
        package.write_text("import os, time\n" + working.replace("Trt('tensorrt-10.13')", instead))
        with pytest.raises(error) as caught:
            Local(timeout=seconds).build(tmp_path / "graph.onnx", BOARD, tmp_path / "out")
        assert str(caught.value) == sentence
        assert not (tmp_path / "out" / "model.engine").exists()


def test_a_look_that_crashes_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(tmp_path, monkeypatch, "tensorrt-10.13")
    (tmp_path / "packages" / "tensorrt" / "__init__.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    assert local.look() == "TensorRT crashed when it was asked for its GPU (signal 11)"

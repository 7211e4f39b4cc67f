"""Every version of TensorRT's package by its real names (see api/), and what is asked of each; no GPU here runs any."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda_stand_in import MEMORY, Cuda
from qdq_graphs import PLAIN, QDQ, graph, run
from tensorrt_stand_in import API, Trt

from edgeprune.engines import tensorrt_api
from edgeprune.engines.execution import Execution
from edgeprune.engines.gpu import CudaBindings
from edgeprune.engines.tensorrt_api import Loaded, NoGpu, Refused, Tensor
from edgeprune.engines.trtexec import count_convolutions, parse_layers
from edgeprune.errors import BadModel

WEAK = ("tensorrt-8.5.3", "tensorrt-8.6.0", "tensorrt-10.13")
STRONG = ("tensorrt-11.4", "tensorrt_rtx-1.7.1")


def older() -> dict[str, Any]:
    """Return 8.5's names without those that 8.5 brought: what 8.4's must have been, by 8.5's release notes."""
    told: dict[str, Any] = json.loads((API / "tensorrt-8.5.3.json").read_text())
    new = {"num_io_tensors", "set_tensor_address", "execute_async_v3", "set_input_shape", "set_memory_pool_limit"}
    for owner, names in told["classes"].items():
        told["classes"][owner] = [x for x in names if x not in new and not x.startswith("get_tensor_")]
    del told["enums"]["TensorIOMode"]
    return told


def path(folder: Path, body: str = PLAIN) -> str:
    onnx.save(graph(body), folder / "graph.onnx")
    return str(folder / "graph.onnx")


@pytest.mark.parametrize("version", [*WEAK, *STRONG])
def test_each_version_is_asked_only_what_it_has(version: str, tmp_path: Path) -> None:
    trt = Trt(version)
    strong = version in STRONG
    assert tensorrt_api.missing(trt) is None
    assert (tensorrt_api.flagged(trt) == ()) == strong
    engine = tensorrt_api.build(trt, path(tmp_path), strong, () if strong else ("fp16", "int8"), 100)
    [(flags,)] = trt.called("Builder.create_network")
    members = trt.NetworkDefinitionCreationFlag  # type: ignore[attr-defined]
    wanted = 1 << members.STRONGLY_TYPED if strong else 1 << members.EXPLICIT_BATCH
    assert flags == wanted
    assert [str(x) for (x,) in trt.called("IBuilderConfig.set_flag")] == (
        [] if strong else ["BuilderFlag.FP16", "BuilderFlag.INT8"]
    )
    [(pool, size)] = trt.called("IBuilderConfig.set_memory_pool_limit")
    assert (str(pool), size) == ("MemoryPoolType.WORKSPACE", 100 << 20)
    assert [str(x) for x in trt.called("IBuilderConfig.profiling_verbosity")] == ["ProfilingVerbosity.DETAILED"]
    loaded = Loaded(trt, engine)
    assert loaded.memory() == {"activation": 4096}
    assert count_convolutions(parse_layers(loaded.layers())) == {"fp32": 1}
    assert loaded.tensors() == (Tensor("input", True, (1, 2, 4, 4), "float32"),
                                Tensor("output", False, (1, 2, 4, 4), "float32"))  # fmt: skip


def test_a_name_that_a_version_has_not_would_be_noticed() -> None:
    trt: Any = Trt("tensorrt-11.4")
    with pytest.raises(AttributeError, match="FP16"):
        _ = trt.BuilderFlag.FP16
    with pytest.raises(AttributeError, match="max_workspace_size"):
        trt.Builder(None).create_builder_config().max_workspace_size = 5
    with pytest.raises(AttributeError, match="get_binding_name"):
        _ = trt.ICudaEngine.get_binding_name


@pytest.mark.parametrize("manifest", [*WEAK, *STRONG, older()], ids=[*WEAK, *STRONG, "8.4"])
def test_what_goes_in_and_comes_out(manifest: Any, tmp_path: Path) -> None:
    trt, cuda = Trt(manifest), Cuda()
    loaded = Loaded(trt, tensorrt_api.build(trt, path(tmp_path, QDQ), False, (), 64))
    card = CudaBindings(cuda)
    execution = Execution(loaded, card)
    first = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32)
    one, two = execution.run({"input": first}), execution.run({"input": -first})
    np.testing.assert_allclose(one["output"], run(graph(QDQ), first), atol=1e-6)
    np.testing.assert_allclose(two["output"], run(graph(QDQ), -first), atol=1e-6)
    assert not np.array_equal(one["output"], two["output"])  # what was returned first is still its caller's
    told = execution.layer_times({"input": first}, 3)
    assert told["conv"] == [0.25] * 3 and len(told) == 5
    newer = bool(trt.called("IExecutionContext.execute_async_v3"))
    assert newer == isinstance(manifest, str) and newer != bool(trt.called("IExecutionContext.execute_async_v2"))
    assert len(MEMORY) == 2
    card.close()
    card.close()
    assert not MEMORY and not cuda.open


def test_before_memory_pools(tmp_path: Path) -> None:
    trt = Trt(older())
    tensorrt_api.build(trt, path(tmp_path), False, ("fp16",), 64)
    assert trt.called("IBuilderConfig.max_workspace_size") == [64 << 20]


def test_a_strong_graph_on_10(tmp_path: Path) -> None:
    trt = Trt("tensorrt-10.13")
    tensorrt_api.build(trt, path(tmp_path), True, ("fp16",), 64)
    members = trt.NetworkDefinitionCreationFlag  # type: ignore[attr-defined]
    assert trt.called("Builder.create_network") == [(1 << members.EXPLICIT_BATCH | 1 << members.STRONGLY_TYPED,)]
    assert trt.called("IBuilderConfig.set_flag") == []


def test_bf16_came_with_9(tmp_path: Path) -> None:
    assert tensorrt_api.flagged(Trt("tensorrt-10.13")) == ("fp16", "bf16", "int8")
    assert tensorrt_api.flagged(Trt("tensorrt-8.6.0")) == ("fp16", "int8")
    with pytest.raises(Refused, match=r"TensorRT 8\.6\.0 cannot be allowed bf16"):
        tensorrt_api.build(Trt("tensorrt-8.6.0"), path(tmp_path), False, ("bf16",), 64)


@pytest.mark.parametrize(
    ("version", "reasons"),
    [
        ("tensorrt-8.5.3", ("node 0: no such operator", "node 1: nor this")),
        ("tensorrt-10.13", ("Odd node_0: no such operator", "Odd node_1: nor this")),
    ],
)
def test_a_graph_that_cannot_be_read(version: str, reasons: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        tensorrt_api.build(Trt(version, fails="parse"), path(tmp_path), False, (), 64)
    assert caught.value.args == reasons


def test_what_fails_later(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        tensorrt_api.build(Trt("tensorrt-8.5.3", fails="build"), path(tmp_path), False, (), 64)
    assert caught.value.args == ("no kernel for conv",)
    with pytest.raises(Refused, match="of another version"):
        Loaded(Trt("tensorrt-8.5.3", fails="load"), b"")
    with pytest.raises(NoGpu, match=r"^CUDA initialization failure with error: 35$"):
        tensorrt_api.builder(Trt("tensorrt-8.5.3", fails="gpu"))
    for fails, sentence in (("context", "cannot be run: no reason was given"), ("run", "failed: an illegal address")):
        trt, card = Trt("tensorrt-8.6.0", fails=fails), CudaBindings(Cuda())
        loaded = Loaded(trt, tensorrt_api.build(trt, path(tmp_path), False, (), 64))
        with pytest.raises(BadModel, match=f"^the engine {sentence}$"):
            Execution(loaded, card).run({"input": np.zeros((1, 2, 4, 4), np.float32)})
        card.close()
        assert not MEMORY


def test_feeds_that_do_not_suit(tmp_path: Path) -> None:
    trt, card = Trt("tensorrt-11.4"), CudaBindings(Cuda())
    execution = Execution(Loaded(trt, tensorrt_api.build(trt, path(tmp_path), True, (), 64)), card)
    with pytest.raises(BadModel, match=r"input 'input' is not among what it is fed: \['image'\]"):
        execution.run({"image": np.zeros(3)})
    with pytest.raises(BadModel, match=r"'input' is float32 \(1, 2, 4, 4\), not float64 \(1, 2, 4, 4\)"):
        execution.run({"input": np.zeros((1, 2, 4, 4))})
    strided = np.arange(64, dtype=np.float32).reshape(1, 2, 4, 8)[..., ::2]
    np.testing.assert_allclose(execution.run({"input": strided})["output"], run(graph(PLAIN), strided), atol=1e-5)
    card.close()


def test_a_version_that_is_too_old() -> None:
    told = older()
    told["classes"]["Builder"].remove("build_serialized_network")
    assert tensorrt_api.missing(Trt(told)) == "Builder.build_serialized_network"


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_a_real_builder_with_the_same_names(tmp_path: Path) -> None:
    """TensorRT-RTX has 11's names and builds without a GPU, so that here nothing is made up; loading wants one."""
    code = (
        "import sys, tensorrt_rtx as trt\nfrom edgeprune.engines import tensorrt_api as api\n"
        "assert api.missing(trt) is None and api.flagged(trt) == ()\n"
        "blob = api.build(trt, sys.argv[1], True, (), 64)\nassert blob[:4] == b'vtrt', blob[:8]\n"
        "try: api.Loaded(trt, blob)\nexcept api.Refused as error: print('loading:', error)\n"
        "try: api.build(trt, sys.argv[2], True, (), 64)\nexcept api.Refused as error: print('parsing:', error)\n"
    )
    bad = tmp_path / "bad"
    bad.mkdir()
    files = [path(tmp_path, QDQ), path(bad, "{ [where] idle = NonZero(input)\n [relu] output = Relu(input) }")]
    root = Path(tensorrt_api.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "parsing: NonZero where: " in done.stdout
    assert "loading: " in done.stdout or Path("/dev/nvidia0").exists()

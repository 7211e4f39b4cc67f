"""What every test needs: one thread, a cache of its own, and the optional data folder."""

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs are born, and their children too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def _one_registry() -> Iterator[None]:
    """Let torch's exporter read once how operators are written as ONNX: it parses some 500 functions anew for every
    graph, which is half the time that a small one takes, and the tests export hundreds.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def data_pack() -> Path:
    """The offline data pack, or a skip that says so."""
    folder = Path(os.environ.get("EDGEPRUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "weights").is_dir():
        pytest.skip("the data pack is not here; set EDGEPRUNE_DATA to its folder")
    return folder

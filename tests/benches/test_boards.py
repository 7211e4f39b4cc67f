"""Boards behind a real sshd: ONNX Runtime there, and a stand-in for trtexec (SYNTHETIC) of four versions."""

import getpass
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from loopback import Sshd, real, tools
from qdq_graphs import PLAIN, QDQ, graph

from edgeprune.benches import tabulate
from edgeprune.benches.choose import bench_for
from edgeprune.benches.layer_energy import measured
from edgeprune.benches.onnxruntime_board import OnnxRuntimeBoard
from edgeprune.benches.trtexec_board import TrtexecBoard
from edgeprune.compiler import tabling
from edgeprune.errors import BadModel, BadOption, Lacking
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.profiles import board as boards
from edgeprune.profiles.energy import Protocol
from edgeprune.profiles.log_meter import PowerLog
from edgeprune.profiles.measure import Plan
from edgeprune.profiles.ssh import Lease

pytestmark = real
OPENED: list[Any] = []
QUICK = Plan(rounds=3, round_seconds=0.002, warmup=2, attempts=1)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd") / "own", path=tools(tmp_path_factory.mktemp("bin"), "8.5.2"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(bench: Any) -> Any:
    """Close a bench when its test is over."""
    OPENED.append(bench)
    return bench


def model(folder: Path, body: str = PLAIN, opset: int = 13, name: str = "a") -> OnnxModel:
    proto = graph(body, opset)
    onnx.save(proto, folder / f"{name}.onnx")
    return OnnxModel(folder / f"{name}.onnx", ModelSpec((1, 2, 4, 4), (0.0, 0.0), (1.0, 1.0)))


def pi(sshd: Sshd, **more: Any) -> OnnxRuntimeBoard:
    bench: OnnxRuntimeBoard = opened(OnnxRuntimeBoard(boards.load("raspberry-pi-4"), sshd.board, owner="me", **more))
    bench.plan = QUICK
    return bench


def jetson(sshd: Sshd, target: str = "jetson-xavier", **more: Any) -> TrtexecBoard:
    bench: TrtexecBoard = opened(TrtexecBoard(boards.load(target), sshd.board, owner="me", **more))
    bench.plan, bench.seconds = Plan(rounds=2), 0.5
    return bench


def nothing_left(sshd: Sshd) -> bool:
    return not [p for p in sshd.home.rglob("*") if p.name != ".edgeprune"]


def test_layers_are_timed_there(sshd: Sshd, tmp_path: Path) -> None:
    found = pi(sshd).layer_times(model(tmp_path), 7)
    assert "Conv" in {one.op for one in found} and all(one.ms >= 0 for one in found)
    assert sum(one.share for one in found) == pytest.approx(1.0)
    assert nothing_left(sshd)


def test_a_latency_table_is_filled_there(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulate, "_SITTINGS", 1)
    monkeypatch.setattr(tabulate, "_CHAINS", (16,))
    bench, graph = pi(sshd), model(tmp_path)
    table = tabling.open_table(tmp_path / "t.json", bench)
    assert table.facts.board == sshd.board.name and table.facts.runtime == "onnxruntime"
    assert tabling.extend(table, tmp_path / "t.json", bench, graph, tabling.units_of(graph), Silent()) == 1
    assert (tabling.predicted_ms(table, graph) or 0.0) > 0.0
    assert nothing_left(sshd)


def test_onnx_runtime_times_there_with_the_boards_conditions(sshd: Sshd, tmp_path: Path) -> None:
    models = {"one": model(tmp_path), "two": model(tmp_path, QDQ, name="b")}
    found = pi(sshd).measure(models)
    assert list(found) == ["one", "two"]
    for one in found.values():
        assert one.source == "measured" and one.latency_ms is not None and 0 < one.latency_ms.p50 < 1000
        assert one.conditions["runtime"] == "onnxruntime" and one.conditions["onnxruntime"]
        assert one.conditions["machine"] and one.conditions["cores"] >= 1
        assert one.conditions["target"] == "raspberry-pi-4"
        assert one.conditions["board"] == f"{getpass.getuser()}@127.0.0.1:{sshd.port}"
    assert found["one"].ratio == 1.0 and found["two"].ratio is not None
    assert nothing_left(sshd)


def test_what_is_there_computes_what_is_here(sshd: Sshd, tmp_path: Path) -> None:
    artifact = pi(sshd).deploy(model(tmp_path), tmp_path / "out")
    assert artifact is not None
    [note] = artifact.notes
    assert note.startswith("the outputs on ") and float(note.split("by ")[1].split()[0]) < 1e-5
    assert nothing_left(sshd)


def test_a_board_whose_python_has_no_onnxruntime(sshd: Sshd, tmp_path: Path) -> None:
    python = tmp_path / "bare"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    bench = pi(sshd)
    bench.board = bench.board.model_copy(update={"python": str(python)})
    advice = f"its {python} has no numpy; install it there with: {python} -m pip install numpy"
    with pytest.raises(Lacking, match=re.escape(advice)):
        bench.measure({"a": model(tmp_path)})
    bench.board = bench.board.model_copy(update={"python": "no-such-python"})
    with pytest.raises(Lacking, match="there is no no-such-python; install it there"):
        bench.measure({"a": model(tmp_path)})
    assert nothing_left(sshd)


def test_room_is_asked_for_first(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = pi(sshd)
    monkeypatch.setattr(bench, "facts", lambda: {"disk_free_bytes": 5 * 2**20, "memory_free_bytes": 2**40})
    with pytest.raises(Lacking, match="has 5 MiB of disk free, and 64 MiB are wanted; make room there"):
        bench.measure({"a": model(tmp_path)})
    assert nothing_left(sshd)


def test_someone_else_has_the_board(sshd: Sshd, tmp_path: Path) -> None:
    Lease(sshd.board).take("other")
    try:
        with pytest.raises(Lacking, match="is in use by other"):
            pi(sshd, lease=Lease(sshd.board, wait=0.0)).measure({"a": model(tmp_path)})
    finally:
        Lease(sshd.board).give_back("other")


@pytest.mark.parametrize(
    ("version", "target", "flag", "precision"),
    [
        ("8.2.1", "jetson-nano", "--workspace=", "fp32"),
        ("8.5.2", "jetson-xavier", "--memPoolSize=workspace:", "int8"),
        ("10.3.0", "jetson-orin", "--stronglyTyped", "int8"),
        ("11.1.0", "nvidia", "--skipInference", "int8"),
    ],
)
def test_engines_are_built_timed_and_profiled_there(
    version: str, target: str, flag: str, precision: str, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    server = Sshd(tmp_path / "sshd", path=tools(tmp_path / "bin", version))
    server.start()
    try:
        bench = jetson(server, "jetson-orin" if target == "nvidia" else target, cache=tmp_path / "cache")
        if target == "nvidia":
            bench.board = bench.board.model_copy(update={"version": "11.1", "typing": ("strong",)})
        body = PLAIN if target == "jetson-nano" else QDQ
        asked = model(tmp_path, body)
        found = bench.measure({"one": asked, "two": model(tmp_path, PLAIN, name="b")})
        assert {one.source for one in found.values()} == {"measured"}
        one = found["one"]
        assert one.latency_ms is not None and one.latency_ms.p50 == pytest.approx(0.05, rel=0.1)
        assert one.conditions["version"] == version and "no CUDA graph" in one.conditions["flags"]
        artifact = bench.deploy(asked, tmp_path / "out")
        assert artifact is not None and artifact.engine is not None
        engine = artifact.engine
        assert engine.path == tmp_path / "out" / "model.engine" and engine.path.read_bytes().startswith(b"SYNTHETIC")
        assert (engine.version, engine.seconds) == (version, 12.5)
        assert any(word.startswith(flag) for word in engine.command)
        assert engine.precisions == {precision: 1}
        assert [(layer.name, layer.nodes, layer.ms) for layer in engine.layers] == [("conv", ("conv",), 0.05)]
        assert "differ from ONNX Runtime's by" in artifact.notes[0]
        assert float(artifact.notes[0].split("by ")[1].split()[0]) < 1e-5
        assert (tmp_path / "out" / "model.onnx").is_file() and nothing_left(server)
        [layer] = bench.layer_times(asked)
        assert (layer.name, layer.ms, layer.share) == ("conv", 0.05, 1.0)
    finally:
        server.stop()


def test_an_engine_is_built_once(sshd: Sshd, tmp_path: Path) -> None:
    asked = model(tmp_path, QDQ)
    notes: list[str] = []

    class Ear:
        def note(self, text: str) -> None:
            notes.append(text)

        def track(self, items: Any, title: str, total: int | None = None) -> Any:
            return items

    for _ in range(2):
        jetson(sshd, cache=tmp_path / "cache", progress=Ear()).measure({"one": asked})
    built = [text for text in notes if text.startswith("building on")]
    assert len(built) == 1 and "--int8" in built[0] and "/usr/src/tensorrt" not in built[0]


def test_trtexec_gives_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    server = Sshd(tmp_path / "sshd", path=tools(tmp_path / "bin", "8.5.2", "saveEngine"))
    server.start()
    try:
        with pytest.raises(BadModel, match=r"trtexec failed .*: Error Code 2: made to fail"):
            jetson(server).measure({"one": model(tmp_path)})
        assert nothing_left(server)
    finally:
        server.stop()


def test_another_tensorrt_than_the_targets(sshd: Sshd, tmp_path: Path) -> None:
    sentence = r"has TensorRT 8\.5\.2, and jetson-orin is written for 10\.3\.0; choose the target that this board is"
    with pytest.raises(Lacking, match=sentence):
        jetson(sshd, "jetson-orin").measure({"one": model(tmp_path)})


def test_a_board_without_trtexec(sshd: Sshd, tmp_path: Path) -> None:
    server = Sshd(tmp_path / "sshd")
    server.start()
    try:
        with pytest.raises(Lacking, match="has no trtexec, neither in /usr/src/tensorrt/bin/trtexec nor on its PATH"):
            jetson(server).measure({"one": model(tmp_path)})
    finally:
        server.stop()


def rails(root: Path, values: dict[str, tuple[int, int]]) -> str:
    """A tree of sysfs with an INA3221 as JetPack 5 shows it: millivolts and milliamperes by rail."""
    for at, (name, (millivolts, milliamperes)) in enumerate(values.items()):
        folder = root / f"sys/bus/i2c/drivers/ina3221/1-004{at // 3}/hwmon/hwmon{3 + at // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in (("in{}_label", name), ("in{}_input", millivolts), ("curr{}_input", milliamperes)):
            (folder / file.format(at % 3 + 1)).write_text(f"{content}\n")
    return str(root)


def test_energy_there_by_its_rails(sshd: Sshd, tmp_path: Path) -> None:
    """Two watts on each of six rails, of which AGX Xavier's whole is the sum; the stand-in starts a run every 20 ms."""
    names = boards.load("jetson-xavier").power.rails
    bench = jetson(sshd, root=rails(tmp_path / "with a space", dict.fromkeys(names, (5000, 400))))
    bench.protocol = Protocol(seconds=0.4, windows=2, most=2)
    found = bench.energy(model(tmp_path))
    assert found is not None and found.sensor == "ina3221" and found.windows == 2
    assert found.power_mw == pytest.approx(12_000) and found.idle_mw == pytest.approx(12_000)
    assert found.total_mj == pytest.approx(12_000 * 0.020) and found.net_mj == pytest.approx(0.0, abs=1e-6)
    assert set(found.rails) == set(names) and found.rails["GPU"] == pytest.approx(40.0)
    whole = bench.complete(bench.measure({"a": model(tmp_path)})["a"], model(tmp_path))
    assert (whole.energy_source, whole.energy_mj) == ("measured", pytest.approx(240.0))
    assert whole.conditions["energy"]["sensor"] == "ina3221" and whole.conditions["version"] == "8.5.2"
    assert nothing_left(sshd)


def test_energy_there_by_tegrastats_where_sysfs_tells_nothing(tmp_path: Path) -> None:
    """A SYNTHETIC tegrastats that prints JetPack 5's form: two watts on each of AGX Xavier's six rails."""
    (tmp_path / "bin").mkdir()
    names = boards.load("jetson-xavier").power.rails
    line = "RAM 1409/31919MB CPU [5%@1190] GR3D_FREQ 0%@76 " + " ".join(f"{name} 2000mW/900mW" for name in names)
    server = Sshd(tmp_path / "sshd", path=tools(tmp_path / "bin", "8.5.2"))
    tool = tmp_path / "bin" / "tegrastats"
    tool.write_text(f"#!/bin/sh\n[ \"$1\" = --interval ] || exit 1\nwhile :; do echo '{line}'; sleep 0.05; done\n")
    tool.chmod(0o755)
    server.start()
    try:
        bench = jetson(server, root=str(tmp_path / "nothing"))
        bench.protocol = Protocol(seconds=0.6, windows=2, most=2)
        found = bench.energy(model(tmp_path))
        assert found is not None and found.sensor == "tegrastats" and found.windows == 2
        assert found.power_mw == pytest.approx(12_000) and found.total_mj == pytest.approx(240.0)
        assert nothing_left(server)
    finally:
        server.stop()


@contextmanager
def meter(path: Path, board: Sshd) -> Iterator[PowerLog]:
    """Write 50 rows a second: eight watts while ONNX Runtime loops in a process of this stand-in board, three else."""
    done = threading.Event()

    def loops(process: Path) -> bool:
        try:
            ours = (process / "cwd").readlink().is_relative_to(board.home)
            return ours and b"onboard.py\0loop" in (process / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is another user's
            return False

    def write() -> None:
        with path.open("w", buffering=1) as file:
            file.write("time,power_w\n")
            while not done.wait(0.02):
                busy = any(map(loops, Path("/proc").glob("[0-9]*")))
                file.write(f"{time.time()},{8.0 if busy else 3.0}\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield PowerLog(path, patience=20.0)
    finally:
        done.set()
        thread.join()


def test_energy_there_by_an_external_meter(sshd: Sshd, tmp_path: Path) -> None:
    bench = pi(sshd)
    bench.protocol = Protocol(seconds=1.0, windows=2, most=2, layer_seconds=1.0)
    asked = model(tmp_path)
    with meter(tmp_path / "m.csv", sshd) as bench.power_log:
        found = bench.energy(asked)
        assert found is not None and (found.sensor, found.windows) == ("csv", 2)
        assert found.power_mw == pytest.approx(8000, rel=0.05) and found.idle_mw == pytest.approx(3000, rel=0.1)
        assert found.net_mj is not None and found.net_mj == pytest.approx(found.total_mj * 5 / 8, rel=0.1)
        layers = measured(bench, asked, found.net_mj, Silent()).layers
    assert [one.op for one in layers] == ["Conv"] and layers[0].mj == pytest.approx(found.net_mj)
    assert nothing_left(sshd)


def test_a_counter_that_stands_still_is_no_measurement(sshd: Sshd, tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / f"sys/class/powercap/intel-rapl:{number}"
        folder.mkdir(parents=True)
        for name, content in (("name", f"package-{number}"), ("energy_uj", 5), ("max_energy_range_uj", 1000)):
            (folder / name).write_text(f"{content}\n")
    bench = pi(sshd, root=str(tmp_path))
    bench.board = bench.board.model_copy(update={"power": boards.Power(sensor="rapl")})
    bench.protocol = Protocol(seconds=0.4, windows=2, most=2)
    assert bench.energy(model(tmp_path)) is None
    assert bench.complete(bench.measure({"a": model(tmp_path)})["a"], model(tmp_path)).energy_source == "unavailable"


def test_no_sensor_is_no_energy(sshd: Sshd, tmp_path: Path) -> None:
    assert pi(sshd, root=str(tmp_path)).energy(model(tmp_path)) is None
    partly = rails(tmp_path / "part", {"GPU": (5000, 400), "CPU": (5000, 400)})
    assert jetson(sshd, root=partly).energy(model(tmp_path)) is None  # two rails are not the whole
    assert nothing_left(sshd)


def test_benches_by_target(sshd: Sshd) -> None:
    assert type(opened(bench_for(boards.load("host-cpu")))).__name__ == "Here"
    assert type(opened(bench_for(boards.load("jetson-xavier")))).__name__ == "Estimate"
    assert isinstance(opened(bench_for(boards.load("jetson-xavier"), url=sshd.url)), TrtexecBoard)
    assert isinstance(opened(bench_for(boards.load("raspberry-pi-4"), url=sshd.url)), OnnxRuntimeBoard)
    for target in ("host-cpu", "rtx"):
        with pytest.raises(BadOption, match=f"--board is for a target that is another machine; {target} is not"):
            bench_for(boards.load(target), url=sshd.url)


def test_a_bench_takes_its_files_away(tmp_path: Path) -> None:
    bench = bench_for(boards.load("host-cpu"))
    bench.emit(model(tmp_path))
    scratch = Path(bench._scratch.name)
    assert stat.S_ISDIR(scratch.stat().st_mode) and any(scratch.iterdir())
    bench.close()
    assert not scratch.exists()


def test_an_estimate_says_so(tmp_path: Path) -> None:
    bench = opened(bench_for(boards.load("jetson-xavier")))
    found = bench.measure({"one": model(tmp_path, QDQ), "two": model(tmp_path, PLAIN, name="b")})
    assert {m.source for m in found.values()} == {"estimated"}
    assert found["one"].conditions["method"] == "roofline"
    assert found["one"].latency_ms is not None and found["one"].latency_ms.p99 is None
    with bench.open(model(tmp_path)) as runner:
        assert next(iter(runner({"input": np.zeros((1, 2, 4, 4), np.float32)}).values())).shape == (1, 2, 4, 4)
    assert sum(layer.share for layer in bench.layer_times(model(tmp_path))) == pytest.approx(1.0)
    blank = bench.board.model_copy(update={"tera_ops": {}})
    bench.board = blank
    assert bench.measure({"one": model(tmp_path)})["one"].source == "unavailable"

"""Latency tables of TensorRT boards: a stand-in for trtexec (SYNTHETIC) behind a real sshd; its times go by weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from loopback import Sshd, real, tools
from onnx import numpy_helper, parser

from edgeprune.benches import tabulate
from edgeprune.benches.trtexec_board import TrtexecBoard
from edgeprune.compiler import tabling
from edgeprune.errors import UnmetRequirement
from edgeprune.model import ModelSpec, OnnxModel
from edgeprune.passes.base import Silent
from edgeprune.profiles import board as boards
from edgeprune.profiles.latency_table import Facts, LatencyTable
from edgeprune.profiles.measure import Plan

pytestmark = real
NET = """<ir_version: 7, opset_import: ["" : 13]>
net (float[1, 3, 8, 8] input) => (float[1, 4, 8, 8] output)
<float s = {0.1}, int8 z = {0}, float[4] ws = {0.02, 0.03, 0.02, 0.03}, int8[4] wz = {0, 0, 0, 0},
 float[4, 3, 3, 3] w0, float[4, 4, 3, 3] w1>
{
    [stem] a = Conv<pads = [1, 1, 1, 1]>(input, w0)
    [act] b = Relu(a)
    [b_q] q = QuantizeLinear(b, s, z)
    [b_dq] d = DequantizeLinear(q, s, z)
    [w_q] wq = QuantizeLinear<axis = 0>(w1, ws, wz)
    [w_dq] wd = DequantizeLinear<axis = 0>(wq, ws, wz)
    [block] c = Conv<pads = [1, 1, 1, 1]>(d, wd)
    [skip] e = Add(c, b)
    [last] output = Relu(e)
}"""


def network(path: Path) -> Path:
    proto = parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), info.name))
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return path


def test_a_table_is_filled_by_trtexec_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulate, "_SITTINGS", 1)
    monkeypatch.setattr(tabulate, "_CHAINS", (16,))
    monkeypatch.setattr(tabulate, "_CALIBRATION", Plan(rounds=1))
    monkeypatch.setattr(tabulate, "_SHORT", Plan(rounds=1))
    monkeypatch.setattr(tabling, "grid", lambda unit: ((unit.outputs,), (unit.inputs,)))
    (tmp_path / "bin").mkdir()
    server = Sshd(tmp_path / "sshd", path=tools(tmp_path / "bin", "8.5.2"))
    server.start()
    bench = TrtexecBoard(boards.load("jetson-xavier"), server.board, owner="me", cache=tmp_path / "cache")
    bench.plan, bench.seconds = Plan(rounds=1), 0.2
    try:
        path = network(tmp_path / "net.onnx")
        model, table = OnnxModel(path, ModelSpec((1, 3, 8, 8))), tabling.open_table(tmp_path / "t.json", bench)
        assert (table.facts.board, table.facts.runtime) == (server.board.name, "tensorrt")
        found = tabling.units_of(model)
        forms = ["Conv 3x3/1 8x8 fp32 Relu", "Conv 3x3/1 8x8 int8 Add Relu"]
        assert [unit.form.split(" #")[0] for unit in found] == forms
        assert tabling.extend(table, tmp_path / "t.json", bench, model, found, Silent()) == 2
        stem, block = (table.forms[unit.form].points[0][2] for unit in found)
        assert block / stem == pytest.approx(((144 / 16) ** 0.5 + 1) / (108 / 16) ** 0.5, rel=0.15)
        [told] = tabulate.check(table, bench, {"net": (model, found)})
        assert abs(told.error) < 0.15
    finally:
        bench.close()
        server.stop()


def test_where_fp16_is_told_by_a_flag_for_all_of_a_graph_no_table_is_made() -> None:
    bench: Any = SimpleNamespace(board=boards.load("jetson-xavier"))
    unit: Any = SimpleNamespace(form="Conv 3x3/1 8x8 fp16 Relu #123456")
    table = LatencyTable(Facts(board="b", runtime="tensorrt", version=None, processor=None, threads=1))
    with pytest.raises(UnmetRequirement, match="no latency table can be made of an fp16 graph on jetson-xavier"):
        tabulate.fill(table, bench, bench, [unit], [], lambda: None, Silent())

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.compiler import estimates
from edgeprune.compiler.inspect import inspect_model
from edgeprune.compiler.request import Request
from edgeprune.errors import BadModel
from edgeprune.passes.base import Silent


def test_every_group_has_a_row_with_its_share_or_its_reason(at: Path) -> None:
    request = Request(model=Path("net.safetensors"), arch="net.py:net", input_shape=(1, 3, 12, 12))
    found = inspect_model(request, Silent())
    rows = {row.group: row for row in found.rows}
    assert found.name == "net.py:net"
    assert found.macs == pytest.approx(12 * 12 * 16 * 9 * (3 + 16 + 16) + 36 * 32 * 16 * 9 + 32 * 3)
    assert 0 < found.least_macs < 0.1 * found.macs
    assert rows["block.conv1"].dropped_block == "block"
    assert rows["down"].ladder[0] == rows["down"].channels == rows["down"].kept == 32
    assert rows["fc"].ladder == (3,)
    assert "the model's outputs" in rows["fc"].reason
    assert all(row.reason == "" for name, row in rows.items() if len(row.ladder) > 1)
    assert all(0 < (row.macs_share or 0) <= 1 for row in rows.values())
    assert found.notes == ()
    assert set(found.estimates.latency_ms.values()) == {None}, "host-cpu's file tells no peaks"
    assert all(row.latency_share is None and 0 < (row.energy_share or 0) <= 1 for row in found.rows)
    assert found.target.board.name == "host-cpu" and found.target.versions["onnxruntime"]


def test_where_the_target_tells_its_peaks_latency_is_estimated_by_precision_and_group(at: Path) -> None:
    asked = {"model": Path("net.safetensors"), "arch": "net.py:net", "input_shape": (1, 3, 12, 12)}
    found = inspect_model(Request(target="jetson-orin", **asked), Silent())
    told = found.estimates
    assert list(told.latency_ms) == list(found.target.board.precisions) and told.shares_of == "fp32"
    assert all(ms is not None and 0 < ms < 1 for ms in told.latency_ms.values())
    rows = {row.group: row for row in found.rows}
    assert all(0 < (row.latency_share or 0) <= 1 for row in found.rows)
    assert (rows["block.conv1"].latency_share or 0) > (rows["fc"].latency_share or 0)
    raw = found.to_json()
    assert raw["latency_ms"]["fp32"] == {"estimated": told.latency_ms["fp32"], "method": "roofline"}
    assert raw["energy_mj"]["estimated"] == told.energy_mj and raw["target"]["versions"] == {"tensorrt": "10.3.0"}


def test_what_cannot_be_exported_is_not_estimated_and_says_why(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*asked: object) -> None:
        raise BadModel("no such operator")

    monkeypatch.setattr(estimates, "_exported", refused)
    request = Request(model=Path("net.safetensors"), arch="net.py:net", input_shape=(1, 3, 12, 12))
    found = inspect_model(request, Silent())
    assert found.notes == ("nothing could be estimated: no such operator",)
    assert found.estimates.energy_mj is None and {row.energy_share for row in found.rows} == {None}
    assert found.rows[0].macs_share

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.compiler.inspect import inspect_model
from edgeprune.compiler.request import Request
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

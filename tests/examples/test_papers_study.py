"""The study of the papers runs from weights to its table, and says what its rows say."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

FOLDER = Path(__file__).parents[2] / "examples" / "papers"


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("study")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("study", "curves"):
            sys.modules.pop(name, None)


def test_weights_become_a_table_beside_the_claims(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    tiny.write_inputs(tmp_path)
    out = tmp_path / "out"
    asked = [str(tmp_path / "net.safetensors"), "--arch", f"{tmp_path / 'net.py'}:net", "--data",
             str(tmp_path / "data.npz"), "--presets", "akperl", "--max-macs", "0.6x", "--evaluations", "24",
             "--epochs", "0", "--episodes", "40", "--out", str(out)]  # fmt: skip
    assert study.main(asked) == 0
    (row,) = json.loads((out / "rows.json").read_text())
    report = json.loads((out / "akperl" / "report.json").read_text())
    assert (row["preset"], row["agent"]) == ("akperl", "dqn") and row["gain"] is not None
    assert row["macs"] <= 0.6 and 0 < row["energy"] < 1 and row["evaluations"] <= 24
    assert row["episodes"] == sum(one["episodes"] for one in report["search"]["learning"]) >= 40
    assert row["score"] == report["result"]["score"]["value"]
    assert row["plan"].keys() == {one["group"] for one in report["plan"]}
    assert (out / "curves.svg").read_text().startswith("<?xml")
    cold = dataclasses.replace(study.Row(**row), preset="depgraphrl-paper", gain=None, energy=None, drop_interval=None)
    lines = study.markdown([study.Row(**row), cold]).splitlines()
    assert (out / "table.md").read_text().splitlines() == lines[:3]
    assert lines[2].endswith(f"| {study.CLAIMS['akperl']} |") and " | – | " in lines[3]
    assert lines[3].endswith(f"| no warm start | {study.CLAIMS['depgraphrl']} |")


def test_what_cannot_be_read_is_one_sentence(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main([str(tmp_path / "m.pt"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")

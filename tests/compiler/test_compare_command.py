"""`edgeprune compare` as a command: killed and gone on with, what it prints, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner, Result
from comparing import COMMAND, compared
from networks import toy

import edgeprune
from edgeprune.cli import main
from edgeprune.compiler.comparison_report import Comparison
from edgeprune.errors import BadOption, Infeasible, UnmetRequirement
from edgeprune.tasks.classification import Classification

TESTS = Path(tiny.__file__).parent


def test_killed_comparisons_go_on_where_they_were(inputs: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.touch()
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "EDGEPRUNE_CACHE": str(tmp_path / "cache"), "TINY_EVENTS": str(events),
                   "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [sys.executable, tiny.__file__, *COMMAND, "--agents", "random,greedy", "--epochs", "1", "--out",
               str(tmp_path / "c"), "--json"]  # fmt: skip

    def start(**more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(command, cwd=inputs, env={**environment, **more}, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)  # fmt: skip

    def finished() -> list[Path]:
        return sorted((tmp_path / "c" / "cells").glob("*.json"))

    with start() as process:  # into the second cell
        until = time.monotonic() + 120
        while not finished() or len(events.read_text().splitlines()) < 16:
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = {path: path.read_bytes() for path in finished()}
    assert 1 <= len(kept) < 4 and not (tmp_path / "c" / "compare.json").exists()

    with start(TINY_INTERRUPT="epoch") as process:
        said, complained = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")
    assert complained.splitlines()[-1] == "interrupted; run the same command again to resume"

    with start() as process:
        said, complained = process.communicate(timeout=120)
    assert process.returncode == 0, complained
    assert {path: path.read_bytes() for path in kept} == kept, "a finished cell is not run again"
    done = Counter(events.read_text().splitlines())
    assert [line for line, times in done.items() if times > 1] == [], "nor is a finished evaluation or epoch"
    resumed = Comparison.from_json(said)
    undisturbed = _within(inputs, tmp_path)
    assert [c.model_dump(exclude={"key", "seconds", "journalled"}) for c in resumed.cells] == [
        c.model_dump(exclude={"key", "seconds", "journalled"}) for c in undisturbed.cells
    ]
    assert resumed.rows == undisturbed.rows


def _within(inputs: Path, folder: Path) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inputs)
        patch.setenv("EDGEPRUNE_CACHE", str(folder / "another-cache"))
        patch.setattr(os, "sched_getaffinity", lambda process: {0})
        return compared(agents=("random", "greedy"), epochs=1, out=folder / "undisturbed")


# --- the command line, and what is refused ----------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*COMMAND, *arguments])


def test_the_command_prints_tables_or_json(at: Path, tmp_path: Path) -> None:
    shown = run("--agents", "random,uniform", "--out", str(tmp_path / "c"))
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("at most 0.3x MACs") and f"comparison: {tmp_path}" in shown.stdout.replace("\n", "")
    told = run("--agents", "random,uniform", "--out", str(tmp_path / "c"), "--json")
    assert Comparison.from_json(told.stdout).to_json() == (tmp_path / "c" / "compare.json").read_text()
    assert run("--agents", "random,uniform", "--out", str(tmp_path / "c"), "--quiet").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--agents", "random,evolutoin"), 2, "unknown agent 'evolutoin'; did you mean 'evolution'?"),
        (("--agents", ","), 2, "nothing to compare: give --agents and a ceiling"),
        (("--agents", "random,random"), 2, "agent 'random' is named twice"),
        (("--max-macs", "0.0001x"), 3, "is out of reach: the smallest reachable is"),
        (("--max-macs", "0.30x"), 2, "a budget is given twice"),
        (("--set", "agent.lowest=1", "--agents", "random"), 2, "none of these agents has an option 'lowest'"),
        (("--set", "quantize.precision=int8"), 2, "a comparison has no 'quantize' to set"),
        (("--set", "export.opset=18"), 2, "export.… has no say in a comparison that times nothing; give --measure or"),
        (("--set", "finetune.lr=0.1"), 2, "finetune.… has no say in a comparison that trains nothing; give --epochs"),
        (("--ablation", "no-distillation"), 2, "is about fine-tuning; give --epochs"),
        (("--ablation", "no-search"), 2, "'no-search' is not one of"),
        (("--max-macs", "half"), 2, "--max-macs 'half' is not understood"),
        (("--seeds", "0"), 2, "0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    def none(*_: Any) -> Any:
        raise AssertionError("scored")

    monkeypatch.setattr(Classification, "score", none)
    result = run(*arguments, "--out", str(tmp_path / "c"))
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (code, True), result.stderr
    assert not (tmp_path / "c").exists()


def test_without_data_or_a_model_there_is_nothing_to_compare(at: Path, tmp_path: Path) -> None:
    with pytest.raises(UnmetRequirement, match="a comparison needs data to score plans by; give --data"):
        edgeprune.compare(toy("Residual"), out=tmp_path / "c", input_shape=(1, 3, 16, 16))
    assert CliRunner().invoke(main, ["compare", "--out", "c"]).exit_code == 2
    with pytest.raises(BadOption, match="compare has no option 'evaluation'"):
        compared(out=tmp_path / "c", evaluation=3)
    with pytest.raises(Infeasible):
        compared(out=tmp_path / "c", max_parameters="0.0001x")


def test_ceilings_make_every_pair(at: Path, tmp_path: Path) -> None:
    report = compared(out=tmp_path / "c", agents=("uniform",), seeds=1, max_macs=("0.6x", "0.5x"),
                      max_parameters="0.6x")  # fmt: skip
    assert [b.label for b in report.budgets] == ["0.6x MACs, 0.6x parameters", "0.5x MACs, 0.6x parameters"]
    assert all(c.parameters <= 0.6 * report.dense.parameters for c in report.cells)

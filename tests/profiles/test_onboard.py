"""What runs on the board: old Python's syntax, its standard library, and the figures it brings back."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from qdq_graphs import PLAIN, graph, run

from edgeprune.profiles import onboard

FILE = Path(onboard.__file__)
FOUND_ON_BOARDS = {"numpy", "onnxruntime"}


def ask(*arguments: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-I", str(FILE), *arguments], capture_output=True, text=True, check=True, cwd=folder
    )
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])


def test_it_is_python_3_6_and_imports_the_standard_library_alone() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 6))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == FOUND_ON_BOARDS
    later = {"capture_output", "text"}  # keywords of subprocess.run since 3.7
    assert not later & {k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}


def test_models_are_timed_in_turns(tmp_path: Path) -> None:
    onnx.save(graph(PLAIN), tmp_path / "a.onnx")
    asked = {"models": {"a": "a.onnx", "b": "a.onnx"}, "threads": 1, "rounds": 3, "seconds": 0.001, "warmup": 3}
    found = ask("time", json.dumps(asked), folder=tmp_path)
    assert set(found["times"]) == {"a", "b"} and found["onnxruntime"] and found["python"].startswith("3.")
    assert found["stolen"] is None or found["stolen"] >= 0
    for rounds in found["times"].values():
        assert len(rounds) == 3 and {len(r) for r in rounds} == {len(rounds[0])} and len(rounds[0]) >= 2
        assert all(0 < ms < 1000 for r in rounds for ms in r)


def test_it_times_layers_and_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(graph(PLAIN), tmp_path / "a.onnx")
    asked = {"model": "a.onnx", "threads": 1, "runs": 7, "prefix": "profile"}
    [(name, operator, times)] = [
        one for one in ask("layers", json.dumps(asked), folder=tmp_path)["layers"] if "Conv" in one[1]
    ]
    assert name and operator == "Conv"
    assert len(times) == 7 and all(0 <= ms < 1000 for ms in times)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("count", [1, 3])
def test_it_predicts_what_the_host_does(tmp_path: Path, count: int) -> None:
    proto = graph(PLAIN)
    onnx.save(proto, tmp_path / "a.onnx")
    images = np.random.default_rng(1).normal(size=(count, 2, 4, 4)).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    asked = {"model": "a.onnx", "threads": 1, "images": "in.npy", "outputs": "out.npy"}
    assert ask("predict", json.dumps(asked), folder=tmp_path) == {"images": count}
    found = np.load(tmp_path / "out.npy")
    assert found.shape == images.shape
    np.testing.assert_allclose(found[0], run(proto, images[:1])[0], rtol=1e-5)


def test_an_unknown_command(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ask("rm", folder=tmp_path)
    assert caught.value.stderr == "usage: onboard.py time|loop|layers|predict JSON\n"

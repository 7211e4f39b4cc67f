"""Data flows one way, heavy packages have one owner, starting is light, and the public names exist."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeprune
from edgeprune import find
from edgeprune.compiler.cache import PACKAGES

PACKAGE = Path(edgeprune.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"errors", "budget", "report", "find", "files", "memory", "", "__version__"},
    {"model", "threads"},
    {"groups", "tally", "surgery", "importance", "operators", "trials", "tracing", "recalibration", "reconstruction"}
    | {"activations", "masks", "layers", "mixed", "rounding", "profiles", "tasks", "frontends"},
    {"dialects"},
    {"agents", "backends", "engines"},
    {"passes"},
    {"benches"},
    {"compiler"},
    {"cli"},
    {"__main__"},
)
OWNERS = {
    "click": {"cli/"},
    "torch_pruning": {"tracing.py"},
    "onnx": {"model.py", "passes/", "dialects/", "backends/onnxruntime.py"},
    "onnxruntime": {"model.py", "passes/", "dialects/", "backends/", "profiles/onboard.py"},
    "openvino": {"backends/"},
    "tensorrt_rtx": {"engines/rtx_child.py"},
    "tensorrt": {"engines/tensorrt_api.py"},
    "cuda": {"engines/gpu.py"},
    "pycuda": {"engines/gpu.py"},
    "pynvml": {"profiles/sensors.py"},
    "stable_baselines3": {"agents/"},
    "sb3_contrib": {"agents/"},
    "gymnasium": {"agents/"},
    "sklearn": {"agents/surrogate.py"},
    "threadpoolctl": {"agents/"},
    "jinja2": {"compiler/page.py"},
    "markupsafe": {"compiler/page.py"},
    "matplotlib": {"compiler/page.py", "compiler/comparison_plots.py"},
    "rich": {"compiler/table.py", "compiler/comparison_text.py", "compiler/progress.py"},
    "timm": {"frontends/"},
    "ultralytics": {"frontends/"},
    "torchvision": {"frontends/", "tasks/boxes/"},
    "torchmetrics": {"tasks/boxes/precision.py"},
    "faster_coco_eval": {"tasks/boxes/precision.py"},
    "PIL": {"tasks/"},
    "yaml": {"tasks/boxes/"},
    "ray": {"compiler/ray_pool.py"},
    "psutil": {"profiles/", "backends/", "tasks/", "compiler/"},
    "platformdirs": {"compiler/cache.py"},
}
HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "pydantic", "gymnasium", "rich", "matplotlib", "jinja2", "scipy"}


def imported(path: Path) -> Iterator[str]:
    """Yield the full dotted name of everything a file imports, at any depth, also for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def layer(name: str) -> int:
    for number, members in enumerate(LAYERS):
        if name in members:
            return number
    raise AssertionError(f"{name!r} has no layer yet: decide who may import it and put it into LAYERS")


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(parts(p)))
def test_imports_go_one_way(path: Path) -> None:
    own = parts(path)
    if own == ("__init__",):
        return  # the public names, loaded lazily
    for name in imported(path):
        if name.partition(".")[0] != "edgeprune":
            continue
        other = tuple(name.split(".")[1:]) or ("",)
        assert layer(other[0]) <= layer(own[0]), f"{'/'.join(own)} imports {name}, which lies above it"
        assert {own[0], other[0]} != {"agents", "backends"}, f"{'/'.join(own)} imports {name}"
        if own[0] == other[0] == "passes" and own[1:] != other[1:2]:
            # modules that passes/__init__ does not define are helpers; a pass must not know another pass
            assert other[1].replace("_", "-") not in find.names("passes"), f"{'/'.join(own)} imports the pass {name}"
        assert (own[0], other[0]) != ("passes", "backends"), (
            f"{'/'.join(own)} imports {name}; open and measure are injected"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(parts(p)))
def test_heavy_packages_have_owners(path: Path) -> None:
    here = path.relative_to(PACKAGE).as_posix()
    for name in imported(path):
        owners = OWNERS.get(name.partition(".")[0])
        assert owners is None or any(here == o or (o.endswith("/") and here.startswith(o)) for o in owners), (
            f"{here} imports {name}, which belongs to {sorted(owners)}"
        )


def test_the_rule_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from edgeprune.compiler import driver\n    import click.core\n")
    assert list(imported(bad)) == ["edgeprune.compiler.driver", "click.core"]
    assert layer("compiler") > layer("passes") > layer("agents") > layer("groups") > layer("model") > layer("errors")
    with pytest.raises(AssertionError, match="'utils' has no layer yet"):
        layer("utils")


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_edgeprune_is_light() -> None:
    assert not loaded_by("import edgeprune") & (HEAVY | {"click"})


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compile", "--help"], ["compare", "--help"], ["list", "--help"]], ids=" ".join
)
def test_help_is_light(arguments: list[str]) -> None:
    code = f"from edgeprune.cli import main\nmain({arguments!r}, standalone_mode=False)"
    loaded = loaded_by(code)
    assert "click" in loaded
    assert not loaded & HEAVY


def test_options_are_parsed_before_anything_heavy_loads() -> None:
    call = "main(['compile', 'x.pt', '--max-size', '4'])"
    code = f"from edgeprune.cli import main\ntry: {call}\nexcept SystemExit as end: assert end.code == 2"
    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize("name", edgeprune.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(edgeprune, name) is not None


def test_public_names_and_their_homes_agree() -> None:
    assert set(edgeprune.__all__) == {*edgeprune._HOME, "__version__"}
    assert dir(edgeprune) == sorted(edgeprune.__all__)
    with pytest.raises(AttributeError, match="module 'edgeprune' has no attribute 'compyle'"):
        edgeprune.compyle  # noqa: B018


def test_the_version_is_the_distribution_s() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert edgeprune.__version__ == project["project"]["version"]


def test_a_package_that_decides_what_is_computed_is_in_every_key() -> None:
    telling = {"click", "rich", "jinja2", "markupsafe", "matplotlib", "psutil", "platformdirs", "yaml"}
    spreading = {"ray", "threadpoolctl"}
    asked_by_their_engines = {"tensorrt_rtx", "tensorrt", "cuda", "pycuda", "pynvml"}
    named = {"sklearn": "scikit-learn", "PIL": "pillow"}
    deciding = OWNERS.keys() - telling - spreading - asked_by_their_engines
    assert {named.get(name, name.replace("_", "-")) for name in deciding} <= set(PACKAGES)

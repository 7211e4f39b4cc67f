from __future__ import annotations

import errno
import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from reports import candidates, report

from edgeprune.benches.layer_energy import LayerEnergies, LayerEnergy
from edgeprune.budget import Budget, Limit
from edgeprune.cli import group, main
from edgeprune.compiler.board_facts import facts_of
from edgeprune.compiler.estimates import Estimates
from edgeprune.compiler.inspect import InspectedGroup, Inspection
from edgeprune.compiler.request import Request
from edgeprune.errors import BadModel, Infeasible, MissingPackage
from edgeprune.profiles.latency_table import Check
from edgeprune.report import Report


@dataclass(frozen=True)
class Build:
    report: Report
    directory: Path


@dataclass(frozen=True)
class Layer:
    name: str
    op: str
    ms: float
    share: float


@dataclass(frozen=True)
class Profiled:
    whole: Any
    layers: tuple[Layer, ...]
    table: Check | None = None
    energies: LayerEnergies | None = None


class Driver:
    """Stands in for the compiler: remembers what it was asked for, and answers or raises as it is told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Report | BaseException = report()

    def compile_request(self, request: Request, progress: Any) -> Build:
        self.requests.append(request)
        print("an exporter that talks")
        if isinstance(self.answer, BaseException):
            raise self.answer
        return Build(self.answer, request.out)

    @property
    def request(self) -> Request:
        return self.requests[-1]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    module = types.ModuleType("edgeprune.compiler.driver")
    module.compile_request = driver.compile_request  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeprune.compiler.driver", module)
    return driver


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_nothing_but_a_model_is_needed(driver: Driver) -> None:
    result = run("compile", "weights/r20.safetensors")
    assert result.exit_code == 0
    assert driver.request == Request(model=Path("weights/r20.safetensors"), out=Path("build/r20"))


def test_every_option_reaches_the_request(driver: Driver) -> None:
    result = run(
        "compile",
        "m.pt",
        "--arch",
        "net.py:f",
        "--trust-pickle",
        "--data",
        "d",
        "--task",
        "t.py:T",
        "--input",
        "1x3x32x32",
        "--target",
        "b.toml",
        "--max-accuracy-drop",
        "0.02",
        "--max-latency",
        "0.5x",
        "--board",
        "ssh://pi@board",
        "--power-log",
        "m.csv",
        "--max-energy",
        "60mJ",
        "--max-size",
        "4MB",
        "--max-macs",
        "30M",
        "--max-parameters",
        "0.3x",
        "--agent",
        "a2c",
        "--preset",
        "driving",
        "--evaluations",
        "9",
        "--epochs",
        "0",
        "--effort",
        "long",
        "--precision",
        "int8",
        "--set",
        "finetune.lr=0.01",
        "--set",
        "agent.gamma=1",
        "--recipe",
        "r",
        "--cost",
        "macs",
        "--require-measured",
        "--threads",
        "2",
        "--device",
        "cpu",
        "--seed",
        "7",
        "--out",
        "o",
        "--quiet",
    )
    assert result.exit_code == 0, result.stderr
    assert driver.request == Request(
        model=Path("m.pt"),
        arch="net.py:f",
        trust_pickle=True,
        data=Path("d"),
        task="t.py:T",
        input_shape=(1, 3, 32, 32),
        target="b.toml",
        budget=Budget(0.02, Limit(0.5, True), Limit(60.0), Limit(4e6), Limit(30e6), Limit(0.3, True)),
        board="ssh://pi@board",
        power_log=Path("m.csv"),
        agent="a2c",
        preset="driving",
        evaluations=9,
        epochs=0,
        effort="long",
        precision="int8",
        settings={"finetune": {"lr": "0.01"}, "agent": {"gamma": "1"}},
        recipe=Path("r"),
        cost="macs",
        require_measured=True,
        threads=2,
        device="cpu",
        seed=7,
        out=Path("o"),
    )
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (("m.pt",), "build/m"),
        (("built", "--target", "rtx"), "build/built-rtx"),
        (("--recipe", "built"), "build/built-again"),
        (("built.pt", "--recipe", "built"), "build/built-again"),
    ],
)
def test_a_build_that_is_read_does_not_name_the_one_that_is_written(
    words: tuple[str, ...], out: str, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "built").mkdir()
    run("compile", *words)
    assert driver.request.out == Path(out)


def test_the_summary_goes_to_standard_output_and_chatter_does_not(driver: Driver) -> None:
    result = run("compile", "m.pt", "--out", "o")
    assert result.stdout.startswith("verdict: met")
    assert result.stdout.endswith("build: o\n")
    assert "talks" not in result.stdout
    assert "talks" in result.stderr


def test_json_is_all_there_is_on_standard_output(driver: Driver) -> None:
    assert Report.from_json(run("compile", "m.pt", "--json").stdout) == report()


@pytest.mark.parametrize(("word", "code"), [("met", 0), ("unchecked", 0), ("not-met", 3), ("infeasible", 3)])
def test_the_verdict_is_the_exit_code(driver: Driver, word: str, code: int) -> None:
    driver.answer = report(verdict=word)
    assert run("compile", "m.pt", "--quiet").exit_code == code


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (BadModel("m.pt is empty; export it again"), 2, "error: m.pt is empty; export it again\n"),
        (
            Infeasible("0.1x cannot be reached; the smallest is 0.2x"),
            3,
            "error: 0.1x cannot be reached; the smallest is 0.2x\n",
        ),
        (
            MissingPackage("timm", "timm", "--arch timm:x"),
            4,
            "error: --arch timm:x needs timm; install it with: pip install 'edgeprune[timm]'\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/model.onnx"),
            4,
            "error: out/model.onnx: No space left on device; free some space, mend its permissions or choose another "
            "folder (--out for the build, EDGEPRUNE_CACHE for the cache)\n",
        ),
    ],
)
def test_errors_are_one_sentence_and_a_code(driver: Driver, error: BaseException, code: int, sentence: str) -> None:
    driver.answer = error
    result = run("compile", "m.pt")
    assert result.exit_code == code
    assert result.stderr == "an exporter that talks\n" + sentence
    assert result.stdout == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oh"), OSError(errno.EIO, "Input/output error"), AssertionError("x")]
)
def test_a_bug_shows_its_traceback_and_asks_to_be_reported(driver: Driver, error: Exception) -> None:
    driver.answer = error
    result = run("compile", "m.pt")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("please report it with the lines above and the command you ran\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile"], "nothing to compile: give MODEL, or --arch alone for random weights"),
        (["compile", "m.pt", "--max-macss", "1M"], "--max-macs"),
        (["compile", "m.pt", "--agnt", "ppo"], "--agent"),
        (
            ["compile", "m.pt", "--board", "x"],
            "error: --board 'x' is not understood; give ssh://user@host or ssh://user@host:port",
        ),
        (["compile", "m.pt", "--evaluations", "0"], "0 is not in the range x>=1"),
        (["compile", "m.pt", "--cost", "time"], "'time' is not one of"),
        (
            ["compile", "m.pt", "--max-size", "4"],
            "error: --max-size '4' is not understood; give a share of the original such as 0.5x",
        ),
        (
            ["compile", "m.pt", "--max-accuracy-drop", "1"],
            "error: --max-accuracy-drop is a fraction in [0, 1), such as 0.01",
        ),
        (
            ["compile", "m.pt", "--max-accuracy-drop", "nan"],
            "error: --max-accuracy-drop is a fraction in [0, 1), such as 0.01",
        ),
        (["compile", "m.pt", "--input", "3x32x32"], "error: --input '3x32x32' is not understood; give 1xCxHxW"),
        (["compile", "m.pt", "--set", "lr=1"], "error: --set 'lr=1' is not understood; give PASS.FIELD=VALUE"),
        (
            ["compile", "m.pt", "--config", "no.toml"],
            "error: --config no.toml cannot be read: No such file or directory",
        ),
        (["inspect"], "nothing to inspect: give MODEL"),
        (["compil", "m.pt"], "no such command 'compil'; did you mean 'compile'?"),
        (["zzz"], "no such command 'zzz'; known: compare, compile, inspect, list, profile, verify"),
        (["list", "pases"], "'pases' is not one of"),
        (["verify", "nowhere"], "error: nowhere is not a folder; give a folder that `edgeprune compile` wrote"),
    ],
)
def test_misuse_is_answered_and_exits_2(driver: Driver, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert driver.requests == []


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "edgeprune.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_the_config_file_gives_defaults_and_the_command_line_wins(
    driver: Driver, config: Callable[[str], str]
) -> None:
    path = config(
        '[compile]\nmodel = "m.pt"\nmax-latency = "0.5x"\nseed = 3\ninput = "1x1x28x28"\nrequire-measured = true\n'
        "threads = 2\n[finetune]\nlr = 0.5\nepochs = 2"
    )
    result = run("compile", "--config", path, "--seed", "4", "--set", "finetune.lr=0.1", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert driver.request == Request(
        model=Path("m.pt"),
        budget=Budget(max_latency=Limit(0.5, True)),
        seed=4,
        input_shape=(1, 1, 28, 28),
        threads=2,
        require_measured=True,
        settings={"finetune": {"lr": "0.1", "epochs": "2"}},
        out=Path("build/m"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[compile]\nmax-latnecy = '1ms'", "[compile] has no option 'max-latnecy'; did you mean 'max-latency'?"),
        ("[compile]\nset = 'a.b=1'", "[compile] has no option 'set'"),
        ("[compile]\nmax-size = 4", "--max-size '4' is not understood"),
        ("[compile]\nepochs = 2.5", "'2.5' is not a valid integer"),
        ("[finetunes]\nlr = 1", "unknown table [finetunes]; did you mean 'finetune'?"),
        (
            "[compile]\narch = 'net.py:f'",
            "asks to run code; repeat --arch net.py:f on the command line to allow it",
        ),
        (
            "[compile]\ntask = 'net.py:T'",
            "asks to run code; repeat --task net.py:T on the command line to allow it",
        ),
        (
            "[compile]\ntrust-pickle = true",
            "asks to run code; repeat --trust-pickle on the command line to allow it",
        ),
    ],
)
def test_a_wrong_config_file_is_refused(
    driver: Driver, config: Callable[[str], str], text: str, message: str
) -> None:
    result = run("compile", "m.pt", "--config", config(text))
    assert result.exit_code == 2
    assert message in result.stderr
    assert driver.requests == []


def test_code_in_a_config_file_counts_when_it_is_repeated(driver: Driver, config: Callable[[str], str]) -> None:
    path = config("[compile]\narch = 'net.py:f'\ntrust-pickle = false")
    assert run("compile", "m.pt", "--config", path, "--arch", "net.py:f", "--quiet").exit_code == 0
    assert driver.request.arch == "net.py:f"


def test_help_teaches() -> None:
    text = run("compile", "--help").stdout
    for part in (
        "Budget:",
        "Search:",
        "Target:",
        "Output:",
        "Examples:",
        "Exit codes:",
        "[default: 0.01]",
        "12ms|0.5x",
        "ppo",
        "--preset akperl",
    ):
        assert part in text
    assert "RANGE" not in text
    assert run("--version").stdout.startswith("edgeprune, version ")


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("passes", "finetune"),
        ("agents", "ppo"),
        ("backends", "onnxruntime"),
        ("boards", "host-cpu"),
        ("criteria", "l1"),
        ("tasks", "classification"),
        ("presets", "depgraphrl-paper"),
    ],
)
def test_lists_have_a_line_about_everything(what: str, name: str) -> None:
    result = run("list", what)
    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines[name]


def test_every_command_keeps_the_memory_that_it_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(group, "keep_freed", lambda: kept.append(True))
    assert CliRunner().invoke(main, ["list", "agents"]).exit_code == 0 and kept == [True]


def test_the_schema_of_the_report_is_json() -> None:
    assert json.loads(run("list", "schema").stdout)["properties"]["verdict"]


def test_inspect_shows_groups_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        InspectedGroup(
            group="conv1", channels=16, kept=16, ladder=(16,), macs_share=0.1, reason="locked: [tied] to the output"
        ),
        InspectedGroup(group="l.conv1", channels=32, kept=32, ladder=(32, 16), macs_share=0.9, dropped_block="l",
                       latency_share=0.25, energy_share=0.5),
    )  # fmt: skip
    module = types.ModuleType("edgeprune.compiler.inspect")
    told = Estimates({"fp32": 1.25, "int8": None}, 0.5, "fp32", ({"latency": 0.25, "energy": 0.5},) * 2)
    answer = Inspection("r20", 269_000, 40.8e6, 5e6, rows, (), facts_of("raspberry-pi-4"), told)
    module.inspect_model = lambda request, progress: answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = " ".join(run("inspect", "m.pt").stdout.split())
    assert text.startswith("target raspberry-pi-4: ") and "dialect" not in text, "whole only if asked for"
    assert "r20: 269 k parameters, 40.8 M MACs, of which pruning must leave 5 M estimated latency: fp32 1.25 ms" in text
    assert "estimated energy: 0.5 mJ in fp32" in text
    assert "32 16 90.00 % 25.00 % 50.00 % may drop l" in text and "16 – 10.00 % – – locked" in text
    assert "dialect" in run("inspect", "m.pt", "--target", "raspberry-pi-4").stdout
    raw = json.loads(run("inspect", "m.pt", "--json").stdout)
    assert raw["macs"] == 40.8e6
    assert raw["rows"][1]["ladder"] == [32, 16] and raw["rows"][1]["latency_share"] == 0.25
    assert raw["latency_ms"] == {"fp32": {"estimated": 1.25, "method": "roofline"},
                                 "int8": {"estimated": None, "method": "roofline"}}  # fmt: skip
    assert raw["target"]["power"]["sensor"] == "none" and raw["target"]["versions"] == {"onnxruntime": None}


def test_inspect_shows_a_target_alone() -> None:
    text = " ".join(run("inspect", "--target", "jetson-nano").stdout.split())
    for told in ("runtime tensorrt 8.2.1 there", "precisions fp32, fp16 channels", "0.472 TOPS in fp16",
                 "4 GiB, 25.6 GB/s", "ina3221, rails POM_5V_IN", "the whole is POM_5V_IN; modes MAXN, 5W",
                 "opset up to 13, IR up to 7, typing weak"):  # fmt: skip
        assert told in text, told
    raw = json.loads(run("inspect", "--target", "jetson-nano", "--json").stdout)
    assert raw["channel_multiples"] == {"fp32": 8, "fp16": 8} and raw["versions"] == {"tensorrt": "8.2.1"}
    assert "did you mean 'jetson-nano'?" in run("inspect", "--target", "jetson-nanu").stderr


def test_profile_shows_percentiles_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("edgeprune.compiler.profile")
    told = Check(name="m.onnx", predicted_ms=1.1, measured_ms=1.0)
    answer = Profiled(candidates()[0], (Layer("conv1", "Conv", 0.2, 0.25),), told)
    module.profile_artifact = lambda *asked: answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = " ".join(run("profile", "m.onnx").stdout.split())
    assert "p50 0.812 ms, p90 0.861 ms, p99 1.06 ms (measured, 600 runs)" in text
    assert "conv1 Conv 0.2 ms 25.00 %" in text
    assert "t.json predicts 1.1 ms at its own pace, at which 1 ms were measured (+10.0 %)" in " ".join(
        run("profile", "m.onnx", "--table", "t.json").stdout.split()
    )
    raw = json.loads(run("profile", "m.onnx", "--json").stdout)
    assert raw["layers"][0]["op"] == "Conv"
    assert raw["table"] == {"name": "m.onnx", "predicted_ms": 1.1, "measured_ms": 1.0, "error": pytest.approx(0.1)}


def test_profile_shows_the_energy_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("edgeprune.compiler.profile")
    rows = (LayerEnergy("conv1", "Conv", 0.6, 0.75, "measured", "window"),
            LayerEnergy("pool", "MaxPool", 0.2, 0.25, "measured", "time"))  # fmt: skip
    answer = Profiled(candidates()[0], (), energies=LayerEnergies(rows, 0.8, "net", 1.1))
    asked: list[Any] = []
    module.profile_artifact = lambda *given: asked.append(given) or answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = " ".join(run("profile", "m.onnx", "--layer-energy", "--power-log", "m.csv").stdout.split())
    assert asked[0][7:9] == (Path("m.csv"), True)
    assert (
        "energy of layers: 0.8 mJ in all (net of the idle board, measured); scaled from 1.1 mJ by windows of their own"
    ) in text
    assert "conv1 Conv 0.6 mJ 75.00 % measured pool MaxPool 0.2 mJ 25.00 % measured, by its share of time" in text
    raw = json.loads(run("profile", "m.onnx", "--layer-energy", "--json").stdout)["layer_energy"]
    assert (raw["whole_mj"], raw["part"], raw["alone_mj"]) == (0.8, "net", 1.1)
    assert raw["layers"][1] == {
        "name": "pool", "op": "MaxPool", "mj": 0.2, "share": 0.25, "source": "measured", "by": "time",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["compile", "profile"])
@pytest.mark.parametrize("energy", ["theoretical", "theoretical-published", "two-point"])
def test_an_external_meter_and_another_way_exclude_each_other(command: str, energy: str) -> None:
    result = run(command, "m.onnx", "--energy", energy, "--power-log", "m.csv")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"error: --power-log is an external meter's; it has no say with --energy {energy}, so leave one out"
    )


@pytest.mark.parametrize(("codes", "code"), [([0, 0], 0), ([0, 3], 3), ([3, 2, 0], 2)])
def test_verify_exits_by_its_worst_finding(monkeypatch: pytest.MonkeyPatch, codes: list[int], code: int) -> None:
    from edgeprune.compiler.verify import Finding

    findings = [Finding(f"part {k}", "is so", k) for k in codes]
    monkeypatch.setattr("edgeprune.compiler.verify.verify", lambda directory, progress: findings)
    result = run("verify", "d")
    assert result.exit_code == code
    assert result.stdout.splitlines()[0] == f"{'ok  ' if codes[0] == 0 else 'FAIL'}  part {codes[0]}: is so"
    assert [f["exit_code"] for f in json.loads(run("verify", "d", "--json").stdout)] == codes


def test_a_real_process_refuses_cleanly_and_survives_a_closed_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgeprune"]
    done = subprocess.run(
        [*command, "compile", "m.pt", "--max-macs", "much"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --max-macs 'much' is not understood")
    with subprocess.Popen([*command, "list", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_help_of_effort_tells_the_counts_that_are_used() -> None:
    from edgeprune.compiler.toolbox import EVALUATIONS, HALVING
    from edgeprune.tasks.classification import Classification
    from edgeprune.tasks.detection import Detection

    told = (
        "Counts, never a clock: {}, {} or {} epochs ({}, {} or {} for detectors) and {}, {} or {} evaluations"
    ).format(*Classification.epochs.values(), *Detection.epochs.values(), *(least for least, _ in EVALUATIONS.values()))
    shown = " ".join(CliRunner().invoke(main, ["compile", "--help"]).output.split())
    assert told in shown and "long also tells its best plans apart by short training" in shown
    assert [effort for effort, epochs in HALVING.items() if epochs] == ["long"]

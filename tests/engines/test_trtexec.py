"""trtexec: each version gets only flags it has, and the files of each are read. The files are synthetic, written after
NVIDIA/TensorRT's sampleReporting.cpp; none comes from a board.
"""

import json
from typing import Any

import pytest

from edgeprune.engines.base import EngineLayer
from edgeprune.engines.trtexec import (
    Trtexec,
    Version,
    instability,
    parse_layers,
    parse_profile,
    parse_times,
    passed,
    seconds_of_build,
    version_of,
)
from edgeprune.errors import BadModel

PATH = "/usr/src/tensorrt/bin/trtexec"
VERSIONS: tuple[Version, ...] = ((8, 2, 1), (8, 5, 2), (8, 6, 1), (10, 3, 0), (11, 1, 0))
HAVE = {
    "--workspace": lambda v: v < (10,),
    "--memPoolSize": lambda v: v >= (8, 4),
    "--buildOnly": lambda v: v < (10,),
    "--skipInference": lambda v: v >= (8, 6),
    "--fp16": lambda v: v < (11,),
    "--int8": lambda v: v < (11,),
    "--bf16": lambda v: (10,) <= v < (11,),
    "--noDataTransfers": lambda v: v < (11,),
    "--noCudaGraph": lambda v: v >= (11,),
}
"""Which version has which flag, where not all have it."""


@pytest.mark.parametrize("version", VERSIONS, ids=str)
def test_each_version_is_given_only_flags_that_it_has(version: Version) -> None:
    tool = Trtexec(PATH, version)
    precisions = ["fp32", "fp16", "int8"] + (["bf16"] if version >= (10,) else [])
    commands = [
        tool.build("m.onnx", "m.plan", precisions, 512, "l.json"), tool.time("m.plan", "t.json", 10, 500),
        tool.profile("m.plan", "p.json", 5), tool.infer("m.plan", "input", "in.bin", "out.json"),
    ]  # fmt: skip
    for command in commands:
        assert command[0] == PATH
        for flag in (word.partition("=")[0] for word in command[1:]):
            assert flag.startswith("--") and HAVE.get(flag, lambda v: True)(version), (flag, version)
    built = commands[0]
    assert ("--fp16" in built, "--int8" in built) == (version < (11,),) * 2
    assert ("--skipInference" in built) != ("--buildOnly" in built)
    assert any("512" in word for word in built)


def test_precisions_that_were_not_asked_for_are_not_allowed() -> None:
    command = Trtexec(PATH, (8, 5, 2)).build("m.onnx", "m.plan", ["fp32", "fp16"], 512, "l.json")
    assert "--fp16" in command and "--int8" not in command


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("[I] TensorRT version: 8001\n", (8, 0, 1)),
        ("[04/14/2026-01:36:48] [I] TensorRT version: 8201", (8, 2, 1)),
        ("[I] TensorRT version: 8.5.0", (8, 5, 0)),
        ("x\n[I] TensorRT version: 10.13.0\ny", (10, 13, 0)),
        ("[I] TensorRT version: 101600", (10, 16, 0)),
    ],
)
def test_versions_old_and_new(text: str, version: Version) -> None:
    assert version_of(text) == version


def test_what_is_no_trtexec() -> None:
    with pytest.raises(BadModel, match="did not say its version"):
        version_of("bash: trtexec: command not found")


PASSED = "[I] Engine built in 12.5 sec.\n[W] * GPU compute time is unstable, with coefficient of variance = 7.5%.\n" \
    "[I]\n&&&& PASSED TensorRT.trtexec [TensorRT v8502] # trtexec --onnx=m.onnx\n"  # fmt: skip


def test_success_is_the_exit_code_and_the_last_word() -> None:
    passed(0, PASSED)
    assert seconds_of_build(PASSED) == 12.5 and instability(PASSED) == 0.075
    assert seconds_of_build("") is None and instability("") is None
    failed = (
        "[09/09/2026-00:00:00] [E] Error[4]: bad node\n[E] Engine could not be created from network\n&&&& FAILED x\n"
    )
    with pytest.raises(BadModel) as caught:
        passed(1, failed)
    assert str(caught.value) == (
        "trtexec failed (exit code 1): Error[4]: bad node; Engine could not be created from network"
    )
    with pytest.raises(BadModel, match=r"exit code 0\): it was killed$"):
        passed(0, "it was killed")
    with pytest.raises(BadModel, match="exit code 137"):
        passed(137, PASSED)
    with pytest.raises(BadModel, match=r"exit code 139\): Segmentation fault$"):
        passed(139, "[I] reading\nSegmentation fault\n\n")
    with pytest.raises(BadModel, match=r"exit code 1\): it said nothing$"):
        passed(1, " \n")


def run(start: float, took: float, **more: float) -> dict[str, float]:
    return {"startComputeMs": start, "endComputeMs": start + took, "computeMs": took, "latencyMs": took + 1, **more}


def test_8_2_lists_the_runs_of_the_warm_up_too() -> None:
    old = [run(t, 2.0 + t / 1000, endToEndMs=9.0) for t in (0.0, 499.0, 500.0, 900.0)]
    assert parse_times(json.dumps(old), 500) == [2.5, 2.9]
    new = [run(t, 2.0 + t / 1000) for t in (0.0, 499.0)]
    assert parse_times(json.dumps(new), 500) == [2.0, 2.499]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "trtexec timed no run after its warm-up"),
        ("[{}]", "trtexec's --exportTimes is not in a known form: KeyError('computeMs')"),
        ("[1", "trtexec's --exportTimes is not JSON (Expecting ',' delimiter: line 1 column 3 (char 2))"),
    ],
)
def test_times_in_another_form(text: str, sentence: str) -> None:
    with pytest.raises(BadModel) as caught:
        parse_times(text, 500)
    assert str(caught.value) == sentence


def test_profiles_with_names_that_are_not_escaped() -> None:
    text = (
        '[\n  { "count" : 100 }\n'
        ', { "name" : "conv \\ "a" + relu", "timeMs" : 12.5, "averageMs" : 0.125, "percentage" : 60 }\n'
        ', { "name" : "fc", "timeMs" : 8, "averageMs" : 0.08, "medianMs" : 0.07, "percentage" : 40 }\n]'
    )
    assert parse_profile(text) == (EngineLayer('conv \\ "a" + relu', "", ms=0.125), EngineLayer("fc", "", ms=0.08))


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format": "Linear", "Datatype": "Half"}, "fp16"),
        ({"Format": "Linear", "Datatype": "BFloat16"}, "bf16"),
        ({"Format": "Linear", "Datatype": "Float"}, "fp32"),
        ({}, ""),
    ],
)
def test_layers_before_and_since_11(tensor: dict[str, Any], precision: str) -> None:
    row = {"Name": "conv + relu", "LayerType": "CaskConvolution", "Inputs": [tensor], "Metadata": "[ONNX Layer: conv]"}
    found = parse_layers(json.dumps({"Layers": [row, "a name alone"], "Bindings": ["input"]}))
    assert found == (
        EngineLayer("conv + relu", "CaskConvolution", precision, ("conv",)),
        EngineLayer("a name alone", ""),
    )


@pytest.mark.parametrize("text", ["[]", '{"Bindings": []}', '{"Layers": "none"}'])
def test_a_layer_report_in_another_form(text: str) -> None:
    with pytest.raises(BadModel, match="has no list of Layers"):
        parse_layers(text)

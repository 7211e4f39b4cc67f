"""Dialects: each rule finds a graph made to break it and no other rule does, and what is mended computes the same."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import parser
from qdq_graphs import PLAIN, QDQ, edit, graph, run

from edgeprune.dialects.conform import RULES, conform, lint
from edgeprune.errors import BadModel
from edgeprune.profiles import board as boards


def unnamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose nodes have no names: ONNX Runtime refuses one that two nodes have."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for node in copy.graph.node:
        node.name = ""
    return copy


def newer_ir(proto: onnx.ModelProto) -> None:
    proto.ir_version = 10


def other_import(proto: onnx.ModelProto) -> None:
    one = proto.opset_import.add()
    one.domain, one.version = "com.microsoft", 1


def odd_names(proto: onnx.ModelProto) -> None:
    conv = proto.graph.node[0]
    conv.name = 'a "quoted" name'
    conv.input[1] = 'w"1'
    proto.graph.initializer[0].name = 'w"1'


MENDED: dict[str, tuple[str, str, onnx.ModelProto, Callable[[onnx.ModelProto], None] | None]] = {
    "a newer file format": ("ir-version", "jetson-xavier", graph(PLAIN), newer_ir),
    "an import that nothing needs": ("domain", "jetson-xavier", graph(PLAIN), other_import),
    "names that break trtexec's JSON": ("names", "jetson-xavier", graph(PLAIN), odd_names),
    "two nodes of one name": (
        "names", "jetson-xavier",
        graph("<float[2, 2, 1, 1] w> { [conv] x = Conv(input, w)\n [conv] output = Conv(x, w) }"), None,
    ),
    "HardSwish": ("operator", "jetson-nano", graph("{ [act] output = HardSwish(input) }", 14), None),
    "LayerNormalization": (
        "operator", "jetson-xavier",
        graph("<float[4] g = {1, 2, 3, 4}, float[4] h = {0, 1, 0, 1}> "
              "{ [norm] output = LayerNormalization<axis = -1, epsilon = 0.001>(input, g, h) }", 17), None,
    ),
    "LayerNormalization without a bias": (
        "operator", "jetson-xavier",
        graph("<float[2, 4, 4] g> { [norm] output = LayerNormalization<axis = 1>(input, g) }", 17), None,
    ),
    "no zero points": (
        "zero-point", "jetson-xavier",
        graph(edit(QDQ, ("(input, s, z)", "(input, s, z)"), ("(q, s, z)", "(q, s)"))), None,
    ),
    "a dead filter": ("scale", "jetson-xavier", graph(edit(QDQ, ("ws = {0.02, 0.03}", "ws = {0, 0.03}"))), None),
    "a quantized bias": (
        "plain-bias", "jetson-xavier",
        graph(edit(QDQ, ("float[2] b>", "int32[2] bi, float[2] bs = {0.01, 0.02}, int32[2] bz = {0, 0}>"),
                   ("    [conv]", "    [b_dq] b = DequantizeLinear<axis = 0>(bi, bs, bz)\n    [conv]"))), None,
    ),
    "weights stored as int8": (
        "weight", "jetson-xavier",
        graph(edit(QDQ, ("w, float[2] ws", "wi, float[2] ws"), ("(wq, ws, wz)", "(wi, ws, wz)"),
                   ("    [w_q] wq = QuantizeLinear<axis = 0>(w, ws, wz)\n", ""))), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MENDED)
def test_what_is_mended_breaks_no_rule_and_computes_the_same(case: str) -> None:
    rule, target, made, change = MENDED[case]
    proto = onnx.ModelProto()
    proto.CopyFrom(made)
    if change:
        change(proto)
    board = boards.load(target)
    if rule == "operator" and target == "jetson-nano":
        board = board.model_copy(update={"opset": 14})
    assert {finding.rule for finding in lint(proto, board)} == {rule}
    before = None if case == "a dead filter" else run(unnamed(proto))
    assert {finding.rule for finding in conform(proto, board)} == {rule}
    assert lint(proto, board) == []
    onnx.checker.check_model(proto, full_check=True)
    after = run(proto)
    if before is not None:
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    else:
        assert np.isfinite(after).all()


REFUSED: dict[str, tuple[str, str, onnx.ModelProto, str]] = {
    "a newer opset": (
        "opset", "jetson-nano", graph(PLAIN, 17),
        "jetson-nano cannot take this graph: [opset] graph: opset 17, but jetson-nano reads up to 13",
    ),
    "ONNX Runtime's own operators": (
        "domain", "jetson-xavier",
        parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>\nmodel (float[1, 2, 4, 4] input) => '
            "(float[1, 2, 4, 4] output) { [gelu] output = com.microsoft.Gelu(input) }"
        ),
        "jetson-xavier cannot take this graph: [domain] gelu: Gelu of the domain com.microsoft",
    ),
    "a batch that is not fixed": (
        "static-shape", "host-cpu",
        parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]>\nmodel (float[N, 2, 4, 4] input) => '
            "(float[1, 2, 4, 4] output) { [relu] output = Relu(input) }"
        ),
        "host-cpu cannot take this graph: [static-shape] input: its shape Nx2x4x4 is not fixed",
    ),
    "a layer without filters": (
        "empty-layer", "rtx", graph("<float[0, 2, 1, 1] nothing> { [conv] output = Conv(input, nothing) }"),
        "rtx cannot take this graph: [empty-layer] conv: its weight is empty (0x2x1x1)",
    ),
    "an operator that never was": (
        "operator", "rtx",
        graph("{ [relu] output = Relu(input)\n [where] idle = NonZero(input) }"),
        "rtx cannot take this graph: [operator] where: tensorrt-rtx 1.7 has no NonZero",
    ),
    "asymmetric activations": (
        "zero-point", "jetson-xavier", graph(edit(QDQ, ("int8 z = {0}", "uint8 z = {128}"))),
        "jetson-xavier cannot take this graph: [zero-point] a_q: its zero point is uint8 128, not int8 0: calibrate "
        "with symmetric int8 activations; [zero-point] a_dq: its zero point is uint8 128, not int8 0: calibrate with "
        "symmetric int8 activations",
    ),
    "a negative scale": (
        "scale", "jetson-xavier", graph(edit(QDQ, ("ws = {0.02, 0.03}", "ws = {-0.02, 0.03}"))),
        "jetson-xavier cannot take this graph: [scale] ws: 1 of 2 scales are not above zero",
    ),
    "scales along the inputs": (
        "axis", "rtx", graph(edit(QDQ, ("<axis = 0>", "<axis = 1>"))),
        "rtx cannot take this graph: [axis] w_dq: the weight of conv has its scales along axis 1, not 0",
    ),
    "a scale for each channel of an activation": (
        "axis", "rtx",
        graph(edit(QDQ, ("(input, s, z)", "<axis = 1>(input, ws, wz)"), ("(q, s, z)", "<axis = 1>(q, ws, wz)"))),
        "rtx cannot take this graph: [axis] a_q: an activation has 2 scales; it may have one; "
        "[axis] a_dq: an activation has 2 scales; it may have one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mended_is_refused_in_one_sentence(case: str) -> None:
    rule, target, made, sentence = REFUSED[case]
    proto = onnx.ModelProto()
    proto.CopyFrom(made)
    board = boards.load(target)
    assert {finding.rule for finding in lint(proto, board)} == {rule}
    with pytest.raises(BadModel) as caught:
        conform(proto, board)
    assert str(caught.value) == sentence


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {case[0] for case in (*MENDED.values(), *REFUSED.values())} == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", [n for n in boards.names() if boards.load(n).backend == "tensorrt"])
@pytest.mark.parametrize("body", [PLAIN, QDQ], ids=["float", "int8"])
def test_a_plain_graph_is_left_as_it_is(name: str, body: str) -> None:
    proto = graph(body)
    proto.ir_version = 7
    before = proto.SerializeToString(deterministic=True)
    assert conform(proto, boards.load(name)) == []
    assert proto.SerializeToString(deterministic=True) == before


def test_long_lists_are_cut() -> None:
    nodes = "\n".join(f"[mish{i}] x{i} = Mish({f'x{i - 1}' if i else 'input'})" for i in range(7))
    proto = graph(f"{{ {nodes}\n [relu] output = Relu(x6) }}", 18)
    with pytest.raises(BadModel, match=r"mish4: tensorrt 8\.5\.2 has no Mish; and 2 more$"):
        conform(proto, boards.load("jetson-xavier").model_copy(update={"opset": 18}))

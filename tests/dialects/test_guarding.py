"""Layers that were left in float, and ONNX Runtime, which would lower them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from qdq_graphs import edit, graph, run

from edgeprune.backends.onnxruntime import session_options
from edgeprune.dialects.guarding import guard

BETWEEN = """<float s = {0.1}, uint8 z = {128}, float t = {0.2}, uint8 y = {128}, float[2, 2, 1, 1] weight, float[2] b>
{
    [q] q = QuantizeLinear(input, s, z)
    [dq] d = DequantizeLinear(q, s, z)
    [layer] c = Conv(d, weight, b)
    [next_q] r = QuantizeLinear(c, t, y)
    [next_dq] output = DequantizeLinear(r, t, y)
}"""
RELU = (("QuantizeLinear(c", "QuantizeLinear(a"), ("    [next_q]", "    [act] a = Relu(c)\n    [next_q]"))
CLIP = (*RELU, ("Relu(c)", "Clip(c, low, high)"), ("<float s", "<float low = {0}, float high = {6}, float s"))
MADE = {
    "plain": (),
    "relu": RELU,
    "clip": CLIP,
    "without bias": (("Conv(d, weight, b)", "Conv(d, weight)"),),
    "depthwise": (("Conv(d", "Conv<group = 2>(d"), ("2, 2, 1, 1", "2, 1, 1, 1")),
    "transposed": (("Conv(d", "ConvTranspose(d"),),
}
LEFT_ALONE = {
    "read twice": (("] output =", "] e ="), ("e = DequantizeLinear(r, t, y)", "e = DequantizeLinear(r, t, y)\n"
                   "    [sum] output = Add(e, c)")),
    "not rounded": (("[layer] c", "[layer] output"), ("    [next_q] r = QuantizeLinear(c, t, y)\n", ""),
                    ("    [next_dq] output = DequantizeLinear(r, t, y)\n", "")),
    "another operator between": (*RELU, ("Relu(c)", "Sigmoid(c)")),
    "input in float": (("Conv(d", "Conv(input"), ("    [dq] d = DequantizeLinear(q, s, z)\n", ""),
                       ("    [q] q = QuantizeLinear(input, s, z)\n", "")),
    "int8 itself": (("Conv(d, weight, b)", "Conv(d, v, b)"),
                    ("    [layer]", "    [w_dq] v = DequantizeLinear(weight, u)\n    [layer]"),
                    ("float[2, 2, 1, 1] weight", "float u = {0.02}, int8[2, 2, 1, 1] weight")),
}  # fmt: skip


def made(*changes: tuple[str, str]) -> onnx.ModelProto:
    """Return the graph of the text, its weights drawn in the shapes that the text declares."""
    proto, rng = graph(edit(BETWEEN, *changes)), np.random.default_rng(0)
    for info in [one for one in proto.graph.value_info if one.name.startswith("weight")]:
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        drawn = rng.normal(size=[d.dim_value for d in info.type.tensor_type.shape.dim], scale=3.0)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn.astype(kind), info.name))
        proto.graph.value_info.remove(info)
    onnx.checker.check_model(proto)
    return proto


def executed(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the operators of what ONNX Runtime makes of a graph."""
    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def rounds(operators: Counter[str]) -> bool:
    """Return whether more is dequantized than the two activations, in a kernel for int8 or before one for float."""
    return operators["DequantizeLinear"] > 2 or any(name.startswith("QLinear") for name in operators)


@pytest.mark.parametrize("changes", MADE.values(), ids=MADE)
def test_onnx_runtime_lowers_a_float_layer_between_int8_ones_unless_it_is_guarded(changes, tmp_path):
    proto = made(*changes)
    outputs = run(proto)
    assert rounds(executed(proto, tmp_path)), "else there is no need to guard it any more"
    guard(proto.graph)
    onnx.checker.check_model(proto)
    assert not rounds(executed(proto, tmp_path))
    assert np.array_equal(run(proto), outputs)


@pytest.mark.parametrize("changes", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_layers_are_left_as_they_are(changes):
    proto = made(*changes)
    before = proto.SerializeToString(deterministic=True)
    guard(proto.graph)
    assert proto.SerializeToString(deterministic=True) == before

"""Kernels as graphs of their own: what they compute, at which widths, and which nodes of a runtime are theirs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.dialects.kernels import partition
from edgeprune.dialects.unit_graphs import branches, graph_of, in_words, reference, side_by_side
from edgeprune.dialects.units import Unit, moved_by, units

PIXELS = 8


def constant(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def network() -> onnx.ModelProto:
    """A stem, a residual block, a concatenation of both, depthwise and grouped layers, a pool and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "block", pads=[1] * 4),
        helper.make_node("Add", ["c", "b"], ["d"], "add"),
        helper.make_node("Conv", ["d", "w2"], ["e"], "narrow"),
        helper.make_node("Concat", ["d", "e"], ["f"], "concat", axis=1),
        helper.make_node("Conv", ["f", "w3"], ["g"], "depthwise", group=24, pads=[1] * 4),
        helper.make_node("Conv", ["g", "w4"], ["h"], "grouped", group=4),
        helper.make_node("GlobalAveragePool", ["h"], ["i"], "pool"),
        helper.make_node("Flatten", ["i"], ["j"], "flat"),
        helper.make_node("Gemm", ["j", "w5", "b5"], ["output"], "fc", transB=1),
    ]
    shapes = {"w0": (16, 3, 3, 3), "b0": (16,), "w1": (16, 16, 3, 3), "w2": (8, 16, 1, 1), "w3": (24, 1, 3, 3),
              "w4": (16, 6, 1, 1), "w5": (10, 16), "b5": (10,)}  # fmt: skip
    weights = [constant(name, *shape) for name, shape in shapes.items()]
    source = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, PIXELS, PIXELS])
    target = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "net", [source], [target], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def found() -> dict[str, Unit]:
    return {unit.part.name: unit for unit in units(partition(network()))}


def run(proto: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    answer: np.ndarray = session.run(None, {source.name: np.ones(source.shape, np.float32)})[0]
    return answer


def test_a_unit_takes_along_what_is_fused_onto_it_and_knows_its_channels() -> None:
    made = found()
    assert list(made) == ["stem", "block", "narrow", "concat", "depthwise", "grouped", "pool", "fc"]
    told = {name: (unit.form.rpartition(" ")[0], unit.outputs, unit.inputs) for name, unit in made.items()}
    assert told["stem"] == ("Conv 3x3/1 8x8 fp32 Relu", 16, 3)
    assert told["block"] == ("Conv 3x3/1 8x8 fp32 Add", 16, 16)
    assert told["depthwise"] == ("Conv 3x3/1 depthwise 8x8 fp32", 24, 1)
    assert told["grouped"] == ("Conv 1x1/1 4 groups 8x8 fp32", 16, 6)
    assert told["concat"] == ("Concat 8x8 fp32", 24 * 64, 24 * 64)
    assert told["fc"] == ("Gemm fp32", 10, 16)


@pytest.mark.parametrize(
    ("name", "outputs", "inputs", "shape"),
    [
        ("stem", 12, 3, (1, 12, 8, 8)),
        ("block", 4, 12, (1, 4, 8, 8)),
        ("narrow", 3, 5, (1, 3, 8, 8)),
        ("depthwise", 7, 1, (1, 7, 8, 8)),
        ("grouped", 8, 3, (1, 8, 8, 8)),
        ("fc", 10, 5, (1, 10)),
        ("concat", None, None, (1, 24, 8, 8)),
        ("pool", None, None, (1, 16, 1, 1)),
    ],
)
def test_a_unit_runs_alone_at_any_width(
    name: str, outputs: int | None, inputs: int | None, shape: tuple[int, ...]
) -> None:
    proto = graph_of(found()[name], outputs, inputs)
    assert [one.name for one in proto.graph.input] == ["input"]
    assert run(proto).shape == shape


def test_at_its_own_width_a_unit_holds_the_weights_of_the_network() -> None:
    proto = graph_of(found()["narrow"])
    [weight] = proto.graph.initializer
    assert np.array_equal(numpy_helper.to_array(weight), numpy_helper.to_array(constant("w2", 8, 16, 1, 1)))


def test_what_multiplies_nothing_has_one_size() -> None:
    with pytest.raises(ValueError, match="multiplies nothing"):
        graph_of(found()["concat"], 8, 8)


def test_the_form_tells_apart_what_takes_another_time_and_nothing_else() -> None:
    proto = network()
    same = {unit.part.name: unit.form for unit in units(partition(proto))}
    proto.graph.node[0].attribute[0].ints[:] = [0, 0, 2, 2]
    other = {unit.part.name: unit.form for unit in units(partition(proto))}
    assert other["stem"] != same["stem"] and other["block"] == same["block"]
    wider = network()
    for one in wider.graph.initializer:
        shapes = {"w0": (12, 3, 3, 3), "b0": (12,), "w1": (12, 12, 3, 3), "w2": (12, 12, 1, 1)}
        if one.name in shapes:
            one.CopyFrom(constant(one.name, *shapes[one.name]))
    narrow = {unit.part.name: unit.form for unit in units(partition(wider))}
    assert {name: narrow[name] for name in ("stem", "block", "narrow", "depthwise")} == {
        name: same[name] for name in ("stem", "block", "narrow", "depthwise")
    }, "channels are no part of it"


def test_what_moves_values_knows_where_they_come_from() -> None:
    assert moved_by(list(found().values())) == {
        "concat": {"block": pytest.approx(2 / 3), "narrow": pytest.approx(1 / 3)},
        "pool": {"grouped": pytest.approx(1.0)},
    }
    assert moved_by([]) == {}


def test_side_by_side_every_graph_is_computed() -> None:
    every = [reference(2, 4, 8), graph_of(found()["block"], 8, 4), graph_of(found()["pool"])]
    values = run(side_by_side(every))
    assert values.shape == (3,) and len(set(values.tolist())) == 3


CHAIN = [
    ("edge0.expand", "Expand"), ("ReorderInput_token_1", "ReorderInput"), ("u0.conv", "Conv"), ("Mul_1", "Mul"),
    ("ReorderOutput", "ReorderOutput"), ("edge0.slice", "Slice"), ("edge1.expand", "Expand"),
    ("u1.input_QuantizeLinear", "QuantizeLinear"), ("Transpose", "Transpose"), ("u1.conv", "QLinearConv"),
    ("u1.a_DequantizeLinear", "DequantizeLinear"), ("HardSigmoid_3", "HardSigmoid"),
    ("u1.b_QuantizeLinear", "QuantizeLinear"), ("u1.b_DequantizeLinear", "DequantizeLinear"), ("edge1.slice", "Slice"),
    ("edge2.expand", "Expand"), ("u2.q", "QuantizeLinear"), ("u2.dq", "DequantizeLinear"), ("edge2.concat", "Concat"),
]  # fmt: skip


def test_the_nodes_of_a_branch_are_its_kernels_without_the_copies_at_its_ends() -> None:
    told = [[CHAIN[at][0] for at in branch] for branch in branches(CHAIN, 3)]
    assert told == [
        ["u0.conv", "Mul_1"],
        ["u1.conv", "u1.a_DequantizeLinear", "HardSigmoid_3", "u1.b_QuantizeLinear"],
        [],
    ]


def test_what_flows_in_beside_is_made_of_the_input_too_where_asked() -> None:
    every = [graph_of(found()["narrow"]), graph_of(found()["concat"])]
    names = {one.name for one in side_by_side(every).graph.initializer}
    flowing = side_by_side(every, flowing=True)
    gone = names - {one.name for one in flowing.graph.initializer}
    assert gone and all(any(node.output[0] == name for node in flowing.graph.node) for name in gone)
    values = run(flowing)
    assert values.shape == (2,) and np.isfinite(values).all()


KINDS = {"edge0.0.expand": "Expand", "u0.conv": "Conv", "u0.relu": "Relu", "u0.in_q": "QuantizeLinear",
         "u1.in_q": "QuantizeLinear", "u0.out_dq": "DequantizeLinear", "u1.conv": "Conv"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "operator", "nodes", "told"),
    [
        ("u0.conv + u0.relu", "CaskConvolution", (), ("u0.conv", "CaskConvolution")),
        ("__myl_CastMul_myl0_2", "kgen", ("edge0.0.expand", "u0.in_q"), ("u0.in_q", "QuantizeLinear")),
        ("__myl_Conv_myl0_3", "correlation", ("u0.in_q", "u0.conv"), ("u0.in_q", "correlation")),
        ("u0.out_dq", "Subgraph", (), ("u0.out_dq", "DequantizeLinear")),
        ("__myl_Quant", "kgen", ("u0.in_q", "u1.in_q"), ("u0.in_q", "QuantizeLinear")),
        ("Reformatting CopyNode for Input Tensor 0 to u1.conv", "", (),
         ("u1.conv", "Reformatting CopyNode for Input Tensor 0 to u1.conv")),
        ("u0.conv_nchwc", "Conv", (), ("u0.conv_nchwc", "Conv")),
        ("edge0.0.expand", "Broadcast", (), ("edge0.0.expand", "Broadcast")),
    ],
)  # fmt: skip
def test_a_kernel_is_told_by_the_nodes_that_went_into_it(
    name: str, operator: str, nodes: tuple[str, ...], told: tuple[str, str]
) -> None:
    assert in_words(name, operator, nodes, KINDS) == told


def test_a_kernel_of_two_units_belongs_to_none() -> None:
    with pytest.raises(ValueError, match=r"computes parts of several kernels: u0\.conv, u1\.conv"):
        in_words("u0.conv + u1.conv", "CaskConvolution", (), KINDS)

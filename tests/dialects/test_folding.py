"""Sizes that are computed of constants: what stands behind them must not be taken for nothing."""

from onnx import parser
from qdq_graphs import QDQ, graph

from edgeprune.dialects.folding import folded
from edgeprune.dialects.kernels import kernels

PADDED = """<ir_version: 8, opset_import: ["" : 13]>
net (float[1, 2, 4, 4] input) => (float[1, 1, 4, 4] output)
<int64[1] three = {3}, int64[5] some = {2, 0, 0, 0, 0}, int64[2] shape = {4, 2}, int64[1] minus = {-1},
 float[1, 4, 1, 1] w = {1, 1, 1, 1}>
{
    [zeros] z = ConstantOfShape<value = int64[1] {0}>(three)
    [concat] c = Concat<axis = 0>(z, some)
    [pairs] p = Reshape(c, shape)
    [turn] t = Transpose<perm = [1, 0]>(p)
    [flat] f = Reshape(t, minus)
    [pad] padded = Pad(input, f)
    [conv] output = Conv(padded, w)
}"""


def test_a_kernel_behind_a_computed_size_has_its_size() -> None:
    """[0, 0, 0, 2, 0, 0, 0, 0] in pairs, turned, is [0, 0, 0, 0, 0, 2, 0, 0]: two channels after the last."""
    found = {one.name: one for one in kernels(parser.parse_model(PADDED))}
    assert list(found) == ["pad", "conv"], "what computes sizes is no kernel of its own"
    assert (found["pad"].read, found["pad"].written) == (32, 4 * 16)
    assert (found["conv"].macs, found["conv"].inputs) == (4 * 16, 4)


def test_nothing_else_is_folded() -> None:
    quantized = graph(QDQ)
    assert folded(quantized) == quantized
    assert [node.name for node in folded(parser.parse_model(PADDED)).graph.node] == ["pad", "conv"]

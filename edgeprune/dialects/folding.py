"""Sizes that a graph computes of constants, computed: runtimes do so, and shape inference stops where they are not."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeprune.dialects.base import Graph

_ARITHMETIC = ("ConstantOfShape", "Concat", "Reshape", "Slice", "Transpose", "Cast", "Gather", "Unsqueeze", "Squeeze",
               "Add", "Sub", "Mul", "Div")  # fmt: skip

_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph in which whatever is computed of integer constants alone is a constant.

    The older exporter writes the sizes of a Pad as a chain of such nodes. Weights stay as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    view = Graph(graph)
    known = {
        name: numpy_helper.to_array(one) for name, one in view.constants.items() if one.data_type in _INTEGERS
    }
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type in _ARITHMETIC and inputs and all(name in known for name in inputs):
            [value] = ReferenceEvaluator(node).run(None, {name: known[name] for name in inputs})
            if np.asarray(value).dtype.kind == "i":
                known[node.output[0]] = np.asarray(value)
                graph.initializer.append(numpy_helper.from_array(known[node.output[0]], node.output[0]))
                continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    return result

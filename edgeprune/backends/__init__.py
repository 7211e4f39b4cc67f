"""How an ONNX graph becomes something a target runs."""

"""What the runtime of a board reads of ONNX: rules that find, and mend if they can, what it refuses or misreads."""

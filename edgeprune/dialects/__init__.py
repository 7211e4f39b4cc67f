"""What the runtime of a board reads of ONNX: rules that find what it would refuse or misread, and mend it if they can."""

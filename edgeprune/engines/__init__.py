"""Builders of TensorRT engines: on the board, on this machine's GPU, or ahead of time without one."""

"""How a file becomes a TorchModel."""

"""Boxes: how detection datasets are read, images are fitted to a detector, and what it says is decoded and judged."""

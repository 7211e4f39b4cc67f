"""The driver: one build from model to report."""

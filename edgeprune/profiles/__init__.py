"""Targets as data, and how to measure on them."""

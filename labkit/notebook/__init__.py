"""Notebooks of one's own: made from a template, recorded, and checked against what was recorded."""

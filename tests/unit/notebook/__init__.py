"""Unit tests of labkit.notebook."""

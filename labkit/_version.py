"""The version of labkit."""

__all__ = ["__version__"]

__version__ = "0.2.0"

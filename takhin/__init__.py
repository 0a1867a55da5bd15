"""Takhin: a durable, partitioned commit log that speaks gRPC, on one machine."""

try:
    from ._version import __version__
except ImportError:  # a tree that was never built
    __version__ = "0+unknown"

__all__ = ["__version__"]

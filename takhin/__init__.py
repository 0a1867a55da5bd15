"""Takhin: a durable, partitioned commit log that speaks gRPC, on one machine."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("takhin")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

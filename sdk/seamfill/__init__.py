"""seamfill: market history without unexplained holes. The library for strategy authors."""

__version__ = "0.1.0"

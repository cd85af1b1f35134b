"""Tollway: the proxy server."""

__version__ = "0.1.0"

"""Altgate's gateway: OpenAI-compatible chat completions that put pictures into words."""

__version__ = "0.1.0"

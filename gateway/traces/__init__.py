"""Traces: `parent.py` carries a trace from the client to the engines, `spans.py` adds the gateway's own part to it."""

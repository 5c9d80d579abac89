"""Metrics: `declared.py` has every one of them, `counts.py` the numbers, `exposition.py` what Prometheus reads."""

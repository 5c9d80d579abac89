"""Metrics: `declared.py` has every one of them, `counts.py` the numbers, `exposition.py` what Prometheus reads."""

METRICS = "metrics"  # the question to all workers and their owner

"""Prints the table of all metrics: `python -m gateway.metrics > docs/metrics.md`."""

import click

from gateway.metrics.declared import ALL, Metric

HEAD = """# Metrics

What `GET /metrics` tells, for Prometheus. This table is made from `gateway/metrics/declared.py` by `make docs`.
Histograms have their buckets in seconds; a summary has a count and a sum, also in seconds. Numbers start at nought with
the gateway. What a metric was never counted for is absent. With several workers the numbers are those of all of them.

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def table() -> str:
    """The document."""
    return HEAD + "".join(map(_row, ALL))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |\n"


if __name__ == "__main__":
    click.echo(table(), nl=False)

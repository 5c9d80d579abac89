"""What is exposed, as Prometheus's own parser reads it."""

from prometheus_client.parser import text_string_to_metric_families


def lines(exposed: bytes) -> dict[str, float]:
    """Each number under its name and the values of its labels, in the order of the labels' names."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(exposed.decode())
        for sample in family.samples
    }

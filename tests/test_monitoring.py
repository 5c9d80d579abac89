"""What is delivered for watching a gateway speaks of metrics that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.metrics.__main__ import table
from gateway.metrics.declared import ALL, Metric

ROOT = Path(__file__).parents[1]
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/altgate.json").read_text())

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count"), "counter": ("",), "gauge": ("",)}
SERIES = {f"{metric.name}{suffix}": metric for metric in ALL for suffix in SUFFIXES[metric.kind]}
EVERYWHERE = {"instance", "job"}  # labels that Prometheus adds
SELECTOR = re.compile(r"\b(?P<name>(?:altgate|process)_\w+|up)\b(?:\{(?P<labels>[^}]*)\})?")
BY = re.compile(r"\bby \(([^)]*)\)")
RATED = re.compile(r"\b(?:rate|increase)\((\w+)")


def alert_expressions() -> list[str]:
    """Those of the alert rules."""
    one_line = re.findall(r"^ +expr: ([^|\n]+)$", ALERTS, re.MULTILINE)
    several = re.findall(r"^ +expr: \|\n((?: {10,}.*\n)+)", ALERTS, re.MULTILINE)
    return one_line + several


def targets() -> Iterator[dict[str, Any]]:
    """Every query of the dashboard."""
    for panel in DASHBOARD["panels"]:
        yield from panel.get("targets", [])


def labels(expression: str) -> set[str]:
    """The labels that the metrics of an expression have."""
    named = [SERIES[name] for name in (found["name"] for found in SELECTOR.finditer(expression)) if name != "up"]
    return EVERYWHERE.union(*(each.labels for each in named))


def check(expression: str) -> None:
    """Every series exists, with the labels that are selected and grouped by; only what counts is rated."""
    for found in SELECTOR.finditer(expression):
        if (name := found["name"]) == "up":
            continue
        assert name in SERIES, name
        selected = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", found["labels"] or ""))
        assert selected <= {*SERIES[name].labels, *EVERYWHERE}, expression
    for group in BY.findall(expression):
        assert set(re.split(r",\s*", group)) <= labels(expression) | {"le"}, expression
    for name in RATED.findall(expression):
        assert SERIES[name].kind != "gauge", expression


def test_the_table_of_metrics_is_up_to_date() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs/metrics.md").read_text() == table()


def test_alerts_are_about_metrics_that_exist() -> None:
    """By name and by label."""
    expressions = alert_expressions()

    assert len(expressions) == ALERTS.count("- alert:") == ALERTS.count("summary:")
    for expression in expressions:
        check(expression)


def test_alerts_name_labels_that_their_expressions_leave() -> None:
    """A sentence with a hole in it would be sent in the middle of the night."""
    for rule in ALERTS.split("- alert:")[1:]:
        groups = BY.findall(rule)
        left = set(re.split(r",\s*", groups[0])) if groups else labels(rule)
        assert set(re.findall(r"\$labels\.(\w+)", rule)) <= left, rule


def test_alerts_divide_by_nothing_that_may_be_zero() -> None:
    """What failed elsewhere while nobody asked for a completion would be infinitely much."""
    for expression in alert_expressions():
        for divisor in re.findall(r"/ (\S.*)", expression):
            assert re.match(r"\(.* > 0\)|process_max_fds\b", divisor), expression


def test_all_that_is_no_fault_of_a_client_is_a_failure() -> None:
    """By the codes, which streams that broke off have too; what a client has chosen to hear, and usage, is none."""
    (rule,) = (rule for rule in ALERTS.split("- alert:") if rule.strip().startswith("AltgateFails\n"))
    (codes,) = re.findall(r'code=~"([^"]+)"', rule)
    ours = {kind.code for kind in GatewayError.__subclasses__() if kind.status >= 500 and kind.code}

    assert {code for code in ours if re.fullmatch(codes, code)} == ours - {"not_cached", "usage_unavailable"}
    assert not re.fullmatch(codes, "rate_limit_exceeded")


def test_the_dashboard_draws_metrics_that_exist() -> None:
    """By name and by label, in what its legends say too."""
    for target in targets():
        check(target["expr"])
        groups = BY.findall(target["expr"])
        left = set(re.split(r",\s*", groups[0])) if groups else labels(target["expr"])
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left, target


def test_the_dashboards_variables_are_about_metrics_that_exist() -> None:
    """They are what every graph is filtered by."""
    queries = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]

    assert len(queries) == 2
    for query in queries:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
        assert found
        assert found[2] in {*SERIES[found[1]].labels, *EVERYWHERE}


def test_panels_lie_beside_each_other() -> None:
    """None hides another, none has another's number, every one asks the chosen Prometheus."""
    places = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for grid in [panel["gridPos"]]
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(target["datasource"]["uid"] == "${datasource}" for target in targets())


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_every_metric_is_drawn_or_says_what_others_say(metric: Metric) -> None:
    """What nobody looks at need not be counted."""
    used = " ".join(target["expr"] for target in targets()) + str(DASHBOARD["templating"])

    assert re.search(rf"\b{metric.name}(_bucket|_sum|_count)?\b", used)

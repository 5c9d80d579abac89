"""Numbers are counted, bounded, added up over processes, and read by Prometheus's own parser as they were meant."""

import random
from collections.abc import Iterable

import pytest

from gateway.metrics import declared
from gateway.metrics.counts import MOST, OTHER, Counts, Sample, decode, encode, merged
from gateway.metrics.declared import ALL, Metric
from gateway.metrics.exposition import exposed
from gateway.metrics.teller import Counting, Routes
from gateway.record import Record, Stage
from gateway.wire import Usage
from tests.gateway.metrics.reading import lines

SERVED = ["/", "/v1/chat/completions", "/chat/completions", "/health", "/v1/models", "/v1/models/{name:path}"]


def read(samples: Iterable[Sample]) -> dict[str, float]:
    """What is exposed of samples."""
    return lines(exposed(samples))


def told(record: Record, counts: Counts | None = None) -> dict[str, float]:
    """What is exposed once that request is over."""
    counts = counts or Counts()
    Counting(counts, Routes(SERVED))([record])
    return read(counts.samples())


def test_a_request_is_counted_under_its_route_model_status_and_cache() -> None:
    """Its stages, its pictures and its tokens with it."""
    record = Record(
        path="/v1/chat/completions",
        model="demo",
        status=200,
        cache="miss",
        digests=["a", "b"],
        picture_bytes=100,
        usage=Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10),
        seconds=0.75,
        stages={"parse": 0.0002, "engine": 0.3},
    )

    found = told(record)

    assert found["altgate_requests_total miss demo /chat/completions 200"] == 1
    assert found["altgate_stage_seconds_sum engine"] == 0.3
    assert [found[f"altgate_stage_seconds_bucket {bound} parse"] for bound in ("0.0001", "0.00025", "+Inf")] == [
        0,
        1,
        1,
    ]
    assert [found[f"altgate_model_seconds_bucket {bound} demo"] for bound in ("0.5", "1.0", "+Inf")] == [0, 1, 1]
    assert found["altgate_engine_seconds_count demo"] == 1
    assert (found["altgate_pictures_total demo"], found["altgate_picture_bytes_total demo"]) == (2, 100)
    assert (found["altgate_tokens_total prompt demo engine"], found["altgate_tokens_total completion demo engine"]) == (
        7,
        3,
    )


@pytest.mark.parametrize("cache", ["hit", "join"])
def test_tokens_that_no_engine_made_are_told_apart(cache: str) -> None:
    """They are what the cache has saved."""
    usage = Usage(prompt_tokens=7, completion_tokens=3, total_tokens=10)

    found = told(Record(path="/chat/completions", model="demo", cache=cache, usage=usage, status=200))  # type: ignore[arg-type]

    assert found[f"altgate_tokens_total completion demo {cache}"] == 3
    assert "altgate_tokens_total completion demo engine" not in found


def test_a_refusal_is_counted_by_its_code() -> None:
    """Also where no model was found."""
    found = told(Record(path="/v1/chat/completions", status=404, error="model_not_found"))

    assert found["altgate_requests_total none  /chat/completions 404"] == 1
    assert found["altgate_refusals_total model_not_found"] == 1


def test_many_at_once_count_as_one_by_one() -> None:
    """Whatever they are, and wherever their times fall: on the bound of a bucket, between two, or beyond the last."""
    dice = random.Random(1)
    records = [made_up(dice) for _ in range(300)]
    together, apart = Counts(), Counts()

    Counting(together, Routes(SERVED))(records)
    for record in records:
        Counting(apart, Routes(SERVED))([record])

    assert read(together.samples()) == pytest.approx(read(apart.samples()))


def made_up(dice: random.Random) -> Record:
    """A request of any kind."""

    def seconds() -> float:
        return dice.choice([*declared.FINE, 0.0, 1e6, dice.random()])

    stages: list[Stage] = ["parse", "cache", "engine"]
    return Record(
        path=dice.choice(SERVED),
        model=dice.choice(["demo", "other", None]),
        status=dice.choice([200, 404, 503]),
        cache=dice.choice(["hit", "miss", None]),
        error=dice.choice(["engine_error", None, None]),
        digests=["a"] * dice.randrange(3),
        picture_bytes=dice.randrange(1000),
        usage=dice.choice([Usage(dice.randrange(100), dice.randrange(100), 0), None]),
        seconds=seconds(),
        stages={stage: seconds() for stage in dice.sample(stages, dice.randrange(4))},
    )


@pytest.mark.parametrize("seconds", [*declared.COARSE, 0.0, 0.3, 1e9])
def test_a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed(seconds: float) -> None:
    """And in all above it, as Prometheus counts."""
    counts = Counts()
    counts.observe(declared.MODEL_SECONDS, ("demo",), [seconds, seconds])
    found = read(counts.samples())

    buckets = {name.split(" ")[1]: count for name, count in found.items() if "_bucket " in name}
    assert buckets == {bound: 2 * (seconds <= float(bound)) for bound in buckets}
    assert len(buckets) == len(declared.COARSE) + 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/chat/completions/", "/chat/completions"),
        ("/", "/"),
        ("/v1/models/a/b", "/models/{}"),
        ("/models/a", OTHER),
        ("/v1/models", "/models"),
        ("/wp-login.php", OTHER),
        ("//", "/"),
        ("//v1//chat///completions//", "/chat/completions"),
        ("/v1//models//a", "/models/{}"),
        ("/v1/chat/completions\n", OTHER),
    ],
)
def test_a_route_has_one_name_whatever_is_asked_for(path: str, name: str) -> None:
    """What clients make up is `other`, so that nobody can fill the memory of who keeps the metrics."""
    assert Routes(SERVED).name(path) == name


def test_labels_without_end_are_counted_together() -> None:
    """Whatever goes wrong, a metric has a bounded number of lines, and nothing that was counted is lost."""
    counts = Counts()
    for number in range(MOST + 100):
        counts.add(declared.REFUSALS, (f"code{number}",))

    samples = counts.samples()

    assert len(samples) == MOST + 1
    assert sum(sample.values[0] for sample in samples) == MOST + 100
    assert samples[-1].labels == (OTHER,)


def test_workers_are_added_up() -> None:
    """Counters, histograms and what they hold are sums; what all of them say of the same thing stands once."""
    one, other = Counts(), Counts()
    for counts, times in ((one, 2), (other, 3)):
        for _ in range(times):
            counts.add(declared.REFUSALS, ("not_cached",))
            counts.observe(declared.ENGINE_SECONDS, ("demo",), [0.2])
    one.add(declared.REFUSALS, ("engine_error",))
    state = [Sample(declared.ENGINE_STATE.name, ("demo", "ready"), (1.0,))]
    redis = [Sample(declared.REDIS_UP.name, (), (up,)) for up in (1.0, 0.0)]
    busy = Sample(declared.IN_FLIGHT.name, (), (4.0,))
    files = [Sample(declared.OPEN_FDS.name, (), (open_,)) for open_ in (9.0, 80.0)]

    blobs = [
        encode([*one.samples(), *state, redis[0], busy, files[0]]),
        encode([*other.samples(), *state, redis[1], busy, files[1]]),
    ]
    found = read(merged(map(decode, blobs)))

    assert found["altgate_refusals_total not_cached"] == 5
    assert found["altgate_refusals_total engine_error"] == 1
    assert found["altgate_engine_seconds_count demo"] == 5
    assert found["altgate_engine_seconds_sum demo"] == pytest.approx(1.0)
    assert found["altgate_engine_seconds_bucket +Inf demo"] == 5
    assert found["altgate_engine_state demo ready"] == 1
    assert found["altgate_redis_up"] == 0
    assert found["altgate_requests_in_flight"] == 8
    assert found["process_open_fds"] == 80


def test_values_are_read_back_as_they_are() -> None:
    """Whatever stands in a label."""
    odd = 'a"b\\c\nd é'

    assert read([Sample(declared.REFUSALS.name, (odd,), (3.0,))]) == {f"altgate_refusals_total {odd}": 3}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_every_metric_is_declared_well(metric: Metric) -> None:
    """Names say the unit, counters end as Prometheus wants it, what it says is a sentence, no name stands twice."""
    assert [each.name for each in ALL].count(metric.name) == 1
    assert metric.name.startswith(("altgate_", "process_"))
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.text.endswith(".")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert sorted(metric.buckets) == [*metric.buckets]
    assert metric.merge == "sum" or metric.kind == "gauge"

"""Every metric, declared once: its name, what it says, its labels. Pure.

What a label can be is bounded by us or by the configuration, never by what clients send.
"""

from typing import Literal

from msgspec import Struct

Kind = Literal["counter", "gauge", "histogram", "summary"]
Merge = Literal["sum", "max", "min"]

# Seconds. Stages take from a tenth of a millisecond to minutes, what has to do with engines from milliseconds on.
COARSE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FINE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *COARSE)


class Metric(Struct, frozen=True, kw_only=True):
    """One metric. `merge` is how the numbers of several processes of one gateway become one."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"


ALL: list[Metric] = []


def _metric(
    kind: Kind,
    name: str,
    text: str,
    *labels: str,
    buckets: tuple[float, ...] = (),
    merge: Merge = "sum",
) -> Metric:
    metric = Metric(name=name, kind=kind, text=text, labels=labels, buckets=buckets, merge=merge)
    ALL.append(metric)
    return metric


# --- requests ---

REQUESTS = _metric(
    "counter",
    "altgate_requests_total",
    "Requests that are over, by route ('other' for what is not served), model ('' where none was found), HTTP status "
    "(499: the client left) and what the cache did: hit, miss, join (shared while it was made), bypass, or none.",
    "route",
    "model",
    "status",
    "cache",
)
STAGE_SECONDS = _metric(
    "histogram",
    "altgate_stage_seconds",
    "Time that chat completions spent in each stage: receive (the body's coming), parse (its JSON), fetch (having the "
    "pictures' bytes, by download or from base64), cache (looking for an answer, and waiting while another process "
    "makes it), join (waiting for one of another request's), queue (waiting for the engine, its load included), "
    "decode (making pictures plain), engine (its work), total.",
    "stage",
    buckets=FINE,
)
MODEL_SECONDS = _metric(
    "histogram",
    "altgate_model_seconds",
    "Time that chat completions took from their first byte to their last, by model.",
    "model",
    buckets=COARSE,
)
ENGINE_SECONDS = _metric(
    "histogram",
    "altgate_engine_seconds",
    "Time that engines worked on chat completions, by model.",
    "model",
    buckets=COARSE,
)
REFUSALS = _metric(
    "counter",
    "altgate_refusals_total",
    "Requests answered with an error, by its code; errors in the middle of a stream too.",
    "code",
)
PICTURES = _metric("counter", "altgate_pictures_total", "Pictures in requests, by model.", "model")
PICTURE_BYTES = _metric(
    "counter", "altgate_picture_bytes_total", "Bytes of those pictures as they came, base64 undone, by model.", "model"
)
TOKENS = _metric(
    "counter",
    "altgate_tokens_total",
    "Tokens of answers, by model, direction (prompt or completion) and source: engine, hit (from the cache) or join.",
    "model",
    "direction",
    "source",
)
LIMIT_REFUSALS = _metric(
    "counter",
    "altgate_limit_refusals_total",
    "Requests refused for a limit of their key, by limit: requests, pictures or concurrent.",
    "limit",
)
IN_FLIGHT = _metric("gauge", "altgate_requests_in_flight", "POST requests under way.")
BYTES_IN_FLIGHT = _metric(
    "gauge",
    "altgate_bytes_in_flight",
    "Bytes of the bodies of requests under way and of the pictures fetched for them (server.max_bytes_in_flight).",
)

# --- pictures ---

DECODE_LINE = _metric(
    "gauge", "altgate_decode_line", "Pictures that are being decoded, or wait for memory or a worker for it."
)
DECODE_BYTES = _metric(
    "gauge", "altgate_decode_bytes", "Bytes reserved for pictures that are being decoded (images.max_decoded)."
)
DECODED_BYTES = _metric(
    "gauge",
    "altgate_decoded_bytes",
    "Bytes of decoded pictures that wait for an engine or are with one (images.max_decoded once more).",
)
DECODERS_LOST = _metric(
    "counter", "altgate_decoders_lost_total", "Decoding workers that died over a picture or were too slow with it."
)

# --- the cache ---

CACHE_RESULTS = _metric(
    "counter", "altgate_cache_results_total", "Answers by what the cache did: hit, miss, join or bypass.", "result"
)
CACHE_SAVED_SECONDS = _metric(
    "counter", "altgate_cache_saved_seconds_total", "What making the answers anew that were found or shared had taken."
)
CACHE_SAVED_TOKENS = _metric(
    "counter", "altgate_cache_saved_tokens_total", "Tokens of the answers that were found or shared."
)
CACHE_NOT_SHARED = _metric(
    "counter",
    "altgate_cache_not_shared_total",
    "Answers that Redis was to have and was not given: it was away, too slow or full.",
)
CACHE_BYTES = _metric(
    "gauge", "altgate_cache_bytes", "Bytes of the answers in memory (cache.max_bytes); workers' copies count."
)
CACHE_ENTRIES = _metric("gauge", "altgate_cache_entries", "Answers in memory; workers' copies count.")

# --- engines ---

ENGINE_STATE = _metric(
    "gauge",
    "altgate_engine_state",
    "1 for the state that the model's engine is in, 0 for the others.",
    "model",
    "state",
    merge="max",
)
ENGINE_LINE = _metric("gauge", "altgate_engine_line", "Requests in line for an engine without a place.", "model")
ENGINE_BUSY = _metric("gauge", "altgate_engine_busy", "Requests that an engine of this machine works on.", "model")
LOAD_SECONDS = _metric("summary", "altgate_engine_load_seconds", "Loads of an engine, downloads aside.", "model")
WAKE_SECONDS = _metric("summary", "altgate_engine_wake_seconds", "Wakings of an engine that slept.", "model")
SWAP_SECONDS = _metric(
    "summary",
    "altgate_engine_swap_seconds",
    "Swaps: from the first request in line for an engine whose place others had until it was ready.",
    "model",
)
RESTARTS = _metric(
    "counter", "altgate_engine_restarts_total", "Engines that died, or were killed for hanging, and restarted.", "model"
)
FAILED_STARTS = _metric("counter", "altgate_engine_failed_starts_total", "Starts of an engine that failed.", "model")
REPLICA_UP = _metric(
    "gauge",
    "altgate_replica_up",
    "1 where a server of a remote model answers its probes; replica is its place in the model's urls, from 0.",
    "model",
    "replica",
    merge="min",
)
REPLICA_OPEN = _metric(
    "gauge",
    "altgate_replica_breaker_open",
    "1 where a server of a remote model failed too often and rests, or is on trial after its rest.",
    "model",
    "replica",
    merge="max",
)
REPLICA_BUSY = _metric("gauge", "altgate_replica_busy", "Requests at a server of a remote model.", "model", "replica")

# --- what stands behind ---

REDIS_UP = _metric("gauge", "altgate_redis_up", "1 where Redis answers; absent where none is configured.", merge="min")

# --- the process ---

INFO = _metric("gauge", "altgate_info", "Always 1; the version is in the label.", "version", merge="max")
LOG_DROPPED = _metric(
    "counter", "altgate_log_lines_dropped_total", "Lines of the log that nobody took: its pipe was full."
)
CPU_SECONDS = _metric("counter", "process_cpu_seconds_total", "Processor time of the gateway's own processes.")
RESIDENT_BYTES = _metric("gauge", "process_resident_memory_bytes", "Memory of the gateway's own processes.")
OPEN_FDS = _metric(
    "gauge", "process_open_fds", "Open files and connections, of the process that has most of them.", merge="max"
)
MAX_FDS = _metric("gauge", "process_max_fds", "The most that a process may have open.", merge="min")
STARTED = _metric("gauge", "process_start_time_seconds", "When the gateway started, in Unix time.", merge="min")

"""Engines that load, die and come back, seen from outside."""

import os
import select
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from tests import pictures
from tests.flows.raw import chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import running_server

PICTURE = [message(data_url(pictures.png(SCENES[0])))]


def test_demo_is_loaded_at_the_start_and_others_at_first_use(tmp_path: Path) -> None:
    """`/ready` says no until the preloaded model is there; a stream that waits for it gets heartbeats."""
    with running_server(tmp_path, settings='[server]\nheartbeat = "50ms"') as fresh:
        assert send(fresh, "GET", "/health").status == 200
        not_yet = send(fresh, "GET", "/ready")
        assert (not_yet.status, not_yet.error["code"]) == (503, "engine_unavailable")
        assert int(not_yet.headers["retry-after"]) >= 1

        streamed = chat(fresh, messages=PICTURE, stream=True)

        assert streamed.body.startswith(b": still working\n\n")
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert send(fresh, "GET", "/ready").status == 200
        assert len(fresh.engine_pids()) == 1


def test_a_request_that_cannot_wait_for_a_start_is_told_so(tmp_path: Path) -> None:
    """After `cold_start_wait` a client gets 503, how far the loading is, and when to come back."""
    with running_server(tmp_path, settings='[engines]\npreload = []\ncold_start_wait = "10ms"') as impatient:
        answer = chat(impatient, messages=PICTURE)

        assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
        assert "still loading" in answer.error["message"]
        assert int(answer.headers["retry-after"]) >= 1


def test_an_engine_killed_in_mid_request_is_a_clear_error_and_the_next_is_served(tmp_path: Path) -> None:
    """Twenty wait for one engine that takes one at a time; it is killed when the first has been answered. Who was
    with it is told, it is started again, and nobody has to do anything for the next request to be served."""
    settings = "[models.demo]\nargs = { dtype = 'float32', threads = 1, max-batch = 1 }"
    with running_server(tmp_path, settings=settings) as running, ThreadPoolExecutor(20) as threads:
        assert chat(running, messages=PICTURE).status == 200
        [engine] = running.engine_pids()
        waiting = [threads.submit(chat, running, {"cache-control": "no-store"}, messages=PICTURE) for _ in range(20)]
        next(as_completed(waiting))
        os.kill(engine, signal.SIGKILL)
        answers = [future.result() for future in waiting]

        told = [answer for answer in answers if answer.status == 503]
        assert {answer.status for answer in answers} == {200, 503}
        assert all("went away while it worked on this request" in answer.error["message"] for answer in told)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in told)
        assert chat(running, {"cache-control": "no-store"}, messages=PICTURE).status == 200
        assert running.engine_pids() not in ([], [engine])


def test_a_stream_whose_engine_dies_ends_with_the_error(tmp_path: Path) -> None:
    """After the first byte there is no status to change: the error is an event, and then the stream is done."""
    settings = "[models.demo]\nargs = { dtype = 'float32', threads = 1, max-batch = 1 }\n[server]\nheartbeat = '10ms'"
    with running_server(tmp_path, settings=settings) as running, ThreadPoolExecutor(20) as threads:
        assert chat(running, messages=PICTURE).status == 200
        [engine] = running.engine_pids()
        asked = {"messages": PICTURE, "stream": True}
        waiting = [threads.submit(chat, running, {"cache-control": "no-store"}, **asked) for _ in range(20)]
        next(as_completed(waiting))
        os.kill(engine, signal.SIGKILL)
        begun = [future.result() for future in waiting if future.result().status == 200]

        broken = [answer for answer in begun if b'"error":' in answer.body]
        assert broken
        assert all(b"went away" in answer.body or b"broke off" in answer.body for answer in broken)
        assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in begun)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_engine_outlives_the_gateway(tmp_path: Path, number: signal.Signals) -> None:
    """However the gateway ends, its engines end with it, and its folder of sockets goes with a proper end."""
    with running_server(tmp_path) as running:
        chat(running, messages=PICTURE)
        [engine] = running.engine_pids()
        watch = os.pidfd_open(engine)
        running.process.send_signal(number)
        running.process.wait(timeout=30)

        ended, _, _ = select.select([watch], [], [], 30)
        os.close(watch)
        assert ended

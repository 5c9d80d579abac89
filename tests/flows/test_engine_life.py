"""Engines that load, die and come back, seen from outside."""

import os
import re
import select
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from tests import pictures
from tests.engines.blip import hub
from tests.flows.raw import chat, send
from tests.pictures import SCENES, data_url, message
from tests.services import running_server, wait_for_log

ROOT = Path(__file__).parents[2]
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


def test_ready_says_no_when_what_was_to_be_loaded_cannot_be(tmp_path: Path) -> None:
    """A gateway whose model failed gets no traffic from a load balancer. Which model it is takes a key to see."""
    settings = '[engines]\npreload = ["broken"]\n[models.broken]\nengine = "blip"\nsource = "/nowhere"'
    with running_server(tmp_path, settings=settings) as running:
        assert chat(running, model="broken", messages=PICTURE).status == 503

        ready = send(running, "GET", "/ready")
        assert ready.status == 503
        assert "GET /v1/models tells more" in ready.error["message"]
        assert not re.search("broken|failed|nowhere", ready.body.decode())
        states = {each["id"]: each["status"] for each in send(running, "GET", "/v1/models").json()["data"]}
        assert states["broken"] == "failed"
        assert send(running, "GET", "/health").status == 200


def test_the_list_of_models_says_how_far_a_download_is(tmp_path: Path) -> None:
    """While a model is downloaded, /v1/models answers at once with the phase and the fraction."""
    checkpoint = ROOT / "engines/demo/checkpoint"
    with hub.serving(checkpoint, "org/tiny", stalls_at="model.safetensors") as address:
        environ = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        settings = '[engines]\npreload = ["tiny"]\n[models.tiny]\nengine = "blip"\nsource = "org/tiny"'
        with running_server(tmp_path, settings=settings, environ=environ) as running:
            wait_for_log(running, "tiny: loading, download")
            shown = send(running, "GET", "/v1/models/tiny").json()

            assert (shown["status"], shown["phase"]) == ("starting", "download")
            assert 0 <= shown["progress"] < 0.8


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
def test_no_engine_outlives_the_gateway(short_path: Path, number: signal.Signals) -> None:
    """However the gateway ends, its engines end with it, and its folder of sockets goes with a proper end."""
    environ = {**os.environ, "TMPDIR": str(short_path)}
    with running_server(short_path, environ=environ) as running:
        chat(running, messages=PICTURE)
        assert list(short_path.glob("altgate-*/*.sock"))
        [engine] = running.engine_pids()
        watch = os.pidfd_open(engine)
        running.process.send_signal(number)
        running.process.wait(timeout=30)

        ended, _, _ = select.select([watch], [], [], 30)
        os.close(watch)
        assert ended
        if number != signal.SIGKILL:
            assert not list(short_path.glob("altgate-*/"))
            assert running.process.returncode in (0, -number)
            assert "Traceback" not in running.log.read_text()

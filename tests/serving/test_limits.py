"""What a server takes on, and what becomes of requests that are too many, too long or alone."""

import concurrent.futures
import contextlib
import json
import threading
import time

import httpx
import pytest
import served

from flexmdm_jax.generation.engine import Scheduler
from flexmdm_jax.generation.parsing import sampler_of
from flexmdm_jax.generation.requests import Request
from flexmdm_jax.serving.service import Limits

# Two dispatches and more: each is 16 calls of the network, and a token takes at least two.
LONG = {"prompt": "ab", "sampler": "exact", "min_length": 20, "seed": 1}


class Gate:
    """Lets the device's thread take so many steps and no more."""

    def __init__(self):
        self._permits = threading.Semaphore(0)
        self._open = False

    def open(self):
        self._open = True
        self.step(1)

    def step(self, times):
        for _ in range(times):
            self._permits.release()

    def wait(self):
        if not self._open:
            self._permits.acquire()


@pytest.fixture
def gate(monkeypatch):
    own, step = Gate(), Scheduler.step

    def gated(scheduler):
        own.wait()
        return step(scheduler)

    monkeypatch.setattr(Scheduler, "step", gated)
    yield own
    own.open()


@contextlib.contextmanager
def serving(gate, **limits):
    """Gives a server of one place, whose device goes on when it has to stop."""
    with served.serving(served.writer(1), **limits) as server:
        try:
            yield server
        finally:
            gate.open()


@pytest.fixture
def clients():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        yield pool


def until(holds):
    """Waits for what has to come true."""
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def expected(**changes):
    values = LONG | changes
    settings = {name: values[name] for name in ("sampler", "min_length")}
    request = Request.prompt("ab", seed=values["seed"], sampler=sampler_of(settings))
    [result] = served.writer(1).answer([request])
    return result


def test_who_comes_when_enough_wait_is_turned_away(gate, clients):
    with serving(gate, max_waiting=1) as server:
        first = clients.submit(server.post, **LONG)
        gate.step(1)
        until(lambda: server.service.gauges()["samples_placed"][1] == 1)
        second = clients.submit(server.post, **LONG, user="second")
        until(lambda: server.service.num_waiting == 1)
        third = server.post(**LONG)
        assert third.status_code == 429
        assert int(third.headers["Retry-After"]) >= 1
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        gate.open()
        for other in (first, second):
            assert other.result().status_code == 200
        assert server.service.num_waiting == 0
        assert server.post(**LONG).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_takes_too_long_gets_an_error_and_makes_room(gate, stream):
    with serving(gate, timeout=1) as server:
        answer = server.post(**LONG, n=3, stream=stream)
        if stream:
            assert answer.status_code == 200
            told = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 504
            told = answer.json()["error"]
        assert told["type"] == "timeout"
        assert "took more than 1 seconds" in told["message"]
        until(lambda: server.service.num_waiting == 0)
        gate.open()
        server.service.limits = Limits()
        assert server.post(**LONG, stream=stream).status_code == 200
        # None of the three that nobody waits for was finished.
        assert server.service.metrics.samples == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_makes_room_for_the_next(gate, clients, stream):
    with serving(gate) as server:
        with server.client() as client:
            gate.step(1)
            with contextlib.suppress(httpx.ReadTimeout):
                body = LONG | {"stream": stream, "n": 2}
                with client.stream("POST", "/v1/completions", json=body, timeout=1.0) as answer:
                    next(answer.iter_bytes())
        until(lambda: not server.service.gauges()["requests_running"][1])
        other = clients.submit(server.post, **LONG | {"seed": 2})
        gate.open()
        [choice] = other.result().json()["choices"]
        assert choice["text"] == expected(seed=2).generated[0]
        # Neither of the two that nobody waits for was finished.
        assert server.service.metrics.samples == 1
        status = 200 if stream else 499
        assert server.service.metrics.requests["/v1/completions", status] >= 1


def test_twenty_at_once_get_what_each_would_get_alone(clients):
    requests = [Request.prompt("ab" * (i % 3), seed=i, n=1 + i % 2) for i in range(20)]
    with served.serving() as server, concurrent.futures.ThreadPoolExecutor(20) as many:
        ask = lambda x: server.post(prompt="".join(x.parts), seed=x.seed, n=x.n, echo=True)  # noqa: E731
        answers = list(many.map(ask, requests))
    for request, answer in zip(requests, answers, strict=True):
        texts = [choice["text"] for choice in answer.json()["choices"]]
        assert texts == [x.text for x in served.writer().answer([request])]


def test_a_server_that_is_told_to_stop_finishes_what_runs(gate, clients):
    with serving(gate) as server:
        running = clients.submit(server.post, **LONG)
        until(lambda: server.service.gauges()["requests_running"][1])
        server.stop()
        with server.client() as client:
            until(lambda: client.get("/health").status_code == 503)
            assert client.get("/health").json() == {"status": "stopping"}
            refused = client.post("/v1/completions", json=LONG)
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
        assert running.running()
        gate.open()
        assert running.result().json()["choices"][0]["text"] == expected().generated[0]


def test_what_does_not_finish_in_time_is_told_so_when_the_server_stops(gate, clients):
    with serving(gate, shutdown_seconds=1) as server:
        running = clients.submit(server.post, **LONG)
        until(lambda: server.service.gauges()["requests_running"][1])
        server.stop()
        answer = running.result()
        assert answer.status_code == 503
        assert "stopping" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_the_device_is_told_to_all_and_to_the_health(monkeypatch, caplog, stream):
    def fails(_):
        raise RuntimeError("the chip is on fire")

    with served.serving() as server:
        assert server.post(**LONG).status_code == 200
        monkeypatch.setattr(Scheduler, "step", fails)
        answer = server.post(**LONG, stream=stream)
        assert answer.status_code == (200 if stream else 500)
        told = json.loads(answer.text.removeprefix("data: "))["error"]
        assert told["type"] == "server_error"
        assert "fire" not in told["message"]
        with server.client() as client:
            assert client.get("/health").json() == {"status": "failed"}
            assert client.get("/health").status_code == 503
            assert "flexmdm_up 0" in client.get("/metrics").text
        assert server.post(**LONG).status_code == 503
    assert "the chip is on fire" in caplog.text


def test_a_key_is_asked_for_where_there_is_one():
    with served.serving(key="séçret") as server, server.client() as client:
        for path in ("/v1/models", "/metrics", "/v1/models/letters"):
            for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "séçret"}):
                raw = {name: value.encode() for name, value in headers.items()}
                answer = client.get(path, headers=raw)
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
            right = {"Authorization": "Bearer séçret".encode()}
            assert client.get(path, headers=right).status_code == 200
        assert client.post("/v1/completions", json=LONG).status_code == 401
        assert client.get("/health").status_code == 200
        assert "séçret" not in client.get("/").text

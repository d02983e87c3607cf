"""The service from inside: phases, programs that are compiled first, and clients that are slow."""

import asyncio
import json

import httpx
import jax
import letters
import served

from flexmdm_jax.generation import engine as engines
from flexmdm_jax.generation.engine import Scheduler
from flexmdm_jax.generation.pools import Job
from flexmdm_jax.generation.requests import Request
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.generation.trace.encoding import frame_from_json
from flexmdm_jax.generation.trace.frames import Frame
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.serving.app import make_app
from flexmdm_jax.serving.service import Running
from flexmdm_jax.serving.streams import Frames
from flexmdm_jax.serving.worker import warm_up


def test_the_usual_programs_are_compiled_before_anybody_asks(monkeypatch):
    """Whatever is given, and whether or not it is watched, there is nothing left to compile."""
    monkeypatch.setattr(engines, "buffer_lengths", lambda length: (4, length))
    engine = letters.writer(2, 9).engine
    compiled = []
    count = lambda name, *_, **__: compiled.append(name)  # noqa: E731
    scheduler = Scheduler(engine, None)
    work_off(scheduler, warm_up(engine))
    pools = scheduler.num_pools
    assert pools == 4
    jax.monitoring.register_event_duration_secs_listener(count)
    for given in (0, 3, 5):
        start = Start.of([97] * given, [given], engine.process, 9)
        sampler = SamplerConfig(temperature=0.5, max_length=3)
        work_off(scheduler, [Job(start, sampler, 1, watched=x) for x in (False, True)])
    jax.monitoring.unregister_event_duration_listener(count)
    assert scheduler.num_pools == pools
    assert not [name for name in compiled if "compile" in name]


def work_off(scheduler, jobs):
    for job in jobs:
        scheduler.add(job)
    while scheduler.busy:
        scheduler.step()


def test_nothing_is_taken_on_before_the_start():
    async def ask():
        transport = httpx.ASGITransport(make_app(served.service()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            health = await client.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "starting"})
            answer = await client.post("/v1/completions", json={"prompt": "ab"})
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "the server is starting"

    asyncio.run(ask())


def test_a_client_that_is_slow_misses_frames_and_still_sees_what_becomes_of_the_text():
    """500 frames come before it reads one: those that it gets lead to the last, step by step."""
    frames = [
        Frame(
            call=n,
            time=n / 500,
            tokens=(97,) * n,
            changed=tuple(range(1, n + 1)),
            confidence=(0.5,) * n,
            fixed=(False,) * n,
        )
        for n in range(501)
    ]

    async def read():
        service = served.service()
        encoded = service.writer.encode(Request.prompt("", seed=1))
        running = Running(service, [encoded], watched=True)
        for frame in frames:
            running.put(0, frame)
        changes, found = Frames(service.writer.tokenizer), []
        while not found or found[-1].time < 1:
            place, frame = await running.next()
            values = json.loads(json.dumps(changes.change(place, frame)))
            found.append(frame_from_json(values["frame"], found[-1] if found else None))
            assert values["text"] == "a" * frame.call
        return found

    found = asyncio.run(read())
    assert len(found) < 100
    assert [frame.tokens for frame in found] == [frames[frame.call].tokens for frame in found]
    assert found[-1].call == 500

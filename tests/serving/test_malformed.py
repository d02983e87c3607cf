"""Whatever a client sends, it gets a line that says what is wrong, and the server lives."""

import asyncio
import json
import random
import socket

import httpx
import pytest
import served

from flexmdm_jax.serving.app import make_app

DEEP = "[" * 3000 + "]" * 3000
# What no field may be.
NOTHING = ["{}", '{"a": 1}', "true", DEEP, '[["a"]]', "[null]", "1e999", "9" * 5000, "NaN"]
NO_TEXT = [*NOTHING, "7", "-0.5", "[]"]
NO_NUMBER = [*NOTHING, '"7"', "-1", "[]", f'"{"x" * 999}"', "1e400", "9" * 300]
NO_SWITCH = ["1", '"true"', "[]", "{}", '{"a": 1}']
NO_IDS = ["[1e3]", "[-1]", "[258]", "[256]", f"[{10**30}]", "[[1], 2]", '["a", 1]', r'["\ud800"]']
FIELDS = {
    "prompt": [*NOTHING, *NO_IDS, "7", "[]", r'"\ud800"', f'"{"x" * 5000}"'],
    "suffix": [*NO_TEXT, r'"\udfff"', f'"{"y" * 99}"'],
    **dict.fromkeys(("model", "user", "rule", "sampler", "corrector", "insertions"), NO_TEXT),
    **dict.fromkeys(("n", "seed", "max_tokens", "steps", "top_k", "min_length"), NO_NUMBER),
    **dict.fromkeys(("temperature", "top_p", "events_per_step", "finish_below"), NO_NUMBER),
    **dict.fromkeys(("stream", "echo"), NO_SWITCH),
    "stream_options": ["1", "[]", '{"include": true}', '{"include_usage": 1}'],
    "logprobs": ["0", "true", '"a"'],
    "stop": ['"a"', "[1]", "7", DEEP],
}
TEMPLATES = ["{}", "7", '"a"', '["a"]', "[]", "[null, null]", "[[256], null]", '"<gap><gap>"', DEEP]


def body(source: random.Random) -> tuple[str, bytes]:
    """Returns an address and a body in which something is wrong."""
    kind = source.randrange(6)
    if kind == 0:
        return "/v1/infill", f'{{"template": {source.choice(TEMPLATES)}}}'.encode()
    if kind == 1:
        return "/v1/completions", source.randbytes(source.randrange(200))
    name = source.choice(list(FIELDS))
    fields = {"prompt": '"ab"', name: source.choice(FIELDS[name])}
    whole = ", ".join(f'"{key}": {value}' for key, value in fields.items())
    text = f"{{{whole}}}"
    if kind == 2:
        return "/v1/completions", text.encode()[: source.randrange(len(text))]
    if kind == 3:
        return "/v1/completions", f'{{"{source.randbytes(3).hex()}": 1, {whole[:40]}}}'.encode()
    if kind == 4:
        place = source.randrange(len(text))
        return "/v1/completions", text.encode()[:place] + b"\xff\xfe" + text.encode()[place:]
    return "/v1/completions", text.encode()


def headers(source: random.Random) -> dict[str, str]:
    kinds = ["application/json"] * 8 + ["", "text/plain", "application/json; charset=\x80", "\x00"]
    lengths = ["1", "-1", "9" * 5000, "x"]
    chosen = {"Content-Type": source.choice(kinds)}
    return chosen | ({"Content-Length": source.choice(lengths)} if source.random() < 0.1 else {})


def test_two_thousand_malformed_requests_get_a_line_each():
    asyncio.run(_ask_two_thousand())


async def _ask_two_thousand():
    source, service = random.Random(0), served.service(max_body=2**16)
    service.start(compile_first=False)
    await service.settled()
    transport = httpx.ASGITransport(make_app(service))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=600
    ) as client:
        for _ in range(2000):
            path, content = body(source)
            sent = {name: value.encode("latin-1") for name, value in headers(source).items()}
            answer = await client.post(path, content=content, headers=sent)
            assert 400 <= answer.status_code < 500, (path, content, answer.text)
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert 0 < len(error["message"]) <= 500
            assert "\n" not in error["message"]
        for method, path, status in (
            ("GET", "/v1/completions", 405),
            ("POST", "/health", 405),
            ("GET", "/v1/../etc/passwd", 404),
            ("POST", "/v1/chat/completions", 404),
            ("DELETE", "/", 405),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]
        large = await client.post("/v1/completions", json={"prompt": "x" * 2**16})
        assert large.status_code == 413
        right = await client.post("/v1/completions", json={"prompt": "ab", "seed": 1})
        assert right.status_code == 200
    assert service.gauges()["requests_running"][1] == 0
    assert await service.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\x00/ HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000,
        b"\r\n" * 1000,
        b"",
    ],
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(data, server):
    host, _, port = server.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok"}


@pytest.fixture(scope="module")
def server():
    with served.serving() as running:
        yield running


def test_a_body_longer_than_it_says_or_than_is_allowed_is_not_read(server):
    most = server.service.limits.max_body

    def chunks():
        for _ in range(most // 1000 + 2):
            yield b" " * 1000

    with server.client() as client:
        kind = {"Content-Type": "application/json"}
        answer = client.post("/v1/completions", content=chunks(), headers=kind)
        assert answer.status_code == 413
        assert f"longer than {most} bytes" in json.loads(answer.text)["error"]["message"]

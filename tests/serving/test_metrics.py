"""Figures that Prometheus' own parser reads."""

import served
from prometheus_client.parser import text_string_to_metric_families

from flexmdm_jax.serving.metrics import BUCKETS, Metrics


def values(text):
    """Returns the samples of a text: (name, labels) -> value."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_in_the_bucket_of_their_time():
    metrics = Metrics()
    for seconds in (0.05, BUCKETS[0], 3.0, 1000.0):
        metrics.observe(seconds)
    found = values(metrics.text({}))
    name = "flexmdm_request_seconds"
    for bound in BUCKETS:
        expected = sum(x <= bound for x in (0.05, BUCKETS[0], 3.0, 1000.0))
        assert found[f"{name}_bucket", ("le", str(bound))] == expected
    assert found[f"{name}_bucket", ("le", "+Inf")] == found[f"{name}_count",] == 4
    assert found[f"{name}_sum",] == 1003.15
    assert metrics.mean_seconds == 1003.15 / 4


def test_what_a_server_has_done_is_told():
    with served.serving() as server, server.client() as client:
        answer = server.post(prompt="ab", n=3, seed=1).json()
        server.post(prompt=7)
        client.get("/nowhere")
        reply = client.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = values(reply.text)
    ask = ("path", "/v1/completions")
    assert found["flexmdm_requests_total", ask, ("status", "200")] == 1
    assert found["flexmdm_requests_total", ask, ("status", "400")] == 1
    assert found["flexmdm_requests_total", ("path", "other"), ("status", "404")] == 1
    assert found["flexmdm_tokens_total",] == answer["usage"]["completion_tokens"]
    assert found["flexmdm_calls_total",] == sum(x["calls"] for x in answer["flexmdm"]["samples"])
    assert found["flexmdm_samples_total",] == 3
    assert found["flexmdm_request_seconds_count",] == 2
    assert found["flexmdm_places",] == 4
    assert found["flexmdm_up",] == 1
    for name in ("requests_running", "samples_waiting", "samples_placed"):
        assert found[f"flexmdm_{name}",] == 0

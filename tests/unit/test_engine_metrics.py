"""The text format, and what the engine counts."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from api_fakes import ApiServer

from corten.api.tcp import TcpOptions
from corten.engine.metrics import Metrics, timed
from corten.engine.prometheus import Counter, Histogram, Measured, Registry

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (\S+)\Z')


def samples(text: bytes) -> dict[str, float]:
    """Every series of a scrape, checked line by line as the format's page describes it."""
    assert text.endswith(b"\n")
    found: dict[str, float] = {}
    families: dict[str, str] = {}
    helped = ""
    for line in text.decode().splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ")[2]
            assert helped not in families
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == helped
            assert kind in ("counter", "gauge", "histogram")
            families[name] = kind
        else:
            match = SAMPLE.match(line)
            assert match, line
            base = match[1]
            if families[helped] == "histogram":
                base = re.sub("_(bucket|sum|count)$", "", base)
            assert base == helped
            series = match[1] + (match[2] or "")
            assert series not in found
            found[series] = float(match[3])
    return found


def test_counters() -> None:
    registry = Registry()
    plain = registry.add(Counter("a_total", "plain"))
    by_name = registry.add(Counter("b_total", 'a "name"\n\\', ("name",)))
    assert samples(registry.text()) == {"a_total": 0}
    plain.add()
    plain.add(amount=1.5)
    by_name.add('x"\\\ny')
    by_name.add("seen", amount=0)
    assert samples(registry.text()) == {"a_total": 2.5, 'b_total{name="x\\"\\\\\\ny"}': 1, 'b_total{name="seen"}': 0}
    assert b'# HELP b_total a "name"\\n\\\\\n' in registry.text()


def test_histograms_are_cumulative() -> None:
    registry = Registry()
    histogram = registry.add(Histogram("h_seconds", "text", ("action",), buckets=(0.1, 1)))
    for seconds in (0.05, 0.1, 0.5, 7):
        histogram.observe(seconds, "start")
    found = samples(registry.text())
    assert found['h_seconds_bucket{action="start",le="0.1"}'] == 2  # a bound belongs to its bucket
    assert found['h_seconds_bucket{action="start",le="1"}'] == 3
    assert found['h_seconds_bucket{action="start",le="+Inf"}'] == 4 == found['h_seconds_count{action="start"}']
    assert math.isclose(found['h_seconds_sum{action="start"}'], 7.65)


def test_numbers_that_are_read() -> None:
    registry = Registry()
    registry.add(Measured("one", "text", lambda: 0.25))
    registry.add(Measured("two", "text", lambda: {("x",): float("nan"), ("y",): 12345678901234}, ("label",)))
    found = samples(registry.text())
    assert found["one"] == 0.25
    assert math.isnan(found['two{label="x"}'])
    assert found['two{label="y"}'] == 12345678901234


def test_two_of_one_name_are_a_mistake() -> None:
    registry = Registry()
    registry.add(Counter("a", "text"))
    with pytest.raises(ValueError, match="two metrics"):
        registry.add(Counter("a", "text"))


def test_actions_that_succeed_are_timed() -> None:
    class Things:
        metrics = Metrics()

        @timed("start")
        async def start(self, fails: bool) -> str:
            if fails:
                raise KeyError
            return "done"

    async def work() -> None:
        things = Things()
        assert await things.start(fails=False) == "done"
        with pytest.raises(KeyError):
            await things.start(fails=True)

    asyncio.run(work())
    found = samples(Things.metrics.text())
    assert found['engine_daemon_container_actions_seconds_count{action="start"}'] == 1
    assert found['engine_daemon_container_actions_seconds_count{action="create"}'] == 0


def test_the_process_is_described() -> None:
    found = samples(Metrics().text())
    assert found["process_resident_memory_bytes"] > 5e6
    assert found["process_open_fds"] > 3
    assert found["process_start_time_seconds"] > 1e9
    assert found["process_cpu_seconds_total"] > 0


def test_they_are_served_on_the_socket_and_at_an_address_of_their_own() -> None:
    with ApiServer(metrics_address="127.0.0.1:0", tcp=TcpOptions()) as server:
        answer = server.ask("GET", "/v1.40/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        server.ask("GET", "/containers/nope/json")
        found = samples(server.ask("GET", "/metrics").body)
        assert found['corten_api_requests_total{method="GET",code="404"}'] == 1
        assert found['corten_api_requests_total{method="GET",code="200"}'] == 1
        assert found['corten_api_connections{kind="http"}'] == 1
        address = server.server.tcp_addresses[0]
        from test_api_tcp import TcpClient

        with TcpClient(server) as client:
            assert samples(client.ask("GET", "/metrics").body)["process_open_fds"] > 3
            for method, path in (("GET", "/_ping"), ("GET", "/containers/json"), ("POST", "/containers/prune")):
                assert client.ask(method, path).status == 404
        assert address[0] == "127.0.0.1"

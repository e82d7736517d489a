"""Counters of all workers together, in Prometheus' text format.

Each worker has a row of numbers in memory that all share; who is asked adds the rows up.  So any worker answers for
all, and what one that has ended had counted is not lost.
"""

from __future__ import annotations

import mmap

from corten import __version__

_BUCKETS_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
KINDS = ("manifests", "blobs", "uploads", "tags", "referrers", "catalog", "base", "other")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CLASSES = (2, 3, 4, 5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUESTS = len(KINDS) * len(METHODS) * len(_CLASSES)
_TIMES = len(KINDS) * (len(_BUCKETS_S) + 1)
_PLAIN = (
    ("sent_bytes_total", "counter", "Bytes of content that were sent."),
    ("received_bytes_total", "counter", "Bytes that clients have sent."),
    ("known_answers_total", "counter", "Answers that were given from memory."),
    ("connections", "gauge", "Clients that are connected."),
    ("proxy_hits_total", "counter", "Requests that the cache of another registry could answer."),
    ("proxy_misses_total", "counter", "Requests for which the other registry was asked for content."),
    ("proxy_failures_total", "counter", "Requests that the other registry did not answer."),
)
_PLACES = {name: _REQUESTS + 2 * len(KINDS) + _TIMES + place for place, (name, _, _) in enumerate(_PLAIN)}
_ROW = _REQUESTS + 2 * len(KINDS) + _TIMES + len(_PLAIN)


class Metrics:
    """Made before the workers are; ``row`` chooses a worker's own numbers."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, 8 * _ROW * workers)
        self._all = memoryview(self._memory).cast("d")
        self._mine = self._all[:_ROW]

    def choose(self, worker: int) -> None:
        self._mine = self._all[worker * _ROW : (worker + 1) * _ROW]
        self._mine[_PLACES["connections"]] = 0

    def add(self, name: str, amount: float = 1.0) -> None:
        self._mine[_PLACES[name]] += amount

    def known(self, size: int) -> None:
        """An answer from memory: they are of manifests, and take no time worth a measurement."""
        self._mine[_PLACES["known_answers_total"]] += 1
        self._mine[_PLACES["sent_bytes_total"]] += size

    def request(self, kind: str, method: str, status: int, seconds: float) -> None:
        kind_place = KINDS.index(kind)
        if method in METHODS and status // 100 in _CLASSES:
            place = kind_place * len(METHODS) + METHODS.index(method)
            self._mine[place * len(_CLASSES) + _CLASSES.index(status // 100)] += 1
        self._mine[_REQUESTS + kind_place] += seconds
        self._mine[_REQUESTS + len(KINDS) + kind_place] += 1
        bucket = next((place for place, edge in enumerate(_BUCKETS_S) if seconds <= edge), len(_BUCKETS_S))
        self._mine[_REQUESTS + 2 * len(KINDS) + kind_place * (len(_BUCKETS_S) + 1) + bucket] += 1

    def _sum(self, place: int) -> float:
        return sum(self._all[worker * _ROW + place] for worker in range(self._workers))

    def text(self) -> bytes:
        lines = [
            "# HELP corten_registry_info The version of the server.",
            "# TYPE corten_registry_info gauge",
            f'corten_registry_info{{version="{__version__}"}} 1',
            "# HELP corten_registry_requests_total Requests, but those that were answered from memory.",
            "# TYPE corten_registry_requests_total counter",
        ]
        for place in range(_REQUESTS):
            if count := self._sum(place):
                rest, status = divmod(place, len(_CLASSES))
                kind, method = divmod(rest, len(METHODS))
                labels = f'kind="{KINDS[kind]}",method="{METHODS[method]}",code="{_CLASSES[status]}xx"'
                lines.append(f"corten_registry_requests_total{{{labels}}} {count:.0f}")
        lines += [
            "# HELP corten_registry_request_seconds Time from a request's head to the end of its answer.",
            "# TYPE corten_registry_request_seconds histogram",
        ]
        for place, kind_name in enumerate(KINDS):
            lines += self._histogram(place, kind_name)
        for name, kind_of_metric, text in _PLAIN:
            lines += [
                f"# HELP corten_registry_{name} {text}",
                f"# TYPE corten_registry_{name} {kind_of_metric}",
                f"corten_registry_{name} {self._sum(_PLACES[name]):.0f}",
            ]
        return ("\n".join(lines) + "\n").encode()

    def _histogram(self, kind: int, name: str) -> list[str]:
        count = self._sum(_REQUESTS + len(KINDS) + kind)
        if not count:
            return []
        lines = []
        below = 0.0
        first = _REQUESTS + 2 * len(KINDS) + kind * (len(_BUCKETS_S) + 1)
        metric = "corten_registry_request_seconds"
        for place, edge in enumerate((*map(str, _BUCKETS_S), "+Inf")):
            below += self._sum(first + place)
            lines.append(f'{metric}_bucket{{kind="{name}",le="{edge}"}} {below:.0f}')
        lines.append(f'{metric}_sum{{kind="{name}"}} {self._sum(_REQUESTS + kind):.6f}')
        lines.append(f'{metric}_count{{kind="{name}"}} {count:.0f}')
        return lines

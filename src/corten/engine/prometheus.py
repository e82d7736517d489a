"""Counters, gauges and histograms, and their text form for Prometheus.

Source: the exposition format, version 0.0.4 (prometheus.io, "Exposition formats").  Written here, as so few kinds of
metrics are needed that a library would be the larger part of them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = tuple[str, ...]
M = TypeVar("M", bound="Metric")
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _labelled(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{key}="{value.translate(_LABEL_ESCAPES)}"' for key, value in pairs)
    return f"{name}{{{text}}}" if text else name


class Metric:
    """A family of series: one for each combination of its labels' values."""

    kind = ""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self._text = text
        self._labels = labels

    def lines(self) -> Iterator[str]:
        """The family as text, line by line."""
        yield f"# HELP {self.name} {self._text.translate(_HELP_ESCAPES)}"
        yield f"# TYPE {self.name} {self.kind}"
        yield from self._samples()

    def _samples(self) -> Iterator[str]:
        raise NotImplementedError

    def _pairs(self, values: Labels) -> list[tuple[str, str]]:
        return list(zip(self._labels, values, strict=True))


class Counter(Metric):
    """A number that only grows.  Of one without labels the series is there from the beginning."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Also makes the series, with an ``amount`` of 0."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def _samples(self) -> Iterator[str]:
        for labels, value in sorted(self._values.items()):
            yield f"{_labelled(self.name, self._pairs(labels))} {_number(value)}"


class Measured(Metric):
    """Numbers that are read when somebody asks: of a gauge, or of a counter that someone else keeps.

    read: a number, or one for each combination of the labels' values
    """

    def __init__(
        self,
        name: str,
        text: str,
        read: Callable[[], float | Mapping[Labels, float]],
        labels: Labels = (),
        kind: str = "gauge",
    ) -> None:
        super().__init__(name, text, labels)
        self._read = read
        self.kind = kind

    def _samples(self) -> Iterator[str]:
        found = self._read()
        values = found if isinstance(found, Mapping) else {(): found}
        for labels, value in values.items():
            yield f"{_labelled(self.name, self._pairs(labels))} {_number(value)}"


class Histogram(Metric):
    """How long things took, in seconds."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels = (), buckets: tuple[float, ...] = BUCKETS) -> None:
        super().__init__(name, text, labels)
        self._buckets = buckets
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}  # counts of the buckets; [sum]
        if not labels:
            self.make()

    def make(self, *labels: str) -> None:
        """The series is there, though nothing has been observed."""
        self._series.setdefault(labels, ([0] * (len(self._buckets) + 1), [0.0]))

    def observe(self, seconds: float, *labels: str) -> None:
        self.make(*labels)
        counts, total = self._series[labels]
        counts[bisect.bisect_left(self._buckets, seconds)] += 1
        total[0] += seconds

    def _samples(self) -> Iterator[str]:
        for labels, (counts, total) in sorted(self._series.items()):
            pairs = self._pairs(labels)
            seen = 0
            for bound, count in zip((*self._buckets, float("inf")), counts, strict=True):
                seen += count
                yield f"{_labelled(f'{self.name}_bucket', [*pairs, ('le', _number(bound))])} {seen}"
            yield f"{_labelled(f'{self.name}_sum', pairs)} {_number(total[0])}"
            yield f"{_labelled(f'{self.name}_count', pairs)} {seen}"


class Registry:
    """All metrics of one process."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def add(self, metric: M) -> M:
        """Errors: ValueError for a name that is taken."""
        if metric.name in self._metrics:
            raise ValueError(f"two metrics are named {metric.name}")
        self._metrics[metric.name] = metric
        return metric

    def text(self) -> bytes:
        """Everything, in the order of the names."""
        lines = [line for name in sorted(self._metrics) for line in self._metrics[name].lines()]
        return ("\n".join(lines) + "\n").encode()

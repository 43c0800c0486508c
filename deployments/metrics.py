"""`/metrics` for Prometheus: the board as gauges, what ended as counters and histograms.

A scrape asks the database once, in a thread of its own, and not again before ten times as long has passed as that took
(thirty seconds at most); each reading counts what ended since the one before, in the database, so that it costs what
ended and the counting of the tasks. Where the database does not answer, the last values are served, and
`nexus_database_up` is 0. Counters begin with the process, as Prometheus expects.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from deployments.errors import MetricsPortTaken
from nexus import NexusSettings, TaskNexus, TaskStatus
from nexus.figures import BROUGHT_TO_AN_END, Ended, Reading

BOUNDS: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0)
"""Of the buckets, in seconds: handlers take milliseconds or hours, and so do waits."""

MOST_TYPES: Final = 100
"""So many task types get a label of their own, the first to be seen; a series each is what Prometheus can bear."""

OTHERS: Final = "(others)"
"""The label of all types beyond these."""

PATIENCE_SECONDS: Final = 3.0
"""How long a scrape waits for the database; Prometheus itself gives up after ten."""

REST: Final = 10.0
"""A reading is followed by a rest so many times as long: no frequency of scrapes makes the database busy."""

MOST_REST_SECONDS: Final = 30.0
"""But by no longer one: it may have taken long because the database was stopped in the middle."""


class _Durations:
    """One histogram: how many, within which bounds, and their sum."""

    def __init__(self) -> None:
        self.count, self.seconds, self.within = 0, 0.0, [0] * len(BOUNDS)

    def add(self, count: int, seconds: float, within: tuple[int, ...]) -> None:
        self.count += count
        self.seconds += seconds
        self.within = [one + more for one, more in zip(self.within, within, strict=True)]

    def buckets(self) -> list[tuple[str, float]]:
        """As the exposition format has them: cumulative, the last one without a bound."""
        bounded = [(str(bound), float(number)) for bound, number in zip(BOUNDS, self.within, strict=True)]
        return [*bounded, ("+Inf", float(self.count))]


class Meter(Collector):
    """What is exported, and where it comes from. Safe to scrape from several threads.

    Args:
        open_nexus: opens the board, at the first scrape and after it could not be opened; should not wait long.
        rest: see `REST`.
    """

    def __init__(self, open_nexus: Callable[[], TaskNexus], *, rest: float = REST) -> None:
        self._open, self._rest = open_nexus, rest
        self._nexus: TaskNexus | None = None
        self._lock = threading.Lock()
        self._read = threading.Event()
        """Set where no reading goes on."""
        self._read.set()
        self._not_before = 0.0
        self._up = False
        self._last: Reading | None = None
        self._types: set[str] = set()
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._waits: dict[str, _Durations] = {}
        self._runs: dict[str, _Durations] = {}

    def collect(self) -> Iterator[Metric]:
        """One scrape. Never raises; waits `PATIENCE_SECONDS` at most."""
        self.look()
        with self._lock:
            return iter([*self._health(), *self._present(), *self._past()])

    def look(self) -> None:
        """Ask the database, unless that goes on already or was done a moment ago."""
        with self._lock:
            begins = self._read.is_set() and time.monotonic() >= self._not_before
            if begins:
                self._read.clear()
        if begins:
            threading.Thread(target=self._ask, name="metrics", daemon=True).start()
        if not self._read.wait(PATIENCE_SECONDS):
            self._up = False

    def close(self) -> None:
        """Close the connections."""
        self._read.wait(PATIENCE_SECONDS)
        if self._nexus is not None:
            self._nexus.close()

    def _ask(self) -> None:
        began = time.monotonic()
        reading = None
        try:
            self._nexus = self._nexus or self._open()
            reading = self._nexus.reading(self._last.until if self._last else None, BOUNDS)
        except Exception:
            reading = None  # `nexus doctor` says what it is; a scrape only that it is
        with self._lock:
            self._up = reading is not None
            if reading is not None:
                self._take(reading)
                ended = time.monotonic()
                self._not_before = ended + min(self._rest * (ended - began), MOST_REST_SECONDS)
            self._read.set()

    def _take(self, reading: Reading) -> None:
        self._last = reading
        for ended in reading.ended:
            self._count(ended)

    def _count(self, ended: Ended) -> None:
        label = self._label(ended.task_type)
        self._attempts[label, ended.outcome] += ended.attempts
        self._waits.setdefault(label, _Durations()).add(ended.waits, ended.wait_seconds, ended.wait_buckets)
        if ended.outcome in BROUGHT_TO_AN_END:
            self._runs.setdefault(label, _Durations()).add(ended.attempts, ended.run_seconds, ended.run_buckets)

    def _label(self, task_type: str) -> str:
        if task_type not in self._types and len(self._types) >= MOST_TYPES:
            return OTHERS
        self._types.add(task_type)
        return task_type

    def _health(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("nexus_database_up", "Whether the board's database answers (1) or not (0).", self._up)

    def _present(self) -> Iterator[Metric]:
        if self._last is None:
            return
        read = "When the board was read last, in seconds since 1970."
        yield GaugeMetricFamily("nexus_read_timestamp_seconds", read, self._last.at.timestamp())
        tasks = GaugeMetricFamily("nexus_tasks", "Tasks on the board, by status.", labels=["status"])
        for status in TaskStatus:
            tasks.add_metric([status.value], self._last.status.get(status, 0))
        yield tasks
        longest: dict[str, float] = {}
        for task_type, seconds in sorted(self._last.oldest_waiting.items()):
            label = self._label(task_type)
            longest[label] = max(seconds, longest.get(label, 0.0))
        about = "How long the first task in line could have been claimed, by task type."
        oldest = GaugeMetricFamily("nexus_oldest_waiting_seconds", about, labels=["task_type"])
        for label, seconds in longest.items():
            oldest.add_metric([label], seconds)
        yield oldest
        if self._last.sweep_age_seconds is not None:
            age = self._last.sweep_age_seconds
            yield GaugeMetricFamily("nexus_sweep_age_seconds", "Time since the last sweep.", age)
        about = "Waits and deadlines that went past their bounds and are not over."
        yield GaugeMetricFamily("nexus_open_stalls", about, self._last.open_stalls)

    def _past(self) -> Iterator[Metric]:
        about = "Attempts that ended since this process began, by task type and outcome."
        attempts = CounterMetricFamily("nexus_attempts", about, labels=["task_type", "outcome"])
        for (label, outcome), number in self._attempts.items():
            attempts.add_metric([label, outcome], number)
        yield attempts
        waited = "How long a task could be claimed before it was, of attempts that ended."
        yield self._histogram("nexus_wait_seconds", waited, self._waits)
        yield self._histogram(
            "nexus_run_seconds", "How long attempts took that completed, failed or timed out.", self._runs
        )

    @staticmethod
    def _histogram(name: str, about: str, durations: dict[str, _Durations]) -> Metric:
        family = HistogramMetricFamily(name, about, labels=["task_type"])
        for label, one in durations.items():
            family.add_metric([label], one.buckets(), one.seconds)
        return family


@contextmanager
def exporting(settings: NexusSettings, say: Callable[[str], None]) -> Iterator[None]:
    """Serves `/metrics` meanwhile, where the settings name a port. Raises `MetricsPortTaken` before anything else."""
    service = settings.service
    if service.metrics_port is None:
        yield
        return
    # A scrape is soon repeated: it need not wait for a database that comes back.
    hasty = settings.model_copy(update={"database_retry_seconds": 0.0, "database_connect_seconds": 2})
    with serving(Meter(lambda: TaskNexus(settings=hasty)), service.metrics_host, service.metrics_port) as address:
        say(f"metrics: {address}")
        yield


@contextmanager
def serving(meter: Meter, host: str, port: int) -> Iterator[str]:
    """Serves one meter; the address. Raises `MetricsPortTaken`."""
    registry = CollectorRegistry()
    registry.register(meter)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise MetricsPortTaken(host, port, error.strerror or str(error)) from error
    # From here on it counts, and not only from the first scrape.
    threading.Thread(target=meter.look, name="first reading", daemon=True).start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_SECONDS)
        meter.close()

"""`/metrics` as Prometheus has it: scraped over HTTP, parsed, and compared with the board."""

import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics import BOUNDS, MOST_TYPES, OTHERS, Meter, exporting, serving
from deployments.ports import free_port
from nexus import NexusSettings, TaskNexus, TaskStatus
from nexus.errors import DatabaseUnavailable

from ..conftest import Clock
from .live import Command, clean_environment

DOCS = Path(__file__).parents[2] / "docs"
ONCE = {"max_attempts": 1}

Scrape = Callable[[], dict[tuple[str, ...], float]]


def scraped(address: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, the task type first."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type != "unknown", f"{family.name} has no TYPE"
        for sample in family.samples:
            key = (sample.name, *(sample.labels[label] for label in sorted(sample.labels, reverse=True)))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


@pytest.fixture
def serve() -> Iterator[Callable[[Meter], Scrape]]:
    """Serves a meter; the answer is a scrape."""
    with ExitStack() as stack:

        def begin(meter: Meter) -> Scrape:
            address = stack.enter_context(serving(meter, "127.0.0.1", free_port("127.0.0.1")))
            return lambda: scraped(address)

        yield begin


@pytest.fixture
def scrape(nexus: TaskNexus, serve: Callable[[Meter], Scrape]) -> Scrape:
    """Scrapes the test's board, which was read once."""
    ask = serve(Meter(lambda: nexus, rest=0))
    ask()
    return ask


@pytest.fixture
def work(nexus: TaskNexus, clock: Clock) -> Callable[..., None]:
    """`work("draw", wait=5, run=60)`: one was claimed after 5 s and completed 60 s later, and that is a while ago."""

    def do(task_type: str, *, wait: float = 0, run: float = 0, fails: bool = False) -> None:
        task_id = nexus.add_task({"task_type": task_type, "retry_policy": ONCE}).task_id
        clock.advance(wait)
        claim = nexus.claim_task(task_id, "Ada", lease_seconds=86_400)
        nexus.start(claim)
        clock.advance(run)
        nexus.fail(claim, "no") if fails else nexus.complete(claim, 1)
        clock.advance(10)

    return do


def test_the_board_as_gauges(nexus: TaskNexus, clock: Clock, scrape: Scrape) -> None:
    assert ("nexus_sweep_age_seconds",) not in scrape(), "there was none yet"
    nexus.add_tasks([{"task_type": "draw"}, {"task_type": "draw"}, {"task_type": "write"}])
    clock.advance(4000)
    nexus.sweep()
    clock.advance(30)
    nexus.claim("Ada", task_types=["write"])

    found = scrape()

    counted = nexus.stats()
    for status in TaskStatus:
        assert found["nexus_tasks", status] == counted[status]
    assert found["nexus_oldest_waiting_seconds", "draw"] == 4030
    assert ("nexus_oldest_waiting_seconds", "write") not in found
    assert found["nexus_sweep_age_seconds",] == 30
    assert found["nexus_open_stalls",] == len(nexus.stalls(open_only=True)) == 2
    assert found["nexus_database_up",] == 1
    assert found["nexus_read_timestamp_seconds",] == clock().timestamp()


def test_what_ended_as_counters_and_histograms(scrape: Scrape, work: Callable[..., None], nexus: TaskNexus) -> None:
    work("draw", wait=0.3, run=7)
    work("draw", wait=20, run=7000)
    work("draw", run=2, fails=True)
    scrape()
    work("draw", wait=1e6, run=50)
    work('a "type"\\', run=1)

    found = scrape()

    figures = nexus.figures()
    for task_type, of_the_type in figures.by_type.items():
        assert found["nexus_attempts_total", task_type, "completed"] == of_the_type.completed
        assert found.get(("nexus_attempts_total", task_type, "failed"), 0) == of_the_type.failed
        assert found["nexus_run_seconds_count", task_type] == of_the_type.run.count
        assert found["nexus_wait_seconds_count", task_type] == of_the_type.wait.count
    assert found["nexus_run_seconds_sum", "draw"] == pytest.approx(7059)
    assert found["nexus_wait_seconds_sum", "draw"] == pytest.approx(1_000_020.3)
    waits = [found["nexus_wait_seconds_bucket", "draw", str(bound)] for bound in (*BOUNDS, "+Inf")]
    assert waits == [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4]
    assert found == scrape(), "nothing is counted twice"


def test_what_ended_before_it_began_is_not_counted(
    nexus: TaskNexus, work: Callable[..., None], serve: Callable[[Meter], Scrape]
) -> None:
    work("old")
    scrape = serve(Meter(lambda: nexus, rest=0))
    scrape()
    work("new")
    assert {key[1] for key in scrape() if key[0] == "nexus_attempts_total"} == {"new"}


def test_a_board_with_more_types_than_anybody_can_look_at(nexus: TaskNexus, clock: Clock, scrape: Scrape) -> None:
    nexus.add_tasks([{"task_type": f"type-{number:03d}"} for number in range(MOST_TYPES + 20)])
    claims = nexus.claim("Ada", MOST_TYPES + 20, start=True)
    nexus.complete_many([(claim, 1) for claim in claims])
    clock.advance(10)
    found = scrape()
    counted = {key[1]: number for key, number in found.items() if key[0] == "nexus_attempts_total"}
    assert len(counted) == MOST_TYPES + 1
    assert counted[OTHERS] == 20
    assert set(counted.values()) == {1, 20}
    nexus.add_task({"task_type": "yet another"})
    assert ("nexus_oldest_waiting_seconds", OTHERS) in scrape()


def test_while_the_database_is_away_the_last_values_are_served(
    nexus: TaskNexus, scrape: Scrape, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nexus.add_task({"task_type": "draw"})
    before = scrape()

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("it restarts")

    with monkeypatch.context() as patch:
        patch.setattr(TaskNexus, "reading", away)
        found = scrape()
    assert found == {**before, ("nexus_database_up",): 0}
    work("write")
    again = scrape()
    assert again["nexus_database_up",] == 1
    assert again["nexus_attempts_total", "write", "completed"] == 1, "what ended meanwhile is counted afterwards"


def test_a_database_that_says_nothing_holds_no_scrape_up(
    nexus: TaskNexus, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = [], threading.Event()
    reading = TaskNexus.reading

    def slowly(*given: Any) -> Any:
        asked.append(given)
        answers.wait(60)
        return reading(*given)

    before = scrape()
    monkeypatch.setattr("deployments.metrics.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(TaskNexus, "reading", slowly)
    assert scrape() == scrape() == {**before, ("nexus_database_up",): 0}
    assert len(asked) == 1, "and no second question is put to it"
    answers.set()
    monkeypatch.setattr("deployments.metrics.PATIENCE_SECONDS", 30)
    assert scrape()["nexus_database_up",] == 1


def test_frequent_scrapes_do_not_make_the_database_busy(
    nexus: TaskNexus, serve: Callable[[Meter], Scrape], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    reading = TaskNexus.reading
    monkeypatch.setattr(TaskNexus, "reading", lambda *given: asked.append(given) or reading(*given))
    scrape = serve(Meter(lambda: nexus, rest=1e6))
    for _ in range(5):
        scrape()
    assert len(asked) == 1


def test_after_a_question_in_vain_it_does_not_rest(
    nexus: TaskNexus, serve: Callable[[Meter], Scrape], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("it restarts")

    with monkeypatch.context() as patch:
        patch.setattr(TaskNexus, "reading", away)
        scrape = serve(Meter(lambda: nexus, rest=1e6))
        assert scrape() == {("nexus_database_up",): 0}
    assert scrape()["nexus_database_up",] == 1


def test_before_there_ever_was_a_database(serve: Callable[[Meter], Scrape]) -> None:
    settings = NexusSettings(database_url="sqlite:////nowhere/at/all.db")
    found = serve(Meter(lambda: TaskNexus(settings=settings), rest=0))()
    assert found == {("nexus_database_up",): 0}


def test_a_port_that_is_taken_is_said_before_anything_is_started(tmp_path: Path, start: Callable[..., Command]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        code = "from deployments.cli import main; main()"
        up = start(code, "up", "--metrics-port", port, env=clean_environment(tmp_path), cwd=tmp_path)
        assert up.ended() == 1
    [line] = up.lines
    assert line.startswith(f"/metrics cannot be served on port {port} of 127.0.0.1 (Address already in use)")
    assert "--metrics-port" in line
    assert not (tmp_path / "board" / "prefect").exists()


def test_it_is_off_until_a_port_is_named(nexus: TaskNexus) -> None:
    said: list[str] = []
    with exporting(NexusSettings(), said.append):
        pass
    assert said == []
    port = free_port("127.0.0.1")
    with exporting(NexusSettings(service={"metrics_port": port}), said.append):
        assert said == [f"metrics: http://127.0.0.1:{port}/metrics"]
        assert scraped(f"http://127.0.0.1:{port}/metrics")["nexus_tasks", "pending"] == 0


# -- what is offered to look at it --------------------------------------------------------------------------


@pytest.fixture
def exported(nexus: TaskNexus, clock: Clock, scrape: Scrape, work: Callable[..., None]) -> dict[str, set[str]]:
    """Every name that is exported, with the names of its labels."""
    work("draw")
    nexus.add_task({"task_type": "draw"})
    nexus.sweep()
    families = Meter(lambda: nexus, rest=0)
    families.look()
    work("draw")
    return {sample.name: set(sample.labels) for family in families.collect() for sample in family.samples}


def expressions(document: Any) -> Iterator[str]:
    """Every PromQL expression in it."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "expr" and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(document, list):
        for value in document:
            yield from expressions(value)


@pytest.mark.parametrize("name", ["grafana.json", "alerts.yaml"])
def test_dashboard_and_alerts_ask_for_what_is_exported(exported: dict[str, set[str]], name: str) -> None:
    text = (DOCS / name).read_text()
    asked = list(expressions(json.loads(text) if name.endswith("json") else yaml.safe_load(text)))
    assert len(asked) >= 5
    for expression in asked:
        names = re.findall(r"\bnexus_\w+", expression)
        assert names, expression
        for one in names:
            assert one in exported, f"{one} in {expression}"
        labels = {
            label for found in re.findall(r"\b(?:by|without) \(([^)]*)\)", expression) for label in found.split(", ")
        }
        labels |= set(re.findall(r"(\w+)=~?\"", expression))
        assert labels <= set().union(*(exported[one] for one in names)), expression
        assert expression.count("(") == expression.count(")")


def test_the_dashboard_has_what_grafana_needs() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert dashboard["id"] is None, "Grafana gives it one"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["type"] in {"stat", "timeseries", "heatmap", "bargauge"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies upon another"
        taken |= cells

"""What is measured is told in tables: their shape, the ratios in them, and that each part can measure at all."""

import dataclasses
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa

from benchmarks import chart, enqueue, growth, markdown, pickup, shift, sweep, throughput
from benchmarks.parts import PARTS, part
from benchmarks.plan import LONG, SHORT, Run

TINY = dataclasses.replace(
    SHORT,
    rounds=1,
    repetitions=3,
    pending=50,
    waiting=20,
    capabilities=5,
    enqueued=50,
    imported=50,
    stalled=20,
    others=30,
    picked_up=2,
    idle_seconds=0.1,
)


def cells(table: str) -> list[list[str]]:
    """The rows of the first table in some Markdown, the head first; every row as long as the head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1, rows
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("name", [name for name in PARTS if name not in ("throughput", "shift")])
def test_each_part_measures_and_tells(name: str, database: str, server: sa.URL) -> None:
    measured = list(part(name).measure(Run([database], server, TINY, ["nexus"], lambda _: None)))
    assert measured
    rows = cells(part(name).report(measured))
    assert len(rows) > 1 and {row[0] for row in rows[1:]} == {database}


def test_throughput_is_told_as_medians_and_ratios() -> None:
    case = throughput.Case("sqlite", 1, 100)
    rounds = [("core", 0.01), ("nexus", 0.03), ("nexus", 0.02), ("nexus", 0.5)]
    found = [throughput.Measured(case, name, 1_000, 0.5, cpu) for name, cpu in rounds]
    head, core, ours = cells(throughput.report(found))
    assert head == ["contender", "keeps", "1 worker: tasks/s", "CPU ms a task", "to Core", "to best peer"]
    assert core == ["SQLAlchemy Core", "attempt", "2,000", "0.01", "1.00", ""]
    assert ours == ["Nexus Flows", "attempt and history", "2,000", "0.03", "3.00", ""]


def test_each_number_of_workers_has_its_columns_and_each_number_at_once_its_table() -> None:
    measured = [("core", 1, 100), ("nexus", 4, 100), ("core", 1, 1)]
    found = [throughput.Measured(throughput.Case("sqlite", w, n), name, 10, 1.0, 0.1) for name, w, n in measured]
    batches, singles = throughput.report(found).split("**SQLite, one at a time**")
    head, core, ours = cells(batches)
    assert head[2::4] == ["1 worker: tasks/s", "4 workers: tasks/s"]
    assert core[6:] == ["", "", "", ""] and ours[2:6] == ["", "", "", ""] and ours[6] == "10"
    assert [row[0] for row in cells(singles)] == ["contender", "SQLAlchemy Core"]


def test_a_peer_that_takes_one_at_a_time_is_compared_with_batches_too() -> None:
    batch, single = throughput.Case("sqlite", 1, 100), throughput.Case("sqlite", 1, 1)
    found = [
        throughput.Measured(batch, "nexus", 100, 1.0, 0.1),
        throughput.Measured(single, "litequeue", 100, 1.0, 0.2),
    ]
    assert throughput.best_peer(found, batch) == 0.2
    assert cells(throughput.report(found).partition("**SQLite, one")[0])[1][-1] == "0.50"


def test_what_was_interrupted_is_told_as_far_as_it_came() -> None:
    alone = sweep.Measured("sqlite", "fail", 0, 10, 0.5, 1.0)
    assert cells(sweep.report([alone]))[1][:4] == ["sqlite", "fail", "10", "0.50"]
    added = enqueue.Measured("sqlite", enqueue.NEXUS, 10, 0.5, 0.1, 1.0)
    assert cells(enqueue.report([added]))[1][3] == "20"
    one = shift.Measured("sqlite", shift.OBSERVED, 10, 9, 0.5, 1.0)
    assert "10, 1 lost in 1 rounds" in shift.report([one])
    assert cells(growth.report([growth.Measured("sqlite", "1 pending", 1.0, 2.0)]))[1][3] == "1.00"
    assert cells(pickup.report([pickup.Measured("sqlite", "we", 1.0, 2.0, 0.5, 0.0)]))[1][2] == "1"


def test_figures_are_told_to_three_digits() -> None:
    assert [markdown.ms(figure) for figure in (0.01234, 1.234, 12.34, 1234.5)] == ["0.0123", "1.23", "12.3", "1,234"]
    assert markdown.ratio(1.0, 3.0) == "0.33"
    assert markdown.ratio(None, 3.0) is None and markdown.ratio(1.0, None) is None


def test_the_chart_is_svg_and_shows_every_value() -> None:
    panel = chart.Panel("one < two", [chart.Bar("ours & theirs", 0.5, "ours"), chart.Bar("them", 50.0, "peer")])
    drawn = ElementTree.fromstring(chart.drawn("Title", "under it", [panel, panel, panel]))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("one < two") == 3 and texts.count("0.5") == 3 and texts.count("50") == 3


def test_the_long_form_is_larger_in_everything() -> None:
    for field in dataclasses.fields(SHORT):
        assert getattr(LONG, field.name) >= getattr(SHORT, field.name), field.name

"""What a person sees in the Prefect UI of a board that was worked: a real browser, a real server, sixty tasks.

`NEXUS_TEST_PICTURES=docs/ui pytest -n 0 tests/acceptance/test_browser.py` also makes the pictures of the README.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ..deployments.live import ask
from .worked_board import ALONE, DEAD, FOR_A_PERSON, LOST, RETRIED, WorkedBoard, worked_board

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt install chromium"),
    pytest.mark.timeout(900),
]

PATIENCE_MS = 20_000
"""The UI is built from many answers of a server that shares its cores with the browser."""

PICTURES = Path(os.environ["NEXUS_TEST_PICTURES"]).absolute() if "NEXUS_TEST_PICTURES" in os.environ else None

VISITS = 6
"""Its feed of events ends with the last full minute, and does not go on by itself: a page is opened again."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, prefect_begun: Callable[[Path], None]) -> Iterator[WorkedBoard]:
    directory = tmp_path_factory.mktemp("worked")
    prefect_begun(directory / ".nexus")
    with worked_board(directory) as board:
        yield board


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as browsers:
        # As root, as in a container, Chromium's own sandbox does not start.
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


WITHOUT_FOLDERS = r"""() => {
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode;
    node.textContent = node.textContent.replace(/(?<![\w:\/.])\/(?:[\w.-]+\/)+/g, "…/");
  }
}"""
"""Where things lie on the machine on which a picture is made is nobody's business."""

Look = Callable[..., Any]


@pytest.fixture
def look(board: WorkedBoard, chromium: Any) -> Iterator[Look]:
    """`look("/runs", "Agent-1 · shift", picture="runs")`: opens a page, waits for the words, takes a picture."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(PATIENCE_MS)

    def at(path: str, *words: str, picture: str = "") -> Any:
        for visit in range(VISITS):
            page.goto(f"{board.ui}{path}")
            try:
                for word in words:
                    page.get_by_text(word).first.wait_for()
                break
            except playwright.TimeoutError:
                if visit == VISITS - 1:
                    raise
        if PICTURES and picture:
            page.wait_for_timeout(1500)  # until its charts stand still
            page.evaluate(WITHOUT_FOLDERS)
            page.screenshot(path=PICTURES / f"{picture}.png")
        return page

    yield at
    page.close()


def run_page(board: WorkedBoard, name: str) -> str:
    """The path of the newest flow run of a name."""
    return f"/runs/flow-run/{board.named(name)[-1]['id']}"


def test_every_run_is_named_after_who_did_what(look: Look) -> None:
    look("/runs", "Agent-1 · shift", "Agent-2 · shift", "Agent-3 · shift", f"{ALONE} · Agent-4", picture="runs")


def test_the_killed_agent_is_shown_as_crashed_with_the_reason(board: WorkedBoard, look: Look) -> None:
    look(run_page(board, "Agent-3 · shift"), "Agent-3 · shift", "Crashed", picture="crashed")
    look(f"{run_page(board, 'Agent-3 · shift')}?tab=Details", "the lease ended without a word")
    [lost] = [run for run in board.attempts(LOST).values() if "Agent-3" in run["name"]]
    look(f"/runs/task-run/{lost['id']}", f"{LOST} · attempt 1 · Agent-3", "Crashed")


def test_the_attempts_at_the_retried_task_stand_one_by_one(board: WorkedBoard, look: Look) -> None:
    tried = board.attempts(RETRIED)
    assert sorted(name.split(" · ")[1] for name in tried) == ["attempt 1", "attempt 2", "attempt 3"]
    for name, run in tried.items():
        ends_well = " · attempt 3 · " in name
        assert run["state"]["name"] == ("Completed" if ends_well else "AwaitingRetry")
        page = look(f"/runs/task-run/{run['id']}", name, picture="" if ends_well else "attempt")
        if not ends_well:
            assert "the sound file is locked by the mixer" in run["state"]["message"]
            page.get_by_text("the sound file is locked by the mixer").first.wait_for()


def test_the_dead_letter_is_red_and_says_why(board: WorkedBoard, look: Look) -> None:
    tried = board.attempts(DEAD)
    assert len(tried) == 3
    [last] = [run for name, run in tried.items() if "attempt 3" in name]
    look(f"/runs/task-run/{last['id']}", "Failed", "scene 9 was cut")


def test_a_refused_claim_is_quiet(board: WorkedBoard, look: Look) -> None:
    look(run_page(board, f"{FOR_A_PERSON} · Agent-5"), f"{FOR_A_PERSON} · Agent-5", "Refused")


def test_the_run_of_one_task_shows_its_retry(board: WorkedBoard, look: Look) -> None:
    [run] = board.named(f"{ALONE} · Agent-4")
    assert {"nexus", "agent:Agent-4"} <= set(run["tags"])
    look(f"/runs/flow-run/{run['id']}", f"{ALONE} · Agent-4", "Completed")


def test_the_runs_of_an_agent_are_found_by_its_tag(look: Look) -> None:
    page = look("/runs?tags=agent:Agent-1", "Agent-1 · shift")
    assert page.get_by_text("Agent-2 · shift").count() == 0


def test_runs_are_found_by_what_they_worked_on(look: Look) -> None:
    look("/runs?tags=type:command", "Agent-1 · shift", "Agent-2 · shift", f"{ALONE} · Agent-4")
    page = look("/runs?tab=task-runs&tags=type:command", f"{RETRIED} · attempt 3")
    assert "type:command" in page.inner_text("body"), "the runs themselves are tagged"


def test_the_deployments_and_the_form_of_a_shift(board: WorkedBoard, look: Look) -> None:
    flows = ("process-agent-tasks", "execute-task", "run-episode", "sweep-stalled-tasks", "show-board")
    look("/deployments", *flows)
    shift = ask(board.api, "/deployments/name/process-agent-tasks/nexus")["id"]
    titles = ("Agent", "Concurrency", "Mode", "Attempts at most", "Task type", "Shown in Prefect")
    look(f"/deployments/deployment/{shift}/run", *titles, picture="form")


def test_the_board_stands_on_a_page_of_its_own(board: WorkedBoard, look: Look) -> None:
    look("/artifacts", "nexus-board", "nexus-sweep", "nexus-shift-agent-1")
    look("/artifacts/key/nexus-board", "58 completed, 1 failed; 1 waiting too long")
    words = ("What waits", "Who works", "What ended", FOR_A_PERSON, "it is assigned to Editor", "Agent-3", "lost")
    page = look(board.artifact("nexus-board"), "1 dead letter in the last 1 h", *words, picture="board")
    assert page.locator("table").count() == 4, "Markdown tables are tables here"


def test_the_report_of_a_shift_tells_of_every_attempt(board: WorkedBoard, look: Look) -> None:
    both = ""
    for agent, own in (("agent-1", RETRIED), ("agent-2", DEAD)):
        # The table stands there a moment after the words around it.
        page = look(board.artifact(f"nexus-shift-{agent}"), f"{agent.capitalize()}: ", own, "All of a task")
        both += page.inner_text("body")
    told = (LOST, RETRIED, DEAD, *(f"EP07-T{number:02}" for number in range(1, 56)))
    assert [task_id for task_id in told if task_id not in both] == [], both


def test_the_events_of_a_task_are_its_history(look: Look) -> None:
    only = quote(f'["nexus.task.{RETRIED}"]')
    names = ("completed", "retrying", "started", "claimed", "added")
    look(f"/events?resource={only}", *(f"nexus.task.{name}" for name in names), picture="events")


def test_the_events_of_a_task_tell_that_it_waits_too_long(look: Look) -> None:
    only = quote(f'["nexus.task.{FOR_A_PERSON}"]')
    look(f"/events?resource={only}", "nexus.task.stalled", FOR_A_PERSON)

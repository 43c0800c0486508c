"""Who gets which task, and when."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from nexus import NewTask, TaskNexus, intake
from nexus.arguments import MOST
from nexus.errors import AgentNotConfirmed, IllegalTransition, InvalidTask, NotClaimable, TaskNotFound


def offered(nexus: TaskNexus, agent_id: str = "Ada", limit: int = 100, **wishes: Any) -> list[str]:
    """The ids that a claim takes, in its order."""
    return [claim.task_id for claim in nexus.claim(agent_id, limit, **wishes)]


def test_the_most_urgent_first_then_who_waits_longest(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "low", "priority": "low"})
    nexus.add_task({"task_id": "later", "available_at": clock() + timedelta(seconds=30)})
    clock.advance(10)
    nexus.add_task({"task_id": "first"})
    nexus.add_task({"task_id": "second"})
    nexus.add_task({"task_id": "urgent", "priority": "critical"})
    clock.advance(60)
    assert offered(nexus, limit=2) == ["urgent", "first"]
    assert offered(nexus) == ["second", "later", "low"], "available since 10 s before 30 s, though added after it"


def test_what_was_put_back_waits_behind_what_waited_meanwhile(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "A"})
    [claim] = nexus.claim("Ada")
    clock.advance(5)
    nexus.add_task({"task_id": "B"})
    clock.advance(5)
    nexus.release(claim)
    assert offered(nexus) == ["B", "A"]


def test_a_claim_says_all_that_its_holder_needs(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "A", "payload": {"x": 1}})
    claim = nexus.claim_task("A", "Ada")
    assert (claim.task_id, claim.agent_id, claim.claim_no) == ("A", "Ada", 1)
    assert claim.lease_expires_at == clock() + timedelta(seconds=60)
    assert claim.task == nexus.get_task_by_id("A")
    assert (claim.task.status, claim.task.claimed_by, claim.task.pending_since) == ("claimed", "Ada", None)


def test_a_task_is_claimed_once(nexus: TaskNexus, make_nexus: Any) -> None:
    elsewhere = make_nexus()
    nexus.add_task({"task_id": "A"})
    assert offered(nexus, "Ada") == ["A"]
    assert offered(elsewhere, "Bo") == []
    with pytest.raises(IllegalTransition, match="Ada holds it"):
        elsewhere.claim_task("A", "Bo")


def test_the_claim_number_only_grows(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "A"})
    numbers = []
    for agent in ("Ada", "Bo", "Ada"):
        claim = nexus.claim_task("A", agent)
        numbers.append(claim.claim_no)
        nexus.release(claim)
    assert numbers == [1, 2, 3]


def test_an_assigned_task_is_for_its_agent_only(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "A", "assigned_to": "Ada"})
    assert offered(nexus, "Bo") == []
    with pytest.raises(NotClaimable, match="assigned to Ada"):
        nexus.claim_task("A", "Bo")
    assert offered(nexus, "Ada") == ["A"]


@pytest.mark.parametrize(
    ("capabilities", "gets"),
    [((), "0"), (("a",), "01"), (("b",), "0"), (("a", "b"), "012"), (("a", "b", "c"), "012")],
)
def test_an_agent_must_have_every_capability(nexus: TaskNexus, capabilities: tuple[str, ...], gets: str) -> None:
    nexus.add_tasks(
        [
            {"task_id": "0"},
            {"task_id": "1", "required_capabilities": ["a"]},
            {"task_id": "2", "required_capabilities": ["b", "a"]},
        ]
    )
    nexus.register_agent("Ada", capabilities)
    assert offered(nexus) == list(gets)


def test_an_agent_that_nobody_registered_has_no_capability(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "A", "required_capabilities": ["python"]})
    assert offered(nexus, "newcomer") == []
    [agent] = nexus.agents()
    assert (agent.agent_id, agent.capabilities, agent.max_concurrency) == ("newcomer", (), None)


def test_an_agent_holds_no_more_than_its_limit(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada", max_concurrency=2)
    nexus.add_tasks([{"task_id": name} for name in "ABCD"])
    assert offered(nexus) == ["A", "B"]
    assert offered(nexus) == []
    with pytest.raises(NotClaimable, match="full"):
        nexus.claim_task("C", "Ada")
    assert offered(nexus, "Bo", limit=1) == ["C"], "the limit is Ada's alone"
    nexus.start(nexus.current_claim("A"))
    assert offered(nexus) == [], "work in progress counts"
    nexus.mark_task_completed("A")
    assert offered(nexus) == ["D"]
    assert {agent.agent_id: agent.live_claims for agent in nexus.agents()} == {"Ada": 2, "Bo": 1}


def test_a_limit_changes_with_the_next_registration(nexus: TaskNexus) -> None:
    nexus.register_agent("Ada", ["x"], max_concurrency=1)
    nexus.add_tasks([{}, {}, {}])
    assert len(offered(nexus)) == 1
    agent = nexus.register_agent("Ada", max_concurrency=3)
    assert (agent.capabilities, agent.max_concurrency) == (("x",), 3), "what is not given stays"
    assert len(offered(nexus)) == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_nobody_may_have_no_slot_or_claim_nothing(nexus: TaskNexus, limit: int) -> None:
    with pytest.raises(InvalidTask, match="max_concurrency"):
        nexus.register_agent("Ada", max_concurrency=limit)
    with pytest.raises(InvalidTask, match="limit"):
        nexus.claim("Ada", limit)


def test_a_task_waits_for_all_that_it_depends_on(nexus: TaskNexus, done: Any) -> None:
    nexus.add_tasks([{"task_id": "A"}, {"task_id": "B"}, {"task_id": "C", "depends_on": ["A", "B"]}])
    with pytest.raises(NotClaimable, match="waits for A, which is pending; it waits for B"):
        nexus.claim_task("C", "Ada")
    done("A")
    with pytest.raises(NotClaimable, match="waits for B"):
        nexus.claim_task("C", "Ada")
    done("B")
    assert nexus.claim_task("C", "Ada").claim_no == 1


def test_a_dependency_that_was_done_before_holds_nobody_up(nexus: TaskNexus, done: Any) -> None:
    nexus.add_task({"task_id": "A"})
    done("A")
    nexus.add_tasks([{"task_id": "B", "depends_on": ["A"]}, {"task_id": "C", "depends_on": ["A", "B"]}])
    assert offered(nexus) == ["B"]


def test_a_task_that_another_just_made_its_dependency_can_be_claimed(postgres_url: str, open_board: Any) -> None:
    """Whoever adds a dependency locks its target for a moment: one who wants that very task waits for the moment."""
    adding, claiming = open_board(postgres_url), open_board(postgres_url)
    adding.add_task({"task_id": "A"})

    def add_while_the_other_claims(tx: Any) -> Any:
        intake.add(tx, [intake.draft(NewTask(depends_on=("A",)), adding.settings.retry)])
        claim = pool.submit(claiming.claim_task, "A", "Ada")
        wait([claim], timeout=0.3)
        return claim

    with ThreadPoolExecutor(1) as pool:
        claim = adding._database.write(add_while_the_other_claims)
        assert claim.result(timeout=30).claim_no == 1


def test_of_two_who_want_the_same_task_one_is_told_who_has_it(postgres_url: str, open_board: Any) -> None:
    one, two = open_board(postgres_url), open_board(postgres_url)
    one.add_task({"task_id": "A"})
    with ThreadPoolExecutor(8) as pool:
        races = [pool.submit(board.claim_task, "A", f"agent-{number}") for number in range(8) for board in (one, two)]
        errors = [race.exception(timeout=30) for race in races]
    assert errors.count(None) == 1
    assert all(isinstance(error, IllegalTransition) and "holds it" in str(error) for error in errors if error)


def test_work_under_review_frees_nobody_until_it_is_approved(nexus: TaskNexus, done: Any) -> None:
    nexus.add_tasks([{"task_id": "A", "requires_review": True}, {"task_id": "B", "depends_on": ["A"]}])
    done("A")
    assert offered(nexus) == []
    nexus.reject("A", "Rita", "once more")
    done("A")
    assert offered(nexus) == []
    nexus.approve("A", "Rita")
    assert offered(nexus) == ["B"]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_dependency_that_ended_badly_frees_nobody(nexus: TaskNexus, at_work: Any, done: Any, ending: str) -> None:
    nexus.add_tasks([{"task_id": "A", "retry_policy": {"max_attempts": 1}}, {"task_id": "B", "depends_on": ["A"]}])
    if ending == "failed":
        nexus.fail(at_work("A"), "no")
    else:
        nexus.cancel("A")
    assert offered(nexus) == []
    nexus.retry("A")
    done("A")
    assert offered(nexus) == ["B"], "the retry made it good"


def test_a_task_may_change_while_it_waits_for_another(nexus: TaskNexus, done: Any) -> None:
    nexus.add_tasks([{"task_id": "A"}, *({"task_id": name, "depends_on": ["A"]} for name in ("B", "C", "D"))])
    nexus.block("B", "by hand")
    nexus.cancel("C")
    done("A")
    assert offered(nexus) == ["D"]
    nexus.unblock("B")
    nexus.retry("C")
    assert sorted(offered(nexus)) == ["B", "C"]


def test_nothing_is_offered_before_its_time(nexus: TaskNexus, clock: Any) -> None:
    nexus.add_task({"task_id": "A", "available_at": clock() + timedelta(seconds=10)})
    clock.advance(9.999_999)
    assert offered(nexus) == [] == nexus.get_pending_tasks()
    with pytest.raises(NotClaimable) as refused:
        nexus.claim_task("A", "Ada")
    assert refused.value.available_at == clock() + timedelta(microseconds=1)
    clock.advance(0.000_001)
    assert offered(nexus) == ["A"]


def test_what_is_more_urgent_but_not_due_yet_holds_nobody_up(nexus: TaskNexus, clock: Any) -> None:
    later = clock.present + timedelta(hours=1)
    for priority in (0, 5, 10, 20):
        nexus.add_task({"task_id": f"{priority}, later", "priority": priority, "available_at": later})
    for priority in (10, 20, 30):
        nexus.add_task({"task_id": f"{priority}", "priority": priority})
    assert offered(nexus, limit=1) == ["10"]
    assert offered(nexus) == ["20", "30"]
    assert offered(nexus) == []
    clock.advance(3600)
    assert offered(nexus) == ["0, later", "5, later", "10, later", "20, later"]


def test_filters_by_type_and_episode(nexus: TaskNexus) -> None:
    nexus.add_tasks(
        [
            {"task_id": "1", "task_type": "echo", "episode_id": "E1"},
            {"task_id": "2", "task_type": "http", "episode_id": "E1"},
            {"task_id": "3", "task_type": "echo", "episode_id": "E2"},
            {"task_id": "4", "task_type": "chat"},
        ]
    )
    assert offered(nexus, task_types=[]) == []
    assert offered(nexus, task_types=["nobody's"]) == []
    assert offered(nexus, task_types=["echo"], episode_id="E2") == ["3"]
    assert offered(nexus, episode_id="E1", limit=1) == ["1"]
    assert offered(nexus, task_types="http") == ["2"], "one name is as good as a list"
    assert offered(nexus, task_types=["chat", "echo"]) == ["4"]


def test_filters_by_tag(nexus: TaskNexus) -> None:
    nexus.add_tasks(
        [
            {"task_id": "1", "tags": ["a", "b"], "task_type": "echo"},
            {"task_id": "2", "tags": ["b"], "episode_id": "E1"},
            {"task_id": "3", "tags": ["c"]},
            {"task_id": "4"},
        ]
    )
    assert offered(nexus, tags=[]) == []
    assert offered(nexus, tags=["nobody's"]) == []
    assert offered(nexus, tags=["b"], task_types=["other"]) == []
    assert offered(nexus, tags=["b"], task_types=["echo"]) == ["1"]
    assert offered(nexus, tags=["a", "b"], episode_id="E1") == ["2"]
    assert offered(nexus, tags="c") == ["3"]


def test_the_next_task_of_a_type_or_with_a_tag(nexus: TaskNexus) -> None:
    nexus.add_tasks(
        [
            {"task_id": "1", "task_type": "echo"},
            {"task_id": "2", "task_type": "other", "tags": ["echo", "x"]},
            {"task_id": "3", "task_type": "other"},
        ]
    )
    assert nexus.get_next_task("Ada", "nothing like it") is None
    assert [nexus.get_next_task("Ada", "echo").task_id for _ in range(2)] == ["1", "2"]
    assert nexus.get_next_task("Ada", "echo") is None
    assert nexus.get_next_task("Ada").task_id == "3"
    assert nexus.get_next_task("Ada") is None


def test_claiming_the_impossible(nexus: TaskNexus) -> None:
    with pytest.raises(TaskNotFound):
        nexus.claim_task("nobody", "Ada")
    for agent_id in ("", "  ", "a\nb", "a\x00b"):
        with pytest.raises(InvalidTask, match="agent_id"):
            nexus.claim(agent_id)
    for lease in (0, -1, float("nan"), float("inf"), 10**9):
        with pytest.raises(InvalidTask, match="lease_seconds"):
            nexus.claim("Ada", lease_seconds=lease)


class TestRegistration:
    def test_one_capability_is_not_a_list_of_letters(self, nexus: TaskNexus) -> None:
        agent = nexus.register_agent("Ada", "python", task_types="echo")
        assert (agent.capabilities, agent.task_types) == (("python",), ("echo",))
        assert nexus.confirm_agent("Ada", task_types="http").task_types == ("http",)

    def test_blanks_and_repetitions_go(self, nexus: TaskNexus) -> None:
        assert nexus.register_agent("Ada", [" b ", "a", "b"]).capabilities == ("a", "b")
        nexus.add_task({"task_id": "T1", "required_capabilities": [" b"]})
        assert offered(nexus) == ["T1"]

    @pytest.mark.parametrize("wrong", ["a\x00b", "\ud800", "", "a\nb", "x" * 101, 7, None])
    def test_what_is_no_name_is_refused(self, nexus: TaskNexus, everything: Any, wrong: Any) -> None:
        before = everything()
        for register in (
            lambda: nexus.register_agent("Ada", [wrong]),
            lambda: nexus.register_agent("Ada", task_types=["echo", wrong]),
            lambda: nexus.confirm_agent("Ada", task_types=[wrong]),
        ):
            with pytest.raises(InvalidTask, match=r"capabilities|task_types"):
                register()
        assert everything() == before

    @pytest.mark.parametrize("wrong", ["", "x" * 256, None, 7])
    def test_an_agent_has_a_name(self, nexus: TaskNexus, wrong: Any) -> None:
        for ask in (nexus.register_agent, nexus.confirm_agent, nexus.claim, nexus.get_next_task):
            with pytest.raises(InvalidTask, match="agent_id"):
                ask(wrong)


def test_blanks_around_a_name_make_no_second_agent(nexus: TaskNexus) -> None:
    nexus.add_task({"task_id": "A", "assigned_to": " Ada "})
    assert nexus.claim_task("A", " Ada").agent_id == "Ada"
    assert [agent.agent_id for agent in nexus.agents()] == ["Ada"]


class TestClosedRegistration:
    """Where only an operator lets agents in."""

    @pytest.fixture
    def closed(self, make_nexus: Any) -> TaskNexus:
        return make_nexus(registration="closed")

    @pytest.mark.parametrize(
        "attempt",
        [
            lambda nexus: nexus.claim("stranger"),
            lambda nexus: nexus.claim("stranger", episode_id="no such"),
            lambda nexus: nexus.get_next_task("stranger"),
            lambda nexus: nexus.claim_task("T1", "stranger"),
            lambda nexus: nexus.mark_task_in_progress("T1", "stranger"),
            lambda nexus: nexus.confirm_agent("stranger"),
            lambda nexus: nexus.confirm_agent("stranger", task_types=["echo"]),
        ],
    )
    def test_a_stranger_gets_nothing_and_changes_nothing(
        self, nexus: TaskNexus, closed: TaskNexus, everything: Any, attempt: Any
    ) -> None:
        nexus.add_task({"task_id": "T1"})
        before = everything()
        with pytest.raises(AgentNotConfirmed) as refused:
            attempt(closed)
        assert refused.value.agent_id == "stranger"
        assert everything() == before

    def test_a_registered_agent_works(self, closed: TaskNexus) -> None:
        closed.add_task({"task_id": "T1", "task_type": "echo", "required_capabilities": ["x"]})
        closed.register_agent("Ada", ["x"])
        assert closed.confirm_agent("Ada", task_types=["echo"]).task_types == ("echo",)
        assert closed.get_next_task("Ada").task_id == "T1"

    def test_under_open_registration_the_first_claim_registers(self, nexus: TaskNexus, clock: Any) -> None:
        assert nexus.claim("stranger") == []
        [agent] = nexus.agents()
        assert (agent.agent_id, agent.registered_at, agent.last_seen_at) == ("stranger", clock(), clock())


def test_an_agent_is_seen_when_it_claims(nexus: TaskNexus, clock: Any) -> None:
    nexus.register_agent("Ada")
    assert nexus.agents()[0].last_seen_at is None
    nexus.claim("Ada")
    first = clock()
    clock.advance(14)
    nexus.claim("Ada")
    assert nexus.agents()[0].last_seen_at == first, "written at most every 15 s"
    clock.advance(2)
    nexus.claim("Ada")
    assert nexus.agents()[0].last_seen_at == clock()


@pytest.mark.parametrize("limit", [20, 100])
@pytest.mark.parametrize("wishes", [{}, {"episode_id": "E1"}])
def test_three_others_claim_as_much_at_this_moment(
    postgres_url: str, open_board: Any, limit: int, wishes: dict[str, str]
) -> None:
    """What they have locked is passed over at the first look: a second one costs as much as the claim."""
    nexus = open_board(postgres_url, clock=None)
    nexus.add_tasks({"episode_id": "E1"} for _ in range(5 * limit))
    nexus.claim("Ada", 1, **wishes)
    looks: list[str] = []
    engine = nexus._database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _u, text, *_: looks.append(text))
    with engine.connect() as others, others.begin():
        at_their_tasks = (
            "SELECT 1 FROM nexus_tasks WHERE status = 'pending' ORDER BY seq LIMIT :number FOR UPDATE SKIP LOCKED"
        )
        others.execute(sa.text(at_their_tasks), {"number": 3 * limit})
        looks.clear()
        assert len(offered(nexus, limit=limit, **wishes)) == limit
    assert sum("UPDATE nexus_tasks" in text for text in looks) == 1


def test_all_that_there_is(nexus: TaskNexus) -> None:
    nexus.add_tasks({} for _ in range(3))
    assert len(offered(nexus, limit=MOST)) == 3
    assert offered(nexus, limit=MOST) == []

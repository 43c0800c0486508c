"""Where the run of an attempt can be seen. The nexus knows nothing of Prefect: who brings it along says where."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from nexus.cli.output import flat

if TYPE_CHECKING:
    from nexus import Attempt, NexusSettings


class Pages(NamedTuple):
    """Where the runs can be seen."""

    address: str
    unseen: str = ""
    """What must be done before anybody answers there; empty where somebody does, or nobody knows."""


Finder = Callable[["NexusSettings"], Pages]

_finder: Finder | None = None


def shown_at(finder: Finder) -> None:
    """From now on runs are shown where this says; it is asked when there is a run to be shown."""
    global _finder
    _finder = finder


def run_lines(attempts: "Iterable[Attempt]", settings: "NexusSettings") -> list[str]:
    """A line for each attempt that a run made: where that run is, a URL where somebody said, else its id."""
    known = [(one.number, kind, number) for one in attempts for kind, number in _run(one.run_ref)]
    pages = _finder(settings) if known and _finder else Pages("")
    lines = [
        f"run of attempt {number}: "
        + (f"{pages.address}/runs/{kind}/{flat(run)}" if pages.address else f"{kind} {flat(run)}")
        for number, kind, run in known
    ]
    return [*lines, pages.unseen] if pages.unseen else lines


def _run(ref: Any) -> list[tuple[str, str]]:
    """The task run, where there is one, or else the flow run. What others put there is none of ours."""
    for kind in ("task-run", "flow-run"):
        number = ref.get(f"{kind.replace('-', '_')}_id") if isinstance(ref, dict) else None
        try:
            return [(kind, str(UUID(str(number))))]
        except ValueError:
            continue
    return []

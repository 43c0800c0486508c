"""Where the run of an attempt can be seen. The nexus knows nothing of Prefect: who brings it along says where."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nexus.cli.output import flat

if TYPE_CHECKING:
    from nexus import Attempt, NexusSettings

Address = Callable[["NexusSettings"], str]

_address: Address | None = None


def shown_at(address: Address) -> None:
    """From now on runs are shown at the address that this finds; it is asked when there is a run to be shown."""
    global _address
    _address = address


def run_links(attempts: "Iterable[Attempt]", settings: "NexusSettings") -> list[tuple[int, str]]:
    """The number of each attempt that a run made, and where that run is: a URL where somebody said, else its id."""
    known = [(one.number, kind, number) for one in attempts for kind, number in _run(one.run_ref)]
    address = _address(settings) if known and _address else None
    return [
        (number, f"{address}/runs/{kind}/{flat(run)}" if address else f"{kind} {flat(run)}")
        for number, kind, run in known
    ]


def _run(ref: Any) -> list[tuple[str, str]]:
    """The task run, where there is one, or else the flow run. What others put there is none of ours."""
    for kind in ("task-run", "flow-run"):
        number = ref.get(f"{kind.replace('-', '_')}_id") if isinstance(ref, dict) else None
        try:
            return [(kind, str(UUID(str(number))))]
        except ValueError:
            continue
    return []

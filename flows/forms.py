"""The parameters of the flows as Prefect makes forms of them: titles, choices and bounds.

Descriptions come from the flows' docstrings. What is out of bounds is refused by the form, by the server for whoever
asks it directly, and by the flow itself.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from nexus import Retention, TaskMonitoringConfig
from nexus.values import Id, Name


def _titled(title: str) -> Any:
    """A parameter's title. Of a Field's own Prefect (3.8) makes nothing: it puts the bare name in its place."""
    return Field(json_schema_extra={"title": title})


_GivenId = Annotated[Id, Field(min_length=1)]
_GivenName = Annotated[Name, Field(min_length=1)]

TaskId = Annotated[_GivenId, _titled("Task")]
AgentId = Annotated[_GivenId, _titled("Agent")]
EpisodeId = Annotated[_GivenId, _titled("Episode")]
Agents = Annotated[list[_GivenId], Field(min_length=1, max_length=100), _titled("Agents")]

OnlyTaskType = Annotated[_GivenName | None, _titled("Task type")]
OnlyEpisode = Annotated[_GivenId | None, _titled("Episode")]
Beside = Annotated[list[_GivenId], Field(max_length=100), _titled("Agents beside it")]

Concurrency = Annotated[int, Field(ge=1, le=100), _titled("Concurrency")]
MaxTasks = Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | None, _titled("Attempts at most")]
Lease = Annotated[Annotated[float, Field(ge=1, le=86_400)] | None, _titled("Lease, in seconds")]
Mode = Annotated[Literal["drain", "wait"], _titled("Mode")]
Observe = Annotated[Literal["task", "shift"], _titled("Shown in Prefect")]
Window = Annotated[Annotated[float, Field(gt=0, le=366 * 86_400)] | None, _titled("Window, in seconds")]

Monitoring = Annotated[TaskMonitoringConfig | None, _titled("Monitoring")]
Kept = Annotated[Retention | None, _titled("Retention")]
DryRun = Annotated[bool, _titled("Dry run")]

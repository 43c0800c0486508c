"""What the registry and the built-in handlers raise, beside `Retry` and `GiveUp` of the contract."""

from nexus.errors import NexusError


class HandlerConflict(NexusError):
    """Two functions claim one task type; the first keeps it."""

    def __init__(self, task_type: str, *, taken_by: str, refused: str) -> None:
        self.task_type, self.taken_by, self.refused = task_type, taken_by, refused
        super().__init__(
            f"Task type {task_type!r} is done by {taken_by}, so {refused} was not registered; "
            "give one of them another type."
        )


class CommandFailed(NexusError):
    """A program could not be started, or ended with an exit code that its task does not accept.

    The retry policy decides what follows: the next try may meet another machine or a better moment.
    """

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        self.exit_code = exit_code
        """As the system gave it, negative for a signal; None where nothing was started."""
        super().__init__(message)


class HttpFailed(NexusError):
    """A request got no answer, or one that another try may better. The retry policy decides what follows."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        self.status = status
        """The answer's status; None where no answer came."""
        super().__init__(message)

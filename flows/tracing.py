"""A span of OpenTelemetry's around each attempt, where its SDK is set up; nothing otherwise.

The handler's own spans, and those of the libraries that it calls, become its children, in threads too. Prefect makes
spans of its own of flow runs and task runs (PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY=false makes none); ours lies
below them. It is no second one of the same: a task run that Prefect retries is several attempts, and where only the
shift is observed none has a task run. Nothing here fails an attempt, and no secret is told.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from flows.finished import Finished
from flows.secrets import MaskedError, in_words
from nexus import AttemptOutcome, Claim
from nexus.masking import Mask

_tracer = trace.get_tracer("nexus")
"""The SDK's own as soon as that is set up; until then its spans are no spans."""

_GONE_WRONG: Final = (AttemptOutcome.FAILED, AttemptOutcome.TIMED_OUT, AttemptOutcome.LOST)


class AttemptSpan:
    """What is told of one attempt while it goes on."""

    def __init__(self, span: Span | None, mask: Mask) -> None:
        self._span, self._mask = span, mask

    def ended(self, finished: Finished) -> None:
        """How the attempt ended."""
        if self._span is None:
            return
        self._span.set_attribute("nexus.attempt", finished.number)
        self._span.set_attribute("nexus.outcome", str(finished.outcome))
        if finished.status is not None:
            self._span.set_attribute("nexus.status", str(finished.status))
        self._tell(finished.error, str(finished.outcome), gone_wrong=finished.outcome in _GONE_WRONG)

    def broke_off(self, error: BaseException) -> None:
        """The attempt could not be closed. Who is stopped has done nothing wrong."""
        self._tell(error, "broke off", gone_wrong=isinstance(error, Exception))

    def _tell(self, error: BaseException | None, otherwise: str, *, gone_wrong: bool) -> None:
        if self._span is None:
            return
        words = otherwise
        if error is not None:
            failure = error.failure if isinstance(error, MaskedError) else in_words(error)
            words = self._mask.text(failure.message)
            self._span.set_attribute("error.type", failure.error_type)
        if gone_wrong:
            self._span.set_status(Status(StatusCode.ERROR, words))


@contextmanager
def attempt_span(claim: Claim, run_ref: Any, mask: Mask) -> Iterator[AttemptSpan]:
    """A span that is the current one meanwhile. What is raised goes through, and is told."""
    task = claim.task
    span = _tracer.start_span(f"attempt {task.task_type}")
    if not span.get_span_context().is_valid:
        yield AttemptSpan(None, mask)
        return
    told = AttemptSpan(span, mask)
    span.set_attributes({name: value for name, value in _attributes(claim, run_ref).items() if value is not None})
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield told
        except BaseException as error:
            told.broke_off(error)
            raise


def _attributes(claim: Claim, run_ref: Any) -> dict[str, Any]:
    run = run_ref if isinstance(run_ref, Mapping) else {}
    return {
        "nexus.task_id": claim.task_id,
        "nexus.task_type": claim.task.task_type,
        "nexus.agent_id": claim.agent_id,
        "nexus.claim_no": claim.claim_no,
        "nexus.episode_id": claim.task.episode_id,
        "prefect.flow_run.id": run.get("flow_run_id"),
        "prefect.task_run.id": run.get("task_run_id"),
        "prefect.task_run.run_count": run.get("run_count"),
    }

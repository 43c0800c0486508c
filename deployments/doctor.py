"""`nexus doctor`: one line for everything that is not as it should be, on the board and around it."""

from deployments.prefect_config import configured_api_url
from deployments.prefect_server import OwnServer, healthy, unreachable
from nexus.diagnosis import examine
from nexus.reports import Finding
from nexus.settings import NexusSettings


def diagnose(settings: NexusSettings, url: str | None = None, *, prefect: bool = True) -> list[Finding]:
    """The board's findings, and Prefect's; none where all is well. Does not import Prefect."""
    return [*examine(settings, url), *(_prefect(settings) if prefect else [])]


def _prefect(settings: NexusSettings) -> list[Finding]:
    if configured := configured_api_url():
        why = unreachable(configured, 5)
        message = f"the configured Prefect API {configured} does not answer ({why})"
        return [Finding(code="prefect", message=message)] if why else []
    own = OwnServer(settings).address()
    if own is None:
        message = "no Prefect server runs here and none is configured: `nexus up`, or set PREFECT_API_URL"
        return [Finding(code="prefect", message=message)]
    if not healthy(own, 5):
        return [Finding(code="prefect", message=f"the board's own Prefect server at {own} does not answer")]
    return []

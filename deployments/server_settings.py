"""The settings of our own Prefect server, each with its reason. Measured with Prefect 3.8.8."""

import os
from typing import Final

from nexus.settings import NexusSettings

_TUNED: Final = {
    # Out of the box the server writes one task run per transaction: 50-65 ms of CPU each, and three agents
    # at work are a minute ahead of what the UI shows. In batches it is 14-18 ms, and the UI 1-2 s behind.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "50",
    # Never below 1: Prefect cuts it to 0 then, and an idle server spins on a whole core.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # The same for events, three of which come with every task run.
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "50",
    # Leases on concurrency slots are kept in memory otherwise: after a restart of the server a sweep at work
    # could not renew its own, which ends it.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Nothing leaves the machine, and nothing is advertised in the user's own UI.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Where OpenTelemetry is set up for us, the server would tell of its own polling: twenty spans a second at rest.
    "OTEL_SDK_DISABLED": "true",
    # It never asks on a terminal it does not have.
    "PREFECT_CLI_PROMPT": "false",
}


def server_environment(settings: NexusSettings, url: str) -> dict[str, str]:
    """The environment of our own server at `url`. What the user has set for a server outweighs the tuning."""
    return {
        **_TUNED,
        # Where the browser finds the API. Without it the UI on any port but 4200 looks dead.
        "PREFECT_UI_API_URL": url,
        **os.environ,
        "PREFECT_HOME": str(settings.home.absolute() / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "DO_NOT_TRACK": "1",
        # What lies in the working directory is the user's, and not for the server to import.
        "PYTHONSAFEPATH": "1",
    }

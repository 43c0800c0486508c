"""Where a person sees the runs, found without importing Prefect."""

import os
import re

from deployments.errors import api_url
from deployments.prefect_config import configured_api_url
from deployments.prefect_server import OwnServer
from nexus.settings import NexusSettings

_CLOUD = re.compile(r"https://api\.prefect\.cloud/api/accounts/([^/]+)/workspaces/([^/]+)/?$")


def ui_address(settings: NexusSettings) -> str:
    """The address of the UI: of the server that is configured, else of our own, which `nexus up` starts.

    Its pages lie below: `/runs/flow-run/ID`.
    """
    if said := os.environ.get("PREFECT_UI_URL"):
        return said.rstrip("/")
    if configured := configured_api_url():
        return of_api(configured)
    service = settings.service
    return of_api(OwnServer(settings).address() or api_url(service.host, service.port))


def of_api(url: str) -> str:
    """The UI that belongs to an API. A server of Prefect's own shows its newer UI below `/v2`."""
    if cloud := _CLOUD.match(url):
        return f"https://app.prefect.cloud/account/{cloud[1]}/workspace/{cloud[2]}"
    return f"{url.rstrip('/').removesuffix('/api')}/v2"

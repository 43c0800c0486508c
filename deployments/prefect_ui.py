"""Where a person sees the runs, found without importing Prefect."""

import os
import re

from deployments.errors import api_url
from deployments.prefect_config import configured_api_url
from deployments.prefect_server import OwnServer
from nexus.cli.links import Pages
from nexus.settings import NexusSettings

_CLOUD = re.compile(r"https://api\.prefect\.cloud/api/accounts/([^/]+)/workspaces/([^/]+)/?$")


def pages_of_runs(settings: NexusSettings) -> Pages:
    """The UI of the server that is configured, else of our own, which `nexus up` starts.

    Its pages lie below the address: `/runs/flow-run/ID`.
    """
    if said := os.environ.get("PREFECT_UI_URL"):
        return Pages(said.rstrip("/"))
    if configured := configured_api_url():
        return Pages(of_api(configured))
    if running := OwnServer(settings).address():
        return Pages(of_api(running))
    service = settings.service
    return Pages(of_api(api_url(service.host, service.port)), "(not served now: `nexus up` serves them)")


def of_api(url: str) -> str:
    """The UI that belongs to an API. A server of Prefect's own shows its newer UI below `/v2`."""
    if cloud := _CLOUD.match(url):
        return f"https://app.prefect.cloud/account/{cloud[1]}/workspace/{cloud[2]}"
    return f"{url.rstrip('/').removesuffix('/api')}/v2"

"""Where a person sees the runs."""

import sys

import pytest

from deployments.prefect_ui import of_api, pages_of_runs
from nexus import NexusSettings


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_UI_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "")


def test_a_server_shows_its_newer_ui_beside_its_api() -> None:
    assert of_api("http://127.0.0.1:4200/api") == of_api("http://127.0.0.1:4200/api/") == "http://127.0.0.1:4200/v2"
    assert of_api("https://prefect.example/under/api") == "https://prefect.example/under/v2"


def test_the_cloud_has_another_address() -> None:
    api = "https://api.prefect.cloud/api/accounts/0a/workspaces/0b"
    assert of_api(api) == "https://app.prefect.cloud/account/0a/workspace/0b"


def test_what_is_said_comes_first_then_what_is_configured_then_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = NexusSettings(service={"port": 4299})  # type: ignore[arg-type]
    assert pages_of_runs(settings).address == "http://127.0.0.1:4299/v2"
    assert "`nexus up` serves them" in pages_of_runs(settings).unseen, "our own server does not run"
    monkeypatch.setenv("PREFECT_API_URL", "http://there:4200/api")
    assert pages_of_runs(settings) == ("http://there:4200/v2", "")
    monkeypatch.setenv("PREFECT_UI_URL", "https://ui.example/prefect/")
    assert pages_of_runs(settings) == ("https://ui.example/prefect", "")


def test_it_is_found_without_loading_prefect() -> None:
    from ..cli.process import shell

    code = "import sys, deployments.prefect_ui; sys.exit('prefect' in sys.modules)"
    assert shell(f'{sys.executable} -P -c "{code}"').returncode == 0

"""Our reading of Prefect's configuration against Prefect's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .live import clean_environment

URL = "http://127.0.0.1:4999/api"
OTHER = "http://127.0.0.1:4888/api"
PROFILES = (
    f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"\n[profiles.other]\nPREFECT_API_URL = "{OTHER}"\n'
)

CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "environment": {"env": {"PREFECT_API_URL": URL}},
    "environment, in small letters": {"env": {"prefect_api_url": URL}},
    "empty environment over a profile": {"env": {"PREFECT_API_URL": ""}, "home": {".prefect/profiles.toml": PROFILES}},
    "dotenv": {"files": {".env": f'# mine\nexport PREFECT_API_URL="{URL}" # here\n'}},
    "environment over dotenv": {"env": {"PREFECT_API_URL": URL}, "files": {".env": f"PREFECT_API_URL={OTHER}"}},
    "prefect.toml": {"files": {"prefect.toml": f'[api]\nurl = "{URL}"\n'}},
    "pyproject.toml": {"files": {"pyproject.toml": f'[tool.prefect.api]\nurl = "{URL}"\n'}},
    "prefect.toml over pyproject.toml": {
        "files": {
            "prefect.toml": f'[api]\nurl = "{URL}"\n',
            "pyproject.toml": f'[tool.prefect.api]\nurl = "{OTHER}"\n',
        }
    },
    "prefect.toml without it": {"files": {"prefect.toml": "[server.api]\nport = 4300\n"}},
    "profile": {"home": {".prefect/profiles.toml": PROFILES}},
    "profile by name": {"env": {"PREFECT_PROFILE": "other"}, "home": {".prefect/profiles.toml": PROFILES}},
    "profile that is not there": {"env": {"PREFECT_PROFILE": "gone"}, "home": {".prefect/profiles.toml": PROFILES}},
    "profile that Prefect brings along": {"env": {"PREFECT_PROFILE": "local"}},
    "profiles elsewhere": {"env": {"PREFECT_PROFILES_PATH": "p.toml"}, "files": {"p.toml": PROFILES}},
    "profiles elsewhere by dotenv": {"files": {".env": "PREFECT_PROFILES_PATH=p.toml", "p.toml": PROFILES}},
    "profiles elsewhere by prefect.toml": {"files": {"prefect.toml": 'profiles_path = "p.toml"', "p.toml": PROFILES}},
    "Prefect's home": {"env": {"PREFECT_HOME": "ph"}, "files": {"ph/profiles.toml": PROFILES}},
    "Prefect's home without profiles": {"env": {"PREFECT_HOME": "ph"}, "home": {".prefect/profiles.toml": PROFILES}},
    "test mode": {"env": {"PREFECT_TEST_MODE": "1"}, "home": {".prefect/profiles.toml": PROFILES}},
}

ASK_BOTH = """
import json, os, sys
from pathlib import Path
from deployments.prefect_config import configured_api_url
assert "prefect" not in sys.modules, "asking must not import Prefect"
cases, answers = json.loads(sys.stdin.read()), {}
import prefect.settings.sources as sources
from prefect.settings import Settings
for name, case in cases.items():
    home = Path(case["cwd"], "home")
    os.chdir(case["cwd"])
    os.environ.update(case["env"], HOME=str(home))
    sources.DEFAULT_PREFECT_HOME = home / ".prefect"  # Prefect finds it once, at its import
    answers[name] = [configured_api_url(), Settings().api.url or None]
    for variable in case["env"]:
        del os.environ[variable]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | None]]:
    """Every case asked in one interpreter: importing Prefect takes seconds."""
    cases = {}
    for name, case in CASES.items():
        directory = tmp_path_factory.mktemp("case")
        below_home = {f"home/{file}": text for file, text in case.get("home", {}).items()}
        for file, text in {**case.get("files", {}), **below_home}.items():
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        cases[name] = {"cwd": str(directory), "env": case.get("env", {})}
    asked = subprocess.run(
        [sys.executable, "-P", "-c", ASK_BOTH],
        env=clean_environment(tmp_path_factory.mktemp("home")),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    found: dict[str, list[str | None]] = json.loads(asked.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_reads_the_configuration_as_prefect_does(case: str, answers: dict[str, list[str | None]]) -> None:
    ours, prefects = answers[case]
    assert ours == prefects


def test_the_cases_differ(answers: dict[str, list[str | None]]) -> None:
    assert {ours for ours, _ in answers.values()} == {None, URL, OTHER, "http://127.0.0.1:4200/api"}


def test_broken_files_are_for_prefect_to_complain_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.prefect_config import configured_api_url

    (tmp_path / "prefect.toml").write_text("[api\nurl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    assert configured_api_url() is None

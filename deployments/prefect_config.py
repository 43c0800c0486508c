"""Which Prefect API the user has configured, found as Prefect 3.8 finds it, without importing Prefect.

Importing Prefect costs seconds, and it keeps the address that it found; whether to start a server of our
own has to be known before. The order is Prefect's: environment, `.env`, `prefect.toml`, `pyproject.toml`,
profile. A test compares the answer with Prefect's own.
"""

import os
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

_URL: Final = "PREFECT_API_URL"
_TEST_MODES: Final = (
    "PREFECT_TEST_MODE",
    "PREFECT_UNIT_TEST_MODE",
    "PREFECT_TESTING_UNIT_TEST_MODE",
    "PREFECT_TESTING_TEST_MODE",
)


def configured_api_url(environ: Mapping[str, str] | None = None) -> str | None:
    """The configured Prefect API, or None where Prefect would have to start a server itself.

    An empty PREFECT_API_URL means none, whatever the files below say: that is Prefect's reading too.
    """
    env = os.environ if environ is None else environ
    for name, value in env.items():
        if name.upper() == _URL:
            return value or None
    dotenv = _dotenv()
    if _URL in dotenv:
        return dotenv[_URL] or None
    for file, table in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        found = _look_up(_toml(Path(file)), (*table, "api", "url"))
        if found is not None:
            return str(found) or None
    found = _profile(env, dotenv).get(_URL)
    return str(found) if found else None


def _profile(env: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, Any]:
    """The settings of the active profile; none where it is missing: Prefect's default has no address."""
    if any(env.get(mode) for mode in _TEST_MODES):
        return {}
    path = _profiles_path(env, dotenv)
    content = _toml(path) if path else {}
    active = env.get("PREFECT_PROFILE") or content.get("active")
    profile = content.get("profiles", {}).get(active, {})
    return profile if isinstance(profile, dict) else {}


def _profiles_path(env: Mapping[str, str], dotenv: Mapping[str, str]) -> Path | None:
    """Where the profiles lie: named outright, or in Prefect's home, or those that Prefect brings along."""
    named = (
        env.get("PREFECT_PROFILES_PATH")
        or dotenv.get("PREFECT_PROFILES_PATH")
        or _look_up(_toml(Path("prefect.toml")), ("profiles_path",))
        or _look_up(_toml(Path("pyproject.toml")), ("tool", "prefect", "profiles_path"))
    )
    if named:
        return Path(str(named))
    if home := env.get("PREFECT_HOME"):
        return Path(home) / "profiles.toml"
    own = Path.home() / ".prefect" / "profiles.toml"
    if own.exists():
        return own
    # find_spec reads where the package lies and does not run it.
    package = find_spec("prefect")
    return Path(package.origin).parent / "settings" / "profiles.toml" if package and package.origin else None


def _dotenv() -> dict[str, str]:
    """`.env` of the working directory, read by the parser that Prefect uses (pydantic-settings brings it)."""
    if not Path(".env").is_file():
        return {}
    from dotenv import dotenv_values

    return {name.upper(): value for name, value in dotenv_values(".env").items() if value is not None}


def _toml(path: Path) -> dict[str, Any]:
    """A TOML file's content; empty where there is none. What is broken is for Prefect to complain about."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _look_up(content: Any, keys: tuple[str, ...]) -> Any:
    """`content[k1][k2]…`, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content

"""Every setting of the program, with its default and its reason.

Read from, in this order: arguments, `NEXUS_*` environment (`NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS=600`),
`nexus.toml` in the working directory. A wrong value is an `InvalidSettings` that names its key, and so is a variable
that looks like a setting and is none (`NEXUS_LEASE_SECOND`).
"""

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from nexus.errors import InvalidSettings, UnusableDatabase, short
from nexus.monitoring import BLOCK, Section, TaskMonitoringConfig
from nexus.retention import Retention
from nexus.schemas import RetryPolicy
from nexus.settings_sources import PREFIX, check_file, check_names, not_json
from nexus.values import Name, Names, Seconds

TOML: Final = "nexus.toml"
"""In the working directory."""


def _programs(names: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in names if "/" in name and not name.startswith("/")]:
        raise ValueError(f"{wrong[0]!r} is neither a name nor an absolute path, so it would never match")
    return names


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in names if "/" in name or "@" in name]:
        raise ValueError(f"{wrong[0]!r} is no host name, so it would never match; leave out scheme, user and path")
    return names


class CommandSettings(Section):
    """The `command` handler. Off until programs are allowed by name."""

    allowed_programs: Annotated[Names, AfterValidator(_programs)] = Field(
        (), description="Names or absolute paths that may be run; empty: none"
    )
    working_directory: Path = Field(Path(), description="Where commands run; a task's own cwd must lie inside")
    pass_environment: Names = Field(
        ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"), description="Variables that a command inherits"
    )
    max_output_bytes: int = Field(
        65_536,
        ge=0,
        le=16 * 2**20,
        description="Kept of stdout and of stderr, each: the beginning and the end",
    )
    timeout_seconds: Seconds = Field(600, description="For a task that sets none")


class HttpSettings(Section):
    """The `http` handler. Off until hosts are allowed by name."""

    allowed_hosts: Annotated[Names, AfterValidator(_hosts)] = Field(
        (), description="Host names that may be called; *.example.org for all below, * for any; empty: none"
    )
    max_response_bytes: int = Field(1_048_576, ge=0, le=64 * 2**20, description="A longer answer is cut")
    timeout_seconds: Seconds = Field(30, description="For a task that sets none")


Pattern = Annotated[str, Field(min_length=1, max_length=1000)]


def _patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        try:
            if re.compile(pattern).match(""):
                raise ValueError(f"{short(pattern)} finds nothing at all everywhere; say what has to stand there")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"{short(pattern)} is no regular expression: {error}") from None
    return patterns


class SecretsSettings(Section):
    """What must not stand in results, errors, logs, artifacts and events; see `nexus.masking`."""

    enabled: bool = Field(True, description="Off: handlers' words are kept as they are")
    names: Names = Field(
        (
            *("password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key"),
            *("private_key", "secret_key", "authorization", "credential", "credentials"),
        ),
        description="Members and environment variables whose texts are secret; API_KEY, X-Api-Key and apiKey are one",
    )
    patterns: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...],
        Field(max_length=50),
        AfterValidator(_patterns),
    ] = Field(
        (
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
            r"\beyJ[\w-]{8,4000}\.[\w-]{8,8000}\.[\w-]{8,2000}",  # a JSON web token
            r"\b(?:gh[pousr]_\w{20,255}|github_pat_\w{20,255}|glpat-[\w-]{20,255})",
            r"\b(?:sk|pk|rk)[-_](?:[a-z]{2,10}[-_])?[\w-]{20,255}",
            r"\bAKIA[0-9A-Z]{16}\b",
            r"\bxox[abeoprs]-[\w-]{10,255}",
            r"(?i:\b(?:bearer|basic)) [\w.~+/-]{16,4000}=*",
        ),
        description="Regular expressions of texts that are secret wherever they stand",
    )


class EventsSettings(Section):
    """The moves of tasks as Prefect events."""

    enabled: bool = Field(True, description="Off: Prefect hears only of stalled tasks and of sweeps")
    per_second: int = Field(
        50, ge=1, le=10_000, description="No more are sent; what a busy board does beyond that is counted"
    )


class OnCompleted(Section):
    """A deployment that runs whenever a task of a tag completes."""

    tag: Name = Field(description="Of the task")
    deployment: str = Field(pattern=r"^[^/]+/[^/]+$", max_length=500, description="FLOW/DEPLOYMENT")
    task_id_as: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w*$", max_length=100, description="The run's parameter that gets the task's id"
    )


class AutomationsSettings(Section):
    """What `nexus automations apply` makes in Prefect."""

    notify_block: str | None = Field(
        None, pattern=BLOCK, description="Through which people are told; absent: monitoring.notify_block"
    )
    on_completed: tuple[OnCompleted, ...] = Field((), max_length=100, description="What runs when a task completes")


class BoardSettings(Section):
    """The page `nexus-board` in the Prefect UI."""

    interval_seconds: Seconds = Field(
        120, ge=5, description="Time between two runs that bring it up to date, each a process of some seconds"
    )
    window_seconds: Seconds = Field(3600, description="How far back it tells of attempts")


class ServiceSettings(Section):
    """The embedded service of `nexus up` and `nexus run`."""

    host: str = Field("127.0.0.1", description="Where its own Prefect server listens")
    port: int = Field(4200, ge=1, le=65_535, description="Port of its own Prefect server")
    max_runs: int = Field(10, ge=1, le=100, description="Flow runs that it executes side by side, each a process")
    metrics_port: int | None = Field(None, ge=1, le=65_535, description="Port of /metrics for Prometheus; None: none")
    metrics_host: str = Field("127.0.0.1", description="Where /metrics listens; it asks nobody who they are")


class NexusSettings(BaseSettings):
    """All settings. `NexusSettings.load()` turns a wrong value into one clear line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        toml_file=TOML,
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    home: Path = Field(Path(".nexus"), description="Where the embedded database, Prefect's own and the logs lie")
    database_url: str = Field("", description="sqlite:///file.db or postgresql+psycopg://…; empty: nexus.db in `home`")
    auto_upgrade: bool = Field(
        True,
        description="Upgrade an older PostgreSQL schema on open; false where another role migrates",
    )
    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        "FULL",
        description="FULL: what was acknowledged survives a power cut. NORMAL is faster; a power cut may take the last "
        "moments (never the file's integrity), the end of a process takes nothing",
    )
    database_connect_seconds: int = Field(
        10, ge=2, le=600, description="After which a PostgreSQL server that says nothing counts as away"
    )
    database_retry_seconds: float = Field(
        10,
        ge=0,
        le=3600,
        description="How long each verb waits for a PostgreSQL server that restarts or fails over; for one that was "
        "never reached and refuses, at most 2",
    )
    registration: Literal["open", "closed"] = Field(
        "open", description="open: an agent registers by claiming; closed: an operator registers it first"
    )
    lease_seconds: Seconds = Field(60, description="How long a claim holds without a heartbeat")
    max_payload_bytes: int = Field(
        1_048_576, ge=1024, le=64 * 2**20, description="Limit of payload, result and extra, each, as JSON"
    )
    retry: RetryPolicy = Field(default_factory=lambda: RetryPolicy(), description="For tasks that bring no policy")
    monitoring: TaskMonitoringConfig = Field(default_factory=lambda: TaskMonitoringConfig())
    retention: Retention = Field(default_factory=lambda: Retention())
    command: CommandSettings = Field(default_factory=lambda: CommandSettings())
    http: HttpSettings = Field(default_factory=lambda: HttpSettings())
    secrets: SecretsSettings = Field(default_factory=lambda: SecretsSettings())
    events: EventsSettings = Field(default_factory=lambda: EventsSettings())
    automations: AutomationsSettings = Field(default_factory=lambda: AutomationsSettings())
    board: BoardSettings = Field(default_factory=lambda: BoardSettings())
    service: ServiceSettings = Field(default_factory=lambda: ServiceSettings())

    @property
    def url(self) -> str:
        """The database's URL; the embedded file's where none is set."""
        return self.database_url or f"sqlite:///{self.home / 'nexus.db'}"

    def location(self, url: str | None = None) -> str:
        """The URL to open: `url`, or the settings' own; the home is made where the database lies in it.

        Raises `UnusableDatabase`.
        """
        if not (url or self.database_url):
            self.make_home()
        return url or self.url

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """From arguments, environment and `nexus.toml`.

        Raises `InvalidSettings`, one line per wrong key, for anything that cannot be.
        """
        check_names(cls)
        check_file(Path(TOML))
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
            raise InvalidSettings("Wrong settings (NEXUS_* environment or nexus.toml): " + "; ".join(lines)) from None
        except (SettingsError, RecursionError) as error:
            wrong = "; ".join(f"{key}: {name} is not JSON" for key, name in not_json(cls))
            if not wrong and isinstance(error, RecursionError):
                raise InvalidSettings(f"{TOML} is not TOML: it is nested too deep") from None
            how = f'{wrong}; a list is written ["git", "make"], a section {{"port": 4201}}' if wrong else error
            raise InvalidSettings(f"Wrong settings (NEXUS_* environment): {how}") from None
        except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits
            raise InvalidSettings(f"{TOML} is not TOML: {error}") from None
        except OSError as error:
            raise InvalidSettings(f"{TOML} cannot be read: {error.strerror or error}") from None

    def make_home(self) -> Path:
        """The home, absolute, made where it is missing. Raises `UnusableDatabase` where it cannot be."""
        home = self.home.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            why = getattr(error, "strerror", error)
            raise UnusableDatabase(
                f"{str(self.home)[:200]} cannot be made: {why}. Choose another folder with NEXUS_HOME."
            ) from error
        return home

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

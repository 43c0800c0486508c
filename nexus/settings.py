"""Every setting of the program, with its default and its reason.

Read from, in this order: arguments, `NEXUS_*` environment (`NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS=600`),
`nexus.toml` in the working directory. A wrong value is an `InvalidSettings` that names its key.
"""

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings.exceptions import SettingsError

from nexus.errors import DatabaseUnavailable, InvalidSettings
from nexus.monitoring import Section, TaskMonitoringConfig
from nexus.retention import Retention
from nexus.schemas import RetryPolicy
from nexus.values import Names, Seconds


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


class ServiceSettings(Section):
    """The embedded service of `nexus up` and `nexus run`."""

    host: str = Field("127.0.0.1", description="Where its own Prefect server listens")
    port: int = Field(4200, ge=1, le=65_535, description="Port of its own Prefect server")
    max_runs: int = Field(10, ge=1, le=100, description="Flow runs that it executes side by side, each a process")


class NexusSettings(BaseSettings):
    """All settings. `NexusSettings.load()` turns a wrong value into one clear line."""

    model_config = SettingsConfigDict(
        env_prefix="NEXUS_",
        env_nested_delimiter="__",
        toml_file="nexus.toml",
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
        "FULL", description="FULL survives a power cut; NORMAL is faster and may lose the last moments"
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
    service: ServiceSettings = Field(default_factory=lambda: ServiceSettings())

    @property
    def url(self) -> str:
        """The database's URL; the embedded file's where none is set."""
        return self.database_url or f"sqlite:///{self.home / 'nexus.db'}"

    def location(self, url: str | None = None) -> str:
        """The URL to open: `url`, or the settings' own; the home is made where the database lies in it.

        Raises `DatabaseUnavailable`.
        """
        if not (url or self.database_url):
            self.make_home()
        return url or self.url

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """From arguments, environment and `nexus.toml`.

        Raises `InvalidSettings`, one line per wrong key, for anything that cannot be.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
            raise InvalidSettings("Wrong settings (NEXUS_* environment or nexus.toml): " + "; ".join(lines)) from None
        except SettingsError as error:
            wrong = "; ".join(f"{key}: {name} is not JSON" for key, name in _not_json(cls))
            how = f'{wrong}; a list is written ["git", "make"], a section {{"port": 4201}}' if wrong else error
            raise InvalidSettings(f"Wrong settings (NEXUS_* environment): {how}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"nexus.toml is not TOML: {error}") from None
        except OSError as error:
            raise InvalidSettings(f"nexus.toml cannot be read: {error.strerror or error}") from None

    def make_home(self) -> Path:
        """The home, absolute, made where it is missing. Raises `DatabaseUnavailable` where it cannot be."""
        home = self.home.absolute()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseUnavailable(
                f"{self.home} cannot be made: {error.strerror}. Choose another folder with NEXUS_HOME."
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


def _not_json(settings: type[NexusSettings]) -> Iterator[tuple[str, str]]:
    """The variables that are to hold JSON and do not: pydantic-settings names their section only."""
    prefix = "nexus_"
    for name, value in os.environ.items():
        path = name.lower().removeprefix(prefix).split("__")
        if name.lower().startswith(prefix) and _takes_json(settings, path):
            try:
                json.loads(value)
            except ValueError:
                yield ".".join(path), name


def _takes_json(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    if section and path[1:]:
        return _takes_json(field.annotation, path[1:])  # type: ignore[arg-type]
    return section or get_origin(field.annotation) is tuple

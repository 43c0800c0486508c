"""What can go wrong with the embedded service, as types. Each message is one line that says what to do."""

from pathlib import Path

from nexus.errors import NexusError


class ServiceError(NexusError):
    """The base of every error that the embedded service raises on purpose."""


class PortTaken(ServiceError):
    """The port of our Prefect server is held by something else; nothing was started."""

    def __init__(self, host: str, port: int, *, by_prefect: bool) -> None:
        self.host, self.port, self.by_prefect = host, port, by_prefect
        other = "choose another with --port or NEXUS_SERVICE__PORT"
        if by_prefect:
            use = f"set PREFECT_API_URL={api_url(host, port)} to use that one"
            why = f"by a Prefect server that is not this board's: {use}, or {other}"
        else:
            why = f"by another program: {other}"
        super().__init__(f"Port {port} on {host} is taken {why}.")


class MetricsPortTaken(ServiceError):
    """Nothing can listen where the settings want `/metrics`; nothing was started."""

    def __init__(self, host: str, port: int, why: str) -> None:
        self.host, self.port = host, port
        super().__init__(
            f"/metrics cannot be served on port {port} of {host} ({why}): choose another with --metrics-port or "
            "NEXUS_SERVICE__METRICS_PORT (and NEXUS_SERVICE__METRICS_HOST), or leave it out."
        )


class ServerFailed(ServiceError):
    """Our Prefect server did not come up; the log says why."""

    def __init__(self, why: str, log: Path) -> None:
        self.log = log
        super().__init__(f"The Prefect server {why}; the end of {log}: {last_line(log)}")


class RunnerFailed(ServiceError):
    """The process that serves the deployments did not come up, or keeps dying; the log says why."""

    def __init__(self, why: str, log: Path) -> None:
        self.log = log
        super().__init__(f"The runner of the deployments {why}; the end of {log}: {last_line(log)}")


class ApiUnreachable(ServiceError):
    """A Prefect API is configured, and does not answer."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        super().__init__(
            f"The configured Prefect API {url} does not answer ({why}): start it, correct PREFECT_API_URL, "
            "or unset it to let the board run a server of its own."
        )


class NoServer(ServiceError):
    """No Prefect API is configured, and the board's own server does not run, or does not answer at `url`."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        why = f"The board's own Prefect server at {url} does not answer" if url else "No Prefect server runs here"
        super().__init__(f"{why}, and none is configured: start `nexus up`, or set PREFECT_API_URL.")


class ApiRefused(ServiceError):
    """A Prefect API that was there did not do what was asked of it."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        super().__init__(f"The Prefect API {url} did not do it: {why[:500]}")


class UnknownBlock(ServiceError):
    """No notification block has this name."""

    def __init__(self, name: str, why: str = "is not there") -> None:
        self.name = name
        super().__init__(
            f"The notification block {name} {why}: make it in the Prefect UI under Blocks; "
            "its kind and its name are given, as in slack-webhook/ops."
        )


class UnknownDeployment(ServiceError):
    """No deployment has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"There is no deployment {name}: `prefect deployment ls` shows them, as FLOW/DEPLOYMENT.")


class WrongParameter(ServiceError):
    """A deployment cannot be run with what would be given."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"{name} cannot be run so: {why}.")


class UnknownAutomation(ServiceError):
    """No automation of ours has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"No automation of the nexus is called {name!r}: `nexus automations list` shows them.")


class AlreadyUp(ServiceError):
    """`nexus up` runs already on this home."""

    def __init__(self, home: Path, owner: str) -> None:
        self.home = home
        super().__init__(
            f"`nexus up` runs already on {home} (process {owner or 'unknown'}): "
            "stop that one, or set another NEXUS_HOME."
        )


class StartBusy(ServiceError):
    """Another command holds the start lock of this home for too long."""

    def __init__(self, lock: Path) -> None:
        self.lock = lock
        super().__init__(
            "Another nexus command has been starting or stopping the server for a minute "
            f"(it holds {lock}): wait for it or end it."
        )


class PrefectImportedTooEarly(ServiceError):
    """Prefect was imported with another API address, which it keeps for the life of the process."""

    def __init__(self, url: str, imported_with: str | None) -> None:
        super().__init__(
            "Prefect was imported before its server was chosen and speaks to "
            f"{imported_with or 'no server'}, not {url}: import prefect and flows "
            "inside `with prefect_server(...)`, or set PREFECT_API_URL beforehand."
        )


def api_url(host: str, port: int) -> str:
    """The API's address for a client on this machine; where it listens everywhere, that is the loopback."""
    everywhere = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # nosec B104 # noqa: S104 - compared
    reached = everywhere.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/api"


def last_line(log: Path, size: int = 4096) -> str:
    """The last line of a log that says something, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - size))
            text = stream.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(it is empty)"

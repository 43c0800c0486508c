"""Settings that cannot be: an `InvalidSettings` of one line that names the key, and never a setting that is ignored."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus import NexusSettings
from nexus.errors import InvalidSettings, NexusError

from .conftest import Said

VALUES = [
    "[" * 60_000, "[" * 2000 + "]" * 2000, '{"a":' * 20_000, "9" * 100_000, "[1e999]", "NaN", '{"port":NaN}',
    '{"port":' + "9" * 5000 + "}", '"\\ud800"', '["\\ud800"]', '["\\u0000"]', '{"port":1,"port":2}', "", "\udcff",
    '["\udcff"]', "[]", "{}", "null", "true", "/", "\n", "\x1b[31mred", "-1", "1e400", "nan", '{"max_attempts":"x"}',
    "[[]]", "[{}]", '[{"name":"x","steps":[]}]', '{"policies":[{"name":"x","steps":[{"after_seconds":1e999}]}]}', "²",
]  # fmt: skip
NAMES = """
HOME DATABASE_URL AUTO_UPGRADE SQLITE_SYNCHRONOUS REGISTRATION LEASE_SECONDS MAX_PAYLOAD_BYTES RETRY MONITORING COMMAND
HTTP SERVICE RETRY__MAX_ATTEMPTS RETRY__NON_RETRYABLE MONITORING__POLICIES MONITORING__ADAPTIVE SERVICE__PORT__X
MONITORING__ADAPTIVE__FACTOR MONITORING__ESCALATE_TO MONITORING__NOTIFY_BLOCK COMMAND__ALLOWED_PROGRAMS SERVICE__HOST
COMMAND__WORKING_DIRECTORY COMMAND__PASS_ENVIRONMENT HTTP__ALLOWED_HOSTS SERVICE__PORT RETRY__ RETRY____X _ __
"""


@pytest.mark.parametrize("name", NAMES.split())
def test_any_value_of_any_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for value in VALUES:
        monkeypatch.setenv(f"NEXUS_{name}", value)
        try:
            assert isinstance(NexusSettings.load(), NexusSettings)
        except InvalidSettings as wrong:
            assert "\n" not in str(wrong)
            assert name.lower().partition("__")[0] in str(wrong).lower()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NEXUS_LEASE_SECOND", "NEXUS_LEASE_SECONDS"),
        ("NEXUS_DATABASE_ULR", "NEXUS_DATABASE_URL"),
        ("NEXUS_DATABASEURL", "NEXUS_DATABASE_URL"),
        ("nexus_lease_secs", "NEXUS_LEASE_SECONDS"),
        ("NEXUS_REGISTRATON", "NEXUS_REGISTRATION"),
        ("NEXUS_MONITORNG__PENDING_TIMEOUT_SECONDS", "NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS"),
        ("NEXUS_MONITORING_PENDING_TIMEOUT_SECONDS", "NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS"),
        ("NEXUS_COMMAND_ALLOWED_PROGRAMS", "NEXUS_COMMAND__ALLOWED_PROGRAMS"),
    ],
)
def test_a_misspelt_variable_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Said], name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidSettings, match=f"{name} is no setting; is {meant} meant"):
        NexusSettings.load()
    assert f"is {meant} meant?" in command("list").line


def test_a_section_that_does_not_exist_is_told_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEXUS_WATCHDOG__TIMEOUT", "NEXUS_HOME__X"):
        with (
            monkeypatch.context() as patch,
            pytest.raises(InvalidSettings, match=f"{name} is no setting; the sections"),
        ):
            patch.setenv(name, "1")
            NexusSettings.load()


def test_variables_that_are_not_ours_or_not_settings_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("NEXUS_AGENT", "NEXUS_TASK_ID", "NEXUS_ATTEMPT", "NEXUS_IDEMPOTENCY_KEY", "NEXUS_TEST_POSTGRES_URL"):
        monkeypatch.setenv(name, "x")
    for name in ("NEXUS_SERVICE_HOST", "NEXUS_SERVICE_PORT", "NEXUS_PORT", "NEXUS_PORT_8081_TCP_ADDR"):
        monkeypatch.setenv(name, "a service of that name in Kubernetes")
    caplog.set_level(logging.WARNING)
    NexusSettings.load()
    assert caplog.messages == []
    monkeypatch.setenv("NEXUS_URL", "https://sonatype.example.org")
    for _ in range(3):
        NexusSettings.load()
    assert caplog.messages == ["NEXUS_URL is no setting of this program and is left alone"]


TOML = [
    b"a=" + b"[" * 50_000, b"a=" + b"[" * 50_000 + b"]" * 50_000, b"lease_seconds=" + b"9" * 100_000,
    b"lease_seconds=nan", b"lease_seconds=1e999", b'home="a\\u0000b"', b'home="\\ud800"', b"a=1\na=2",
    b"[retry]\n[retry]",
    b"\x00", b"\xef\xbb\xbflease_seconds=5", b"lease_seconds=1979-05-27", b"retry=[]", b"[[retry]]\nmax_attempts=1",
    b'[monitoring]\npolicies=[{name="x",steps=[{action="fail",after_seconds=inf}]}]', b"[monitoring]\npolicies=[[]]",
    b'[command]\nallowed_programs="x"', b'[command]\nallowed_programs=["\\u0000"]', b'"a.b"=1', b'""=1',
    b"[service]\nport=1.5", b"[" + b"a." * 2000 + b"b]", b"lease_seconds=0x" + b"f" * 100_000,
    b'typo="' + b"x" * 1_000_000 + b'"', b'database_url="sqlite:///a\\u0000"', b'database_url="sqlite:///a?timeout=x"',
]  # fmt: skip


@pytest.mark.parametrize("text", TOML, ids=range(len(TOML)))
def test_any_text_of_nexus_toml(command: Callable[..., Said], text: bytes) -> None:
    Path("nexus.toml").write_bytes(text)
    said = command("list")
    assert said.code == 1
    assert "Traceback" not in said.err
    assert len(said.line) <= 2000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Path.mkdir, "it is no file"),
        (os.mkfifo, "it is no file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "it is a link to nothing"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 50 * 2**30), "53,687,091,200 bytes"),
    ],
    ids=["folder", "fifo", "zero", "itself", "nowhere", "50 GiB"],
)
def test_a_nexus_toml_that_is_no_ordinary_file_is_not_passed_over(make: Callable[[Path], object], says: str) -> None:
    make(Path("nexus.toml"))
    with pytest.raises(InvalidSettings, match=f"nexus.toml cannot be read: .*{says}"):
        NexusSettings.load()


def test_a_home_that_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("a\x00b", "x" * 5000):
        with pytest.raises(NexusError, match="cannot be made"):
            NexusSettings.load(home=home).make_home()

"""Where settings come from, and what a wrong one says."""

from pathlib import Path

import pytest

from nexus import NexusSettings, TaskMonitoringConfig, TaskNexus
from nexus.errors import InvalidSettings


def test_the_defaults_are_the_designs() -> None:
    settings = NexusSettings.load()
    assert settings.monitoring == TaskMonitoringConfig(
        check_interval_seconds=300, pending_timeout_seconds=3600, escalation_strategy="log_only"
    )
    policy = settings.retry
    assert (policy.max_attempts, policy.backoff_seconds, policy.multiplier) == (3, 10, 2)
    assert (policy.max_backoff_seconds, policy.jitter, policy.max_losses) == (3600, 0.2, 3)
    assert (settings.lease_seconds, settings.registration, settings.sqlite_synchronous) == (60, "open", "FULL")
    assert settings.url == f"sqlite:///{Path('.nexus') / 'nexus.db'}"
    assert settings.command.allowed_programs == () == settings.http.allowed_hosts


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_DATABASE_URL", "sqlite:///other.db")
    monkeypatch.setenv("NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS", "600")
    monkeypatch.setenv("NEXUS_RETRY__MAX_ATTEMPTS", "7")
    monkeypatch.setenv("NEXUS_HTTP__ALLOWED_HOSTS", '["example.org"]')
    settings = NexusSettings.load()
    assert settings.url == "sqlite:///other.db"
    assert settings.monitoring.pending_timeout_seconds == 600
    assert settings.monitoring.check_interval_seconds == 300
    assert settings.retry.max_attempts == 7
    assert settings.http.allowed_hosts == ("example.org",)


def test_the_file() -> None:
    Path("nexus.toml").write_text(
        'lease_seconds = 90\n[monitoring]\nescalation_strategy = "escalate"\nescalate_to = "Olga"\n'
        '[retry]\nnon_retryable = ["ValueError"]\n',
        encoding="utf-8",
    )
    settings = NexusSettings.load()
    assert settings.lease_seconds == 90
    assert settings.monitoring.escalation_strategy == "escalate"
    assert settings.retry.non_retryable == ("ValueError",)


def test_arguments_before_the_environment_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("nexus.toml").write_text(
        "lease_seconds = 1\nmax_payload_bytes = 2048\nauto_upgrade = false\n"
        '[monitoring]\npending_timeout_seconds = 1\nescalation_strategy = "reassign"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("NEXUS_LEASE_SECONDS", "2")
    monkeypatch.setenv("NEXUS_MAX_PAYLOAD_BYTES", "4096")
    monkeypatch.setenv("NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS", "2")
    settings = NexusSettings.load(lease_seconds=3)
    assert (settings.lease_seconds, settings.max_payload_bytes, settings.auto_upgrade) == (3, 4096, False)
    assert settings.monitoring.pending_timeout_seconds == 2
    assert settings.monitoring.escalation_strategy == "reassign", "sections are merged key by key"


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("NEXUS_LEASE_SECONDS", "soon", "lease_seconds"),
        ("NEXUS_LEASE_SECONDS", "0", "lease_seconds"),
        ("NEXUS_LEASE_SECONDS", "nan", "lease_seconds"),
        ("NEXUS_REGISTRATION", "ajar", "registration"),
        ("NEXUS_SQLITE_SYNCHRONOUS", "OFF", "sqlite_synchronous"),
        ("NEXUS_AUTO_UPGRADE", "perhaps", "auto_upgrade"),
        ("NEXUS_MAX_PAYLOAD_BYTES", "1", "max_payload_bytes"),
        ("NEXUS_SERVICE__PORT", "70000", "service.port"),
        ("NEXUS_MONITORING__ESCALATION_STRATEGY", "panic", "monitoring.escalation_strategy"),
        ("NEXUS_MONITORING__PENDING_TIMEOUT_SECONDS", "-1", "monitoring.pending_timeout_seconds"),
        ("NEXUS_MONITORING__PENDING_TIMEOUT", "60", "monitoring.pending_timeout"),
        ("NEXUS_MONITORING", "not json", "monitoring"),
        ("NEXUS_RETRY__MAX_ATTEMPTS", "0", "retry.max_attempts"),
        ("NEXUS_RETRY__MAX_ATTEMPT", "5", "retry.max_attempt"),
        ("NEXUS_HTTP__ALLOWED_HOSTS", "example.org", "http"),
    ],
)
def test_a_wrong_value_names_its_key(monkeypatch: pytest.MonkeyPatch, key: str, value: str, names: str) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(InvalidSettings, match=names) as refused:
        NexusSettings.load()
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidSettings):
        TaskNexus("sqlite://")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lease_second = 5", "lease_second"),
        ("[monitoring]\npending_timeout = 5", "monitoring.pending_timeout"),
        ("[monitor]\n", "monitor"),
        ("[retry]\nmax_attempt = 5", "retry.max_attempt"),
        ('lease_seconds = "soon"', "lease_seconds"),
        ("monitoring = 5", "monitoring"),
        ("lease_seconds = ", "nexus.toml"),
    ],
)
def test_a_wrong_file_names_its_key(text: str, names: str) -> None:
    Path("nexus.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSettings, match=names) as refused:
        NexusSettings.load()
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text() -> None:
    Path("nexus.toml").write_bytes(b"lease_seconds = 5 # \xff\xfe")
    with pytest.raises(InvalidSettings, match=r"nexus\.toml"):
        NexusSettings.load()


def test_without_a_url_the_board_is_in_its_home() -> None:
    with TaskNexus() as nexus:
        nexus.add_task({"task_id": "T1"})
    assert Path(".nexus/nexus.db").is_file()
    with TaskNexus() as nexus:
        assert nexus.get_task_by_id("T1") is not None


def test_settings_do_not_change_under_ones_feet() -> None:
    settings = NexusSettings.load()
    with pytest.raises(ValueError, match="frozen"):
        settings.lease_seconds = 5
    with pytest.raises(ValueError, match="frozen"):
        settings.monitoring.pending_timeout_seconds = 5

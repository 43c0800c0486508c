"""What is taken for a secret, and what is left alone because people need it."""

import time

import pytest

from nexus import NexusSettings
from nexus.errors import InvalidSettings
from nexus.masking import MASK, Mask, mask_of


def mask(payload: object = None, environment: dict[str, str] | None = None, **secrets: object) -> Mask:
    """The mask of default settings, or of these."""
    return mask_of(NexusSettings(secrets=secrets), environment or {}, payload)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("password=hunter22", f"password={MASK}"),
        ("PASSWORD: hunter22!", f"PASSWORD: {MASK}"),
        ('{"api_key": "a b c", "n": 1}', f'{{"api_key": {MASK}, "n": 1}}'),
        ("--api-key=abcdef123", f"--api-key={MASK}"),
        ("X-Api-Key: abcdef123", f"X-Api-Key: {MASK}"),
        ("GITHUB_TOKEN='a b c'", f"GITHUB_TOKEN={MASK}"),
        ("Authorization: Bearer abcdefgh", f"Authorization: {MASK}"),
        ("authorization: token abcdefgh, x", f"authorization: {MASK}, x"),
        ("postgresql+psycopg://nexus:s3cret@db/board", f"postgresql+psycopg://nexus:{MASK}@db/board"),
        ("sent Bearer abcdefghijklmnop1234", f"sent {MASK}"),
        ("key AKIAABCDEFGHIJKLMNOP is dead", f"key {MASK} is dead"),
        ("ghp_" + "a" * 36, MASK),
        ("sk-proj-" + "a" * 40, MASK),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", MASK),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", MASK),
    ],
)
def test_a_secret_is_known_by_its_name_or_by_its_shape(text: str, told: str) -> None:
    assert mask().text(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "the token was refused",
        "max_tokens=4096",
        "password: ",
        "no password given; secrets are kept elsewhere",
        "http://example.org:8080/a@b",
        "a tokenizer: sentencepiece",
        "expected 3 arguments, got 4",
        "{0.__class__} %s {{ x }} [red]",
        "",
    ],
)
def test_what_only_speaks_of_secrets_stays(text: str) -> None:
    assert mask().text(text) == text


def test_in_a_result_the_name_decides_and_numbers_stay() -> None:
    result = {
        "status": 200,
        "token_count": 17,
        "max_tokens": 5,
        "token": "abc",
        "userPassword": "x",
        "headers": {"X-Api-Key": ["k1", "k2"], "content-type": "text/plain"},
        "credentials": {"user": "ada", "since": 1999},
        "lines": ["ok", "password=hunter22"],
        "empty_token": "",
        "none_token": None,
    }
    assert mask().value(result) == {
        "status": 200,
        "token_count": 17,
        "max_tokens": 5,
        "token": MASK,
        "userPassword": MASK,
        "headers": {"X-Api-Key": [MASK, MASK], "content-type": "text/plain"},
        "credentials": {"user": MASK, "since": 1999},
        "lines": ["ok", f"password={MASK}"],
        "empty_token": "",
        "none_token": None,
    }


def test_the_values_of_variables_are_known_word_for_word() -> None:
    known = mask(None, {"DEPLOY_TOKEN": "open.sesame(1)", "PGPASSWORD": "pgpgpg", "HOME": "/root", "A_TOKEN": "abc"})
    assert known.text("said open.sesame(1) and pgpgpg in /root, abc") == f"said {MASK} and {MASK} in /root, abc"


def test_what_the_payload_calls_secret_is_known_too() -> None:
    known = mask({"env": {"SMTP_PASSWORD": "swordfish"}, "headers": {"Authorization": "Bearer zyx987"}, "n": "public"})
    assert known.text("swordfish public zyx987") == f"{MASK} public {MASK}"


def test_the_password_of_the_database_is_known() -> None:
    settings = NexusSettings(database_url="postgresql+psycopg://nexus:correct-horse@db/board")
    assert mask_of(settings, {}).text("FATAL: correct-horse") == f"FATAL: {MASK}"


def test_an_operator_says_more_or_less() -> None:
    assert mask(names=["pin"]).value({"pin": "1234", "token": "kept"}) == {"pin": MASK, "token": "kept"}
    assert mask(patterns=[r"\bCUST-\d+"]).text("CUST-17 called") == f"{MASK} called"
    off = mask({"token": "abcdef"}, {"API_KEY": "abcdef"}, enabled=False)
    assert off.text("token=abcdef sk-" + "a" * 40) == "token=abcdef sk-" + "a" * 40
    assert off.value({"token": "abcdef"}) == {"token": "abcdef"}


@pytest.mark.parametrize("pattern", ["(", "x*", "", "a" * 2000, "(?P<a>x)(?P<a>y)"])
def test_a_pattern_that_cannot_be_is_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidSettings, match=r"secrets\.patterns"):
        NexusSettings.load(secrets={"patterns": [pattern]})


@pytest.mark.parametrize(
    "piece",
    ["a", "-", "a-", "password", "password=", "token: ", "://a:", "bearer ", "eyJ", "sk-", '"', "x" * 50 + ".",
     "-----BEGIN PRIVATE KEY-----", "BEGIN ", "secret_", "\n"],
)  # fmt: skip
def test_no_text_makes_it_slow(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.monotonic()
    mask({"token": "abcdefgh"}).text(text)
    assert time.monotonic() - began < 5

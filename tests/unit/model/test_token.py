"""RAYCLUSTER_TOKEN: which ones are accepted."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.token import own_token


@pytest.mark.parametrize(
    "token",
    [
        "0123456789abcdef" * 2,
        "0123456789abcdef" * 4,
        "kQ3+/w9-_~.Zq1" * 3,
        "qL0vYkKq8m8m1Vd2vT8c5J1uN9wB7xS2Rr4t6y8u0ik=",
    ],
)
def test_tokens_that_can_be_used(token: str) -> None:
    assert own_token({"RAYCLUSTER_TOKEN": token}) == token


@pytest.mark.parametrize("env", [{}, {"RAYCLUSTER_TOKEN": ""}])
def test_no_token(env: dict[str, str]) -> None:
    assert own_token(env) == ""


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("secret", "has 6 characters; 32 or more are needed"),
        ("0" * 31, "has 31 characters"),
        (" " + "0" * 40, "a character that is not allowed"),
        ("0" * 40 + "\n", "a character that is not allowed"),
        ("0" * 20 + "=" + "0" * 20, "a character that is not allowed"),
        ("Schlüssel" * 5, "a character that is not allowed"),
    ],
)
def test_tokens_that_cannot_be_used_are_not_shown(token: str, found: str) -> None:
    with pytest.raises(UsageError) as error:
        own_token({"RAYCLUSTER_TOKEN": token})
    assert found in error.value.message
    assert token.strip() not in str(error.value)
    assert "openssl rand -hex 32" in error.value.hint

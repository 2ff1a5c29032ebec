"""Text from outside: nothing in it can act on a terminal, no secret is shown."""

from __future__ import annotations

import io

import pytest

from raycluster_cli.model.text import hide, printable, without_secrets
from raycluster_cli.system.report import Report, command_text

TITLE = "\x1b]0;pwned\x07"

HARMFUL = [
    ("escape", "\x1b[2Jx", r"\x1b[2Jx"),
    ("terminal title", TITLE, r"\x1b]0;pwned\x07"),
    ("8-bit control sequence", "\x9b2Jx", r"\x9b2Jx"),
    ("line breaks", "a\nb\rc\x0b\x0c\x85", r"a\nb\rc\x0b\x0c\x85"),
    ("other line breaks", "a\u2028b\u2029", r"a\u2028b\u2029"),
    ("tab and backspace", "a\tb\b\b", r"a\tb\x08\x08"),
    ("delete and nul", "\x7f\0", r"\x7f\x00"),
    ("right to left", "a\u202egpj.exe", r"a\u202egpj.exe"),
    ("isolates", "\u2066a\u2069", r"\u2066a\u2069"),
    ("invisible", "a\u200b\ufeffb\U000e0041", r"a\u200b\ufeffb\U000e0041"),
    ("half a surrogate", "\udc9b", r"\udc9b"),
]


@pytest.mark.parametrize(("text", "shown"), [case[1:] for case in HARMFUL], ids=[case[0] for case in HARMFUL])
def test_what_acts_on_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(printable(text)) == shown


@pytest.mark.parametrize("text", ["", "plain", "größe 1 µs – café", "日本語", "🙂", "a\\x1b"])
def test_everything_else_is_left_alone(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["train", "--token", "abc"], "train --token REDACTED"),
        (["train", "--hf-token=abc"], "train --hf-token=REDACTED"),
        (["env", "HF_TOKEN=abc", "AWS_SECRET_ACCESS_KEY=x", "train"],
         "env HF_TOKEN=REDACTED AWS_SECRET_ACCESS_KEY=REDACTED train"),
        (["train", "--api-key", "k", "--apikey", "k"], "train --api-key REDACTED --apikey REDACTED"),
        (["train", "--password", "--verbose"], "train --password --verbose"),
        (["curl", "-H", "Authorization: Bearer abc.def"], "curl -H 'Authorization: Bearer REDACTED'"),
        (["get", "https://ada:geheim@host/x"], "get https://ada:REDACTED@host/x"),
        (["get", "https://host:80/x"], "get https://host:80/x"),
        # in a program that is one word
        (["sh", "-c", "vllm serve m --api-key abc-d --port 1; x --hf-token='a b' --api-key=\"c d\" -v"],
         "sh -c 'vllm serve m --api-key REDACTED --port 1; x --hf-token=REDACTED --api-key=REDACTED -v'"),
        (["sh", "-c", "export HF_TOKEN=abc; DB_PASSWORD=abc& exec train --token\tabc"],
         "sh -c 'export HF_TOKEN=REDACTED; DB_PASSWORD=REDACTED& exec train --token\\tREDACTED'"),
        (["ray", "--runtime-env-json", '{"env_vars":{"HF_TOKEN":"abc","A": 1, "API_KEY": "abc"}}'],
         """ray --runtime-env-json '{"env_vars":{"HF_TOKEN":REDACTED,"A": 1, "API_KEY": REDACTED}}'"""),
        (["python", "-c", "f(api_key = 'abc')"], "python -c 'f(api_key = REDACTED)'"),
        (["curl", "-H", "X-Api-Key: abc"], "curl -H 'X-Api-Key: REDACTED'"),
        (["sh", "-c", "train --api-key"], "sh -c 'train --api-key'"),
        (["sh", "-c", "train --token --verbose"], "sh -c 'train --token --verbose'"),
        (["sh", "-c", "train --tokenizer gpt2 --max-tokens 9 --key name; test $token == 1"],
         "sh -c 'train --tokenizer gpt2 --max-tokens 9 --key name; test $token == 1'"),
        # what only looks like a secret
        (["train", "--tokenizer", "gpt2", "--max-tokens", "100", "--tokens=9", "--key", "name"],
         "train --tokenizer gpt2 --max-tokens 100 --tokens=9 --key name"),
        (["train", "--token="], "train --token="),
    ],
)  # fmt: skip
def test_secrets_in_a_command_are_not_shown(argv: list[str], shown: str) -> None:
    assert command_text(argv) == shown


def test_a_masked_value_does_not_mask_what_follows() -> None:
    assert without_secrets(["--token", "a", "b"]) == ["--token", "REDACTED", "b"]


def test_a_short_secret_hides_nothing() -> None:
    assert hide("a command", "a") == "a command"


def test_a_report_masks_on_stderr_and_in_events_and_escapes_on_stderr() -> None:
    stream, events = io.StringIO(), []
    report = Report(
        stream=stream,
        mask=lambda text: hide(text, "the-secret-token"),
        on_event=lambda _, text: events.append(text),
    )
    report.say(f"driver: run the-secret-token {TITLE}")
    report.warn("the-secret-token was refused")
    report.note("the-secret-token again")
    assert stream.getvalue() == (
        "raycluster: driver: run REDACTED \\x1b]0;pwned\\x07\nraycluster: warning: REDACTED was refused\n"
    )
    assert events == [f"driver: run REDACTED {TITLE}", "warning: REDACTED was refused", "REDACTED again"]

"""Text from outside, made safe to show: control characters escaped, secrets in commands masked."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: What stands in the place of a secret.
MASK = "REDACTED"

#: A shorter secret would also hide ordinary text.
LEAST_SECRET = 8

#: Format characters that change the order of what follows, and the separators that end a line.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
    "|[\U000e0000-\U000e007f]"
)

#: The last words of an option's or variable's name whose value is a secret: --hf-token, DB_PASSWORD.
_LAST_WORDS = (
    r"(?:token|secret|password|passwd|passphrase|credentials?|(?:api|access|secret|private|auth)[-_]?key)"
)
_SECRET = re.compile(rf"(?:^|[-_.]){_LAST_WORDS}$", re.IGNORECASE)

#: A name of that kind within a longer text, and a value: quoted as shells, JSON or Python have it, or not.
_NAMED = rf"(?<![\w.-])(?:[\w.-]*[-_.])?{_LAST_WORDS}"
_VALUE = r"""(?:'[^']*'|"[^"]*"|[^\s'";,&|()]+)"""

#: For words that are programs themselves: sh -c "HF_TOKEN=… vllm serve …", a runtime environment in JSON.
_IN_TEXT = (
    (re.compile(rf"(?<!\S)(-[\w.-]*[-_.]{_LAST_WORDS})(\s+)(?!-){_VALUE}", re.IGNORECASE), rf"\1\2{MASK}"),
    (
        re.compile(
            rf"""({_NAMED})(["']?\s*(?:=(?!=)|:(?!//))\s*)(?!(?:Bearer|Basic)\s){_VALUE}""", re.IGNORECASE
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\"]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{MASK}@"),
)


def printable(text: str) -> str:
    r"""The text on one line, with control characters as escapes; nothing in it can act on a terminal.

    >>> printable("a\x1b]0;title\x07b\n"), printable("größe 1 µs")
    ('a\\x1b]0;title\\x07b\\n', 'größe 1 µs')
    """
    if text.isascii() and text.isprintable():
        return text
    return _HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return ascii(match.group())[1:-1]


def hide(text: str, *secrets: str) -> str:
    """The text without these secrets.

    >>> hide("refused abcdef-123456", "abcdef-123456", "")
    'refused REDACTED'
    """
    for secret in secrets:
        if len(secret) >= LEAST_SECRET:
            text = text.replace(secret, MASK)
    return text


def without_secrets(argv: Sequence[str]) -> list[str]:
    """A command's words with the values masked whose names say that they are secret.

    >>> without_secrets(["train", "--hf-token", "hf_1", "--tokenizer", "gpt2", "API_KEY=x", "--password=y"])
    ['train', '--hf-token', 'REDACTED', '--tokenizer', 'gpt2', 'API_KEY=REDACTED', '--password=REDACTED']
    """
    shown: list[str] = []
    next_is_secret = False
    for word in argv:
        name, equals, value = word.partition("=")
        is_option = word.startswith("-")
        if next_is_secret and not is_option:
            shown.append(MASK)
        elif equals and value and _SECRET.search(name) and not re.search(r"\s", name):
            shown.append(f"{name}={MASK}")
        else:
            for pattern, masked in _IN_TEXT:
                word = pattern.sub(masked, word)
            shown.append(word)
        next_is_secret = is_option and not equals and bool(_SECRET.search(word))
    return shown

"""Texts of options: their names, and values that are more than one word or number (sizes, pairs)."""

from __future__ import annotations

import json
import re

from .errors import UsageError

PREFIX = "RAYCLUSTER_"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)


def option_name(field_name: str) -> str:
    """The option of a field.

    >>> option_name("expected_workers")
    '--expected-workers'
    """
    return "--" + field_name.replace("_", "-")


def variable_name(field_name: str) -> str:
    """The environment variable of a field.

    >>> variable_name("expected_workers")
    'RAYCLUSTER_EXPECTED_WORKERS'
    """
    return PREFIX + field_name.upper()


def parse_size_bytes(option: str, text: str) -> int:
    """Read a size in bytes; the suffixes K, M, G and T are powers of 1024, as in Slurm.  Raises UsageError.

    >>> parse_size_bytes("--memory", "4G")
    4294967296
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"{option} is {text!r}; it must be a size such as 4G, 900M or a number of bytes.",
        )
    power = " kmgt".index(match.group(2).lower() or " ")
    return int(float(match.group(1)) * 1024**power)


#: How true and false are written: the words that Click and pydantic know.
FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


def parse_flag(name: str, text: str) -> bool:
    """Read true or false, in any of the ways in which it is written.  Raises UsageError.

    >>> parse_flag("RAYCLUSTER_TLS", "Yes"), parse_flag("RAYCLUSTER_TLS", "0")
    (True, False)
    """
    if text.strip().lower() not in FLAGS:
        raise UsageError(f"{name} is {text!r}; it must be true or false.")
    return FLAGS[text.strip().lower()]


def parse_pairs(option: str, text: str) -> dict[str, str]:
    """Read ``key=value,key=value`` or a JSON object; all values as text.  Raises UsageError.

    >>> parse_pairs("--labels", "zone=a,disk=nvme")
    {'zone': 'a', 'disk': 'nvme'}
    >>> parse_pairs("--resources", '{"slots": 2}')
    {'slots': '2'}
    """
    text = text.strip()
    if not text:
        return {}
    if text.startswith("{"):
        try:
            value = json.loads(text)
        except ValueError as e:
            raise UsageError(f"{option} cannot be read as JSON: {e}.", "For example: name=2,other=1.") from e
        return {str(key): str(item) for key, item in value.items()}
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not key.strip() or not equals:
            raise UsageError(
                f"{option} contains {part!r}; each part must be key=value.", "For example: name=2,other=1."
            )
        pairs[key.strip()] = value.strip()
    return pairs

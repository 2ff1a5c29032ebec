"""What the checks of `raycluster doctor` find: plain values, and their JSON."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class Verdict(str, enum.Enum):
    """What a finding means for a cluster here."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing to do."""
    WARNING = "warning"
    """It will work, but not as well as it could, or not always."""
    FAIL = "fail"
    """A cluster will not start here, or not hold."""

    @property
    def rank(self) -> int:
        return [*Verdict].index(self)


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    text: str
    remedy: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name and unit ("import s"): differs from node to node, says nothing by itself."""


@dataclass(frozen=True)
class NodeFindings:
    """What was found on one node."""

    host: str
    facts: Mapping[str, str]
    """What must be equal on all nodes: python, ray, raycluster."""
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {
            "findings": [asdict(one) | {"verdict": one.verdict.value} for one in self.findings]
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NodeFindings:
        """The inverse.  Raises KeyError, TypeError or ValueError."""
        findings = [Finding(**{**one, "verdict": Verdict(one["verdict"])}) for one in value["findings"]]
        return cls(str(value["host"]), dict(value["facts"]), tuple(findings))

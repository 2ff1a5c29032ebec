"""The secrets of a record: made once, refused when others could read them, masked in everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.state.record import Record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path / "state", "tux", "123")


def test_the_token_is_long_made_once_and_read_back(record: Record) -> None:
    token = record.make_token()
    assert len(token) == 64
    assert Record.open(record.path).read_token() == token
    with pytest.raises(RayclusterError, match="is there already"):
        record.make_token()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o666])
def test_a_token_that_others_can_read_is_refused(record: Record, bits: int) -> None:
    record.make_token()
    record.token_path.chmod(bits)
    with pytest.raises(UsageError, match=rf"can be read by others \(mode {bits:04o}\); 0600 is needed"):
        record.read_token()


def test_a_token_that_is_a_link_or_not_whole_yet(record: Record, tmp_path: Path) -> None:
    record.token_path.write_text("")
    record.token_path.chmod(0o600)
    assert record.read_token() is None
    record.token_path.unlink()
    (tmp_path / "other").write_text("f" * 64)
    record.token_path.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="symbolic link"):
        record.read_token()


def test_the_token_gets_into_no_report_and_no_event(record: Record) -> None:
    token = record.make_token()
    record.write_head(HeadInfo("a", "10.0.0.1", 1, driver=("run", f"--token={token}")))
    record.write_node(NodeReport("a", "head", "failed", message=f"bad token {token}"))
    record.append_event(f"refused {token}")
    for path in record.path.rglob("*"):
        if path.is_file() and path.name != "token":
            assert token not in path.read_text()
    head = record.read_head()
    assert head is not None and head.driver == ("run", "--token=REDACTED")


def test_a_token_that_the_user_brought_is_hidden_as_well(record: Record) -> None:
    record.hide("the-users-own-token-0123456789")
    record.hide("")
    record.append_event("driver: curl -H the-users-own-token-0123456789")
    record.write_end(EndReport(1.0, 1, "driver", "a", "the-users-own-token-0123456789 was refused"))
    assert record.read_events()[0].text == "driver: curl -H REDACTED"
    end = record.read_end()
    assert end is not None and end.message == "REDACTED was refused"


def test_an_authority_that_others_can_read_is_refused(record: Record) -> None:
    assert record.read_authority() is None
    record.write_authority("PEM")
    assert record.read_authority() == "PEM"
    (record.path / "authority").chmod(0o644)
    with pytest.raises(UsageError, match=r"can be read by others \(mode 0644\)"):
        record.read_authority()

"""sbatch's refusals, as Slurm 22.05 prints them."""

from __future__ import annotations

import pytest

from raycluster_cli.slurm.refusal import Refusal, hint_for, in_one_line, refusal_of

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"{FAILED}Invalid feature specification", Refusal.NEVER),
        (f"{FAILED}Requested node configuration is not available", Refusal.NEVER),
        (f"{FAILED}Invalid partition name specified", Refusal.NEVER),
        (f"{FAILED}User's group not permitted to use this partition", Refusal.NEVER),
        (f"{FAILED}Requested reservation is invalid", Refusal.NEVER),
        (f"{FAILED}Invalid license specification", Refusal.NEVER),
        ("sbatch: unrecognized option '--bogus'", Refusal.NEVER),
        ("sbatch: error: Invalid --time specification", Refusal.NEVER),
        (f"{FAILED}Required partition not available (inactive or drain)", Refusal.LATER),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", Refusal.LATER),
        (f"{FAILED}Socket timed out on send/recv operation", Refusal.LATER),
        (f"{FAILED}Slurm temporarily unable to accept job, sleeping and retrying", Refusal.LATER),
        (
            f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            Refusal.LATER,
        ),
        (f"{FAILED}Access/permission denied", Refusal.ELSEWHERE),
        ("sbatch: error: Jobs cannot be submitted from compute nodes.", Refusal.ELSEWHERE),
        ("Please use a login node.", Refusal.ELSEWHERE),
    ],
)
def test_kinds(said: str, kind: Refusal) -> None:
    assert refusal_of(said) is kind


def test_hints() -> None:
    assert "sinfo -s" in hint_for(f"{FAILED}Invalid partition name specified")
    assert "%f" in hint_for(f"{FAILED}Invalid feature specification")
    assert hint_for("something new") == ""


def test_in_one_line() -> None:
    text = "sbatch: error: invalid partition specified: x\n" + FAILED + "Invalid partition name specified\n"
    assert in_one_line(text) == (
        "invalid partition specified: x. Batch job submission failed: Invalid partition name specified."
    )
    assert in_one_line("sbatch: unrecognized option '--x'\nTry \"sbatch --help\" for more information\n") == (
        "unrecognized option '--x'."
    )
    assert in_one_line("\n") == ""

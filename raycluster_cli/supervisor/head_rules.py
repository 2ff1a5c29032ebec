"""The rules of the head's policy, made of settings and allocation."""

from __future__ import annotations

from ..model.errors import UsageError
from ..policy.head_state import HeadRules
from ..system.proctree import has_terminal
from .context import Context


def head_rules(context: Context) -> HeadRules:
    """What the policy needs to know of settings and allocation."""
    settings = context.settings
    expected = expected_workers(context)
    service = None
    if settings.service:
        from .server import service_rules  # other runs do not pay for it

        if not context.driver:
            raise UsageError(
                "--service is given, but no driver.", "Put the server after `--`: … -- vllm serve MODEL."
            )
        service = service_rules(settings)
    return HeadRules(
        host=context.host,
        expected=expected,
        quorum=settings.min_workers if settings.min_workers is not None else expected,
        loss=settings.worker_loss,
        min_workers=settings.min_workers,
        hosts=tuple(context.worker_hosts),
        timeout_s=settings.timeout,
        settle_s=settings.settle,
        grace_s=settings.grace,
        stop_before_s=settings.stop_before,
        has_driver=bool(context.driver),
        in_job=context.allocation is not None,
        head_recovery=settings.head_recovery,
        max_restarts=settings.max_restarts,
        requeue_on_preempt=settings.requeue_on_preempt,
        requeue_code=settings.requeue_code,
        at_terminal=cluster_name(context) if has_terminal() else "",
        service=service,
    )


def cluster_name(context: Context) -> str:
    """As `raycluster status` shows it."""
    return context.key + (f"+{context.settings.name}" if context.settings.name else "")


def expected_workers(context: Context) -> int:
    """How many workers to wait for: --expected-workers, else Slurm's nodes without the head's."""
    if context.settings.expected_workers is not None:
        return context.settings.expected_workers
    if context.allocation is None or not context.allocation.job_nodes:
        raise UsageError(
            "the number of workers is not known: there is no Slurm job here and no --expected-workers.",
            "Run it in an sbatch script or under srun, or give --expected-workers N.",
        )
    return len(context.worker_hosts)

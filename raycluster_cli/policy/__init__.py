"""All decisions of a run, as pure functions: an event comes in, a new state and a list of actions go out.

:mod:`.head` and :mod:`.worker` each have ``step(rules, state, event, now) -> (state, actions)``.
Nothing here reads a clock, a file or a socket, and nothing waits: the supervisor passes events in
and executes the actions (supervisor/run.py).

====================  ==============================================================================
:mod:`.events`        what can happen
:mod:`.actions`       what there is to do
:mod:`.values`        phases, the end of a run, the cause of a loss
:mod:`.loss`          --on-worker-loss, also for the srun line that `raycluster submit` writes
:mod:`.worker_wait`   the head's wait for its workers: all of them, a quorum, or why not
:mod:`.stopping`      signals, requests to stop, the driver's grace
====================  ==============================================================================
"""

"""Restart policies, as dockerd's restart manager has them: whether and when a program that has ended runs again."""

from __future__ import annotations

from corten.engine.container import Container

_BACKOFF_FIRST_S = 0.1
_BACKOFF_LIMIT_S = 60.0
_BACKOFF_RESET_NS = 10 * 10**9


def wants_restart(container: Container, *, at_boot: bool = False) -> bool:
    """What the policy says about a program that has ended.  at_boot: the daemon has just started"""
    policy, state = container.host_config.restart_policy, container.state
    if policy.name == "always":
        return at_boot or not state.stopped_by_user
    if policy.name == "unless-stopped":
        return not state.stopped_by_user
    if policy.name == "on-failure":
        allowed = policy.maximum_retry_count == 0 or state.restart_count < policy.maximum_retry_count
        return state.exit_code != 0 and allowed and not state.stopped_by_user
    return False


def next_backoff_s(previous_s: float, ran_ns: int) -> float:
    """How long to wait: 100 ms, doubled to a minute at most; after a run of ten seconds it starts over.

    previous_s: the last wait, 0 for none;  ran_ns: how long the program ran
    """
    if previous_s <= 0 or ran_ns >= _BACKOFF_RESET_NS:
        return _BACKOFF_FIRST_S
    return min(previous_s * 2, _BACKOFF_LIMIT_S)

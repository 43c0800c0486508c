"""Every statement that moves a task. The only code that assigns `status`.

Each verb is one guarded UPDATE: its WHERE names the states that `TRANSITIONS` allows and, for the holder's
verbs, the current `claim_no`; whoever's UPDATE finds no row has lost, and `refusal` says why. RETURNING gives
the moved rows, `previous_status` in them where they came from. The caller's transaction holds all of a verb.
"""

from nexus.transitions.by_time import abandon, expire, lose, mark_overdue, reassign, stall, watch
from nexus.transitions.core import refusal, settle_dependants, withdraw
from nexus.transitions.deciding import approve, block, cancel, reject, retry, unblock
from nexus.transitions.holding import TASK as DONE
from nexus.transitions.holding import complete, completed, fail, heartbeat, release
from nexus.transitions.taking import STALL, Where, begun, claim, claimed, looks, start
from nexus.transitions.taking import TASK as TAKEN

__all__ = [
    "DONE",
    "STALL",
    "TAKEN",
    "Where",
    "abandon",
    "approve",
    "begun",
    "block",
    "cancel",
    "claim",
    "claimed",
    "complete",
    "completed",
    "expire",
    "fail",
    "heartbeat",
    "looks",
    "lose",
    "mark_overdue",
    "reassign",
    "refusal",
    "reject",
    "release",
    "retry",
    "settle_dependants",
    "stall",
    "start",
    "unblock",
    "watch",
    "withdraw",
]

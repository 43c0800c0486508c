"""The verbs that look at the board as a whole: is it well, and what would other settings have meant."""

from collections.abc import Sequence
from datetime import datetime

from nexus import health, measured, observed
from nexus.arguments import a_moment
from nexus.clock import utc_now
from nexus.engine import Tx
from nexus.facade.base import OpenBoard
from nexus.figures import Figures, Reading
from nexus.monitoring import TaskMonitoringConfig
from nexus.reports import Finding, WhatIf


class Observing(OpenBoard):
    """What the record says."""

    def what_if(self, config: TaskMonitoringConfig, *, since: datetime | None = None) -> WhatIf:
        """Replay the record with the thresholds of `config`: which waits it would have flagged, and their ends.

        Waits are on record from schema 0002 on, as long as their tasks are; those that go on now count as well.
        """
        moment = a_moment(since, "since")

        def work(tx: Tx) -> WhatIf:
            learnt = observed.adaptive_thresholds(tx, config) if config.adaptive.enabled else {}
            return observed.what_if(tx, config, learnt, moment)

        return self._database.read(work)

    def figures(self, *, since: datetime | None = None, episode_id: str | None = None) -> Figures:
        """The board in numbers, by task type and by agent: what came of the attempts, how long they waited and took.

        Attempts count that ended `since` (None: on the whole record), of one episode or of all. It costs what ended
        since then. Raises `InvalidTask` for a time that is none.
        """
        moment = a_moment(since, "since")
        return self._database.read(lambda tx: measured.figures(tx, moment, episode_id))

    def reading(self, after: datetime | None, bounds: Sequence[float]) -> Reading:
        """What a meter shows: the present, and the attempts that ended `after` the `until` of the reading before.

        `bounds` are those of the buckets into which durations are counted, in seconds, the smallest first. None for
        `after` begins: no attempt is counted yet.
        """
        moment = a_moment(after, "after")
        return self._database.read(lambda tx: measured.reading(tx, moment, bounds))

    def doctor(self) -> list[Finding]:
        """What is not as it should be: a sweep that does not come, clocks that differ, promises that are broken.

        Reads the whole board once or twice, and locks nothing.
        """
        interval = self.settings.monitoring.check_interval_seconds

        def work(tx: Tx) -> list[Finding]:
            found = [*health.late_sweep(tx, interval), *health.late_leases(tx, interval)]
            if not self._database.is_sqlite and not self._database.is_injected:
                found += health.clocks(tx, utc_now())
            return [*found, *health.violations(tx)]

        return self._database.read(work)

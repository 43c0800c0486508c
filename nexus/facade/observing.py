"""The verbs that look at the board as a whole: is it well, and what would other settings have meant."""

from datetime import datetime

from nexus import health, observed
from nexus.arguments import a_moment
from nexus.clock import utc_now
from nexus.engine import Tx
from nexus.facade.base import OpenBoard
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

"""The members of one raw record: taken out one by one under our names, the rest kept."""

from datetime import datetime
from typing import Any

from nexus.boards import vocabulary as words
from nexus.boards.records import BadRecord, RawRecord
from nexus.boards.times import AbsurdTime, instant_of, one_line, says_all, shown


class Members:
    """The members of one record, taken out one by one; those that nobody took are extra."""

    def __init__(self, record: RawRecord) -> None:
        self.record = record
        self.raw: dict[str, Any] = record.value
        self.sections = [part for name in words.SECTIONS if isinstance(part := self.raw.get(name), dict)]
        self.used: set[str] = set()
        self.extra: dict[str, Any] = {}
        self.warnings: list[str] = []

    def take(self, field: str) -> Any:
        """The first filled member that goes by a name of `field`; it will not be in extra."""
        for name in words.FIELDS[field]:
            if self.raw.get(name) not in (None, ""):
                self.used.add(name)
                return self.raw[name]
        return next(
            (part[name] for part in self.sections for name in words.FIELDS[field] if part.get(name) not in (None, "")),
            None,
        )

    def keep(self, field: str, raw: Any) -> None:
        """Remember the raw value of a field whose mapping lost something."""
        self.extra[f"raw_{field}"] = raw

    def warn(self, message: str) -> None:
        self.warnings.append(one_line(message))

    def instant(self, field: str) -> datetime | None:
        """The first time that goes by a name of `field` and can be read; a placeholder is none."""
        filled = [(name, self.raw[name]) for name in words.FIELDS[field] if self.raw.get(name) not in (None, "")]
        filled += [(name, part[name]) for part in self.sections for name in words.FIELDS[field] if part.get(name)]
        best: tuple[str, Any, datetime | None] | None = None
        for name, raw in filled:
            try:
                moment = instant_of(raw)
            except AbsurdTime as fault:
                raise BadRecord(f"{name}: {fault}; correct it") from None
            if best is None or (best[2] is None and moment is not None):
                best = name, raw, moment
        if best is None:
            return None
        name, raw, moment = best
        if self.raw.get(name) is raw:
            self.used.add(name)
        if moment is None:
            self.warn(f"{name}: {shown(raw)} is no time; it is kept in extra.raw_{field}")
        if moment is None or not says_all(raw):
            self.keep(field, raw)
        return moment

    def check_other_times(self) -> datetime | None:
        """When it was finished, as far as the record says; absurd times of any kind reject it."""
        finished = None
        for name in (*words.FINISHED_AT, *words.OTHER_TIMES):
            try:
                moment = instant_of(self.raw.get(name))
            except AbsurdTime as fault:
                raise BadRecord(f"{name}: {fault}; correct it") from None
            if name in words.FINISHED_AT:
                finished = finished or moment
        return finished

    def text_id(self, field: str) -> str | None:
        raw = self.take(field)
        if raw is None:
            return None
        if not isinstance(raw, str | int) or isinstance(raw, bool):
            self.warn(f"{field}: {shown(raw)} is no id; it is kept in extra.raw_{field}")
            self.keep(field, raw)
            return None
        return str(raw)

"""One raw record to one `BoardTask`, by the tables of `vocabulary`.

What a value of ours cannot say stays in `extra`: unknown members as they are, the raw text of a mapped one
as `raw_status`, `raw_priority`, `raw_created_at` … wherever the mapping lost something. A value that means
nothing (an unknown status or priority, an impossible time, NaN, a NUL character) rejects its record with a
reason.

**Whole-number priorities.** They are on our scale as they stand, smaller first. In a record that uses one
of the origin's own member names (`vocabulary.ORIGIN_NAMES`, such as `action`, `params`, `assigned_agent`)
they are ranks: 1, 2, 3 and later become 0, 10, 20 and 30, the raw number is kept.
"""

import re
from datetime import datetime
from hashlib import sha256
from pathlib import PurePath
from typing import Any, TypeGuard

from pydantic import ValidationError

from nexus.boards import vocabulary as words
from nexus.boards.members import Members
from nexus.boards.native import native_task
from nexus.boards.recognising import id_member, own_id
from nexus.boards.records import NOTHING_BEHIND, UNRESOLVED, BadRecord, BoardState, BoardTask, RawRecord
from nexus.boards.times import AbsurdTime, one_line, shown
from nexus.schemas import NewTask
from nexus.states import HELD, TERMINAL, TaskStatus
from nexus.values import canonical_json, check_id, check_json

_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")


def map_record(record: RawRecord) -> BoardTask:
    """The task that `record` describes; `BadRecord` where it describes none that the nexus can keep."""
    try:
        check_json(record.value)
    except ValueError as fault:
        raise BadRecord(f"it {fault}") from None
    try:
        check_json(_about(record))
    except ValueError as fault:
        raise BadRecord(f"what stands around it (its key, agent, episode or parent) {fault}") from None
    try:
        if record.native:
            return native_task(record, digest_of(record))
        return _Mapping(record).task()
    except ValidationError as error:
        faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()[:3])
        raise BadRecord(one_line("; ".join(faults).replace("Value error, ", ""), 400)) from None
    except AbsurdTime as fault:
        raise BadRecord(str(fault)) from None


def digest_of(record: RawRecord) -> str:
    """SHA-256 of what the record says, and of what its place says about it."""
    about = _about(record)
    text = canonical_json([record.value, about] if any(about) else record.value)
    return sha256(text.encode()).hexdigest()


def _about(record: RawRecord) -> list[str | None]:
    return [record.key, record.listed_as, record.agent, record.episode_id, record.parent_id]


class _Mapping(Members):
    """One record on its way."""

    def task(self) -> BoardTask:
        given = self.raw.get("extra")
        if isinstance(given, dict):
            self.used.add("extra")
            self.extra.update(given)
        task_id, digest = self.task_id(), digest_of(self.record)
        times = {field: self.instant(field) for field in ("created_at", "updated_at", "deadline", "available_at")}
        finished = self.check_other_times()
        status = self.status(finished)
        new: dict[str, Any] = {"task_id": task_id, "priority": self.priority(), "payload": self.payload()}
        state: dict[str, Any] = {
            "created_at": times["created_at"],
            "updated_at": times["updated_at"] or finished,
        }
        new |= {name: times[name] for name in ("deadline", "available_at") if times[name]}
        new |= self.simple_fields()
        new["depends_on"] = self.dependencies()
        status, new["assigned_to"], state["claimed_by"] = self.agents(status)
        new["description"] = self.description()
        state |= self.ending(status)
        new["related_task_id"] = self.text_id("related_task_id") or self.record.parent_id
        new["episode_id"] = self.text_id("episode_id") or self.record.episode_id
        new["extra"] = self.rest() | self.extra
        behind = BoardState(**state) if any(value is not None for value in state.values()) else NOTHING_BEHIND
        return BoardTask(
            new=NewTask(**new), status=status, state=behind, digest=digest, source=self.record.source,
            warnings=tuple(self.warnings),
        )  # fmt: skip

    def rest(self) -> dict[str, Any]:
        """What no field of ours is made of; what looks like one of them is pointed out."""
        rest = {name: value for name, value in self.raw.items() if name not in self.used}
        for note in words.notes_on(rest, self.raw):
            self.warn(note)
        return rest

    def task_id(self) -> str:
        """Its own id, else its key in a map, else one made from the file's name and the content."""
        member = id_member(self.raw)
        if member is not None:
            self.used.add(member)
            text = str(self.raw[member]).strip()
            if text.startswith("<") and text.endswith(">"):
                raise BadRecord(f"its id is the unfilled placeholder {shown(text)}: a form to copy, not a task")
            return text
        if self.raw.get("task_id") not in (None, ""):
            raise BadRecord(f"task_id: {shown(self.raw['task_id'])} is no id; use text")
        if self.record.key is not None:
            return self.record.key
        stem = PurePath(self.record.source.file).stem[:200].strip() or "task"
        made = stem if self.record.alone else f"{stem}-{sha256(canonical_json(self.raw).encode()).hexdigest()[:8]}"
        self.warn(f"it has no id; it is kept as {made}")
        return made

    def status(self, finished: datetime | None) -> TaskStatus:
        name = next((name for name in words.FIELDS["status"] if self._says_status(name)), None)
        raw = None if name is None else self.raw[name]
        if name is None:
            done = finished is not None or bool(self.raw.get("completed_by"))
            return TaskStatus.COMPLETED if done else self.record.listed_as or TaskStatus.PENDING
        self.used.add(name)
        if not isinstance(raw, str):
            raise BadRecord(f"status: {shown(raw)} is not text; use one of {', '.join(TaskStatus)}")
        word = words.fold(raw)
        if word in words.NOT_TASKS:
            raise BadRecord(words.NOT_TASKS[word])
        status = words.status_of(raw)
        if status is None:
            known = ", ".join(TaskStatus)
            raise BadRecord(
                f"status: {shown(raw)} is unknown; use one of {known}, or a common word for one (todo, done, paused …)"
            )
        if word != status:
            self.keep("status", raw)
        if word not in words.STATUSES:
            self.warn(f"status: {shown(raw)} was read as {status}")
        return status

    def _says_status(self, name: str) -> bool:
        raw = self.raw.get(name)
        return raw not in (None, "") and (name == "status" or isinstance(raw, str))

    def priority(self) -> int:
        raw = self.take("priority")
        word = words.fold(str(self.extra.get("raw_status", "")))
        if raw is None:
            return 30 if word == "future_improvement" else 20
        if isinstance(raw, float) and raw.is_integer():
            raw = int(raw)
        if isinstance(raw, str) and _WHOLE_NUMBER.fullmatch(raw.strip()):
            raw = int(raw)
        if isinstance(raw, int) and not isinstance(raw, bool):
            if words.ORIGIN_NAMES.isdisjoint(self.raw) or raw < 0:
                return raw
            self.keep("priority", raw)
            return words.RANKS.get(raw, 30)
        priority = words.priority_of(raw) if isinstance(raw, str) else None
        if priority is None:
            raise BadRecord(
                f"priority: {shown(raw)} is unknown; use an integer (smaller is first) or critical, high, medium, low"
            )
        if words.fold(str(raw)) not in ("critical", "high", "medium", "low"):
            self.keep("priority", raw)
        return max(0, priority - 10) if word == "available_for_emergency_claiming" else priority

    def payload(self) -> dict[str, Any]:
        raw = self.take("payload")
        if raw is None or isinstance(raw, dict):
            return raw or {}
        self.warn("its payload is no object; it is kept as payload.value")
        return {"value": raw}

    def simple_fields(self) -> dict[str, Any]:
        """Fields that are taken as they are; pydantic says what is wrong with them."""
        fields: dict[str, Any] = {}
        for field in ("task_type", "tags", "required_capabilities"):
            raw = self.take(field)
            if raw is not None and field != "task_type":
                raw = [raw] if isinstance(raw, str) else raw
                raw = [_text(part) for part in raw] if isinstance(raw, list) else raw
            if raw is not None:
                fields[field] = _text(raw)
        for field in ("retry_policy", "timeout_seconds", "requires_review", "idempotency_key", "on_dependency_failure"):
            if self.raw.get(field) is not None:
                self.used.add(field)
                fields[field] = self.raw[field]
        return fields

    def dependencies(self) -> list[str]:
        """What it waits for, as named; which of them are tasks is known only when every file is read."""
        names: dict[str, None] = {}
        for holder in (self.raw, *self.sections):
            for member in words.DEPENDENCIES:
                raw = holder.get(member)
                if raw in (None, "", [], {}):
                    continue
                if holder is self.raw:
                    self.used.add(member)
                for entry in raw if isinstance(raw, list) else [raw]:
                    target = own_id(entry) if isinstance(entry, dict) else _text(entry)
                    if isinstance(entry, dict) and target:  # an object says more than the id in it
                        self.extra.setdefault("raw_dependencies", []).append(entry)
                    if _fits_an_id(target):
                        names[target.strip()] = None
                    elif entry is not None:
                        self.extra.setdefault(UNRESOLVED, []).append(entry)
        return list(names)

    def agent(self, field: str) -> str | None:
        raw = self.take(field)
        if raw is None:
            return None
        if not isinstance(raw, str):
            self.warn(f"{field}: {shown(raw)} is no agent's name; it is kept in extra.raw_{field}")
        name = words.agent_of(raw) if isinstance(raw, str) else None
        if name != raw:
            self.keep(field, raw)
        return name

    def agents(self, status: TaskStatus) -> tuple[TaskStatus, str | None, str | None]:
        """The state, whom it is assigned to, and who holds or held it."""
        assigned, claimed, completed = (self.agent(field) for field in ("assigned_to", "claimed_by", "completed_by"))
        holder = claimed or assigned or self.record.agent
        assigned = assigned or (self.record.agent if status not in TERMINAL else None)
        if status in HELD:
            if holder is None:
                self.warn(f"status: it is {status}, but by nobody; it is pending again")
                self.extra.setdefault("raw_status", str(status))
                return TaskStatus.PENDING, None, None
            return status, assigned, holder
        if status in TERMINAL or status is TaskStatus.IN_REVIEW:
            if claimed and completed and claimed != completed:
                self.extra.setdefault("raw_claimed_by", claimed)
            return status, assigned, completed or holder
        for field, name in (("claimed_by", claimed), ("completed_by", completed)):
            if name:  # it waits: nobody holds it, whatever the board says
                self.extra.setdefault(f"raw_{field}", name)
        return status, assigned, None

    def description(self) -> str:
        """What is to be done; a title beside a description stays in extra."""
        if self.raw.get("description") is not None and not isinstance(self.raw["description"], str):
            raise BadRecord(f"description: {shown(self.raw['description'])} is not text")
        for name in words.TEXT:
            for holder in (self.raw, *self.sections):
                text = holder.get(name)
                if isinstance(text, str) and text.strip():
                    if holder is self.raw and name not in (
                        "action",
                        "content",
                        "message",
                    ):  # these say how, too
                        self.used.add(name)
                    return text
        self.used.add("description")
        return str(self.raw.get("description") or "")

    def ending(self, status: TaskStatus) -> dict[str, Any]:
        """Result, error and reason, where the state can have them; else they stay in extra."""
        fields: dict[str, Any] = {}
        if status in (TaskStatus.COMPLETED, TaskStatus.IN_REVIEW):
            fields["result"] = self.take("result")
        if status is not TaskStatus.COMPLETED and any(
            isinstance(self.raw.get(name), str) for name in words.FIELDS["error"]
        ):
            fields["error"] = self.take("error")
        reason = next(
            (
                self.raw[name]
                for name in words.FIELDS["reason"]
                if isinstance(self.raw.get(name), str) and self.raw[name]
            ),
            None,
        )
        if reason is not None:
            self.used.update(name for name in words.FIELDS["reason"] if self.raw.get(name) == reason)
            fields["reason"] = reason
        elif status is TaskStatus.BLOCKED and "raw_status" in self.extra:
            fields["reason"] = self.extra["raw_status"]
        return fields


def _text(value: Any) -> Any:
    """A number as text; anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _fits_an_id(value: Any) -> TypeGuard[str]:
    try:
        return isinstance(value, str) and len(check_id(value)) <= 255
    except ValueError:
        return False

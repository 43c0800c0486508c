"""What the built-in handlers share: a payload that is checked, foreign text made fit, a result that fits."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.handlers.contract import GiveUp
from nexus.schemas import Task
from nexus.values import json_size

_P = TypeVar("_P", bound="Payload")


class Payload(BaseModel):
    """The base of a handler's payload. An unknown field is refused: a misspelt one would go unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls: type[_P], task: Task) -> _P:
        """The task's payload as this model.

        Raises `GiveUp` that names each wrong field and never its value: a header or a variable may be secret.
        """
        try:
            return cls.model_validate(task.payload)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {_message(fault)}" for fault in error.errors())
            raise GiveUp(f"The payload of this {task.task_type} task cannot be used: {'; '.join(faults)}") from None


def _message(fault: Any) -> str:
    return str(fault["msg"]).removeprefix("Value error, ")


def decode(data: bytes | bytearray, encoding: str = "utf-8") -> str:
    """Foreign bytes as text that the board can keep: what is no character becomes U+FFFD, and so does NUL."""
    try:
        text = data.decode(encoding, "replace")
    except (LookupError, ValueError):  # an encoding that does not exist, or that is no encoding of text
        text = data.decode("utf-8", "replace")
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def fit(result: dict[str, Any], limit: int, *names: str) -> bool:
    """Cuts the texts `names` of `result` until it is at most `limit` bytes of JSON; True where it had to.

    All are cut to one length, so that a short one stays whole; its beginning and end remain. Needed because
    text is longer as JSON, where it is escaped, and a result that is too long would cost the attempt.
    """
    if json_size(result) <= limit:
        return False
    whole = {name: result[name] for name in names}
    fits, too_long = 0, max(map(len, whole.values()))
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        result.update({name: _clip(text, length) for name, text in whole.items()})
        if json_size(result) <= limit:
            fits = length
        else:
            too_long = length
    result.update({name: _clip(text, fits) for name, text in whole.items()})
    return True


def _clip(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    head, tail = text[: length - length // 2], text[len(text) - length // 2 :]
    return f"{head}\n… {len(text) - length:,} characters left out …\n{tail}"

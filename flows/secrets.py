"""What a handler says, without its secrets: its log, and the error that Prefect shows of it."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from nexus.masking import Mask
from nexus.schemas import Failure, clean


class MaskedError(Exception):
    """An error of a handler whose words, or those of what caused it, held a secret."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


class MaskedLog(logging.LoggerAdapter[Any]):
    """A logger that masks each line as it stands when all is put in, a traceback too."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any], mask: Mask) -> None:
        super().__init__(log, {})
        self.mask = mask

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Whatever the logger below puts in; this one adds nothing."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As the logger below does it, in one text."""
        if not self.isEnabledFor(level):
            return
        raised = kwargs.pop("exc_info", None)
        try:
            # As logging does it: one mapping stands for names in the text.
            given = args[0] if len(args) == 1 and isinstance(args[0], dict) and args[0] else args
            text = str(msg) % given if args else str(msg)
        except Exception:
            text = f"{msg} {args}"
        if raised:
            text = f"{text}\n{_as_text(raised)}".rstrip()
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        self.logger.log(level, "%s", self.mask.text(text), **kwargs)


def _as_text(exc_info: Any) -> str:
    if isinstance(exc_info, BaseException):
        return "".join(traceback.format_exception(exc_info))
    if isinstance(exc_info, tuple):
        return "".join(traceback.format_exception(*exc_info))
    return traceback.format_exc()


def in_words(error: BaseException) -> Failure:
    """The failure that the nexus keeps. Of an error with impossible wishes the text, of one without words the type."""
    with suppress(Exception):
        return Failure.of(error)
    name = type(error).__name__
    with suppress(Exception):
        return Failure(message=clean(str(error)), error_type=name)
    return Failure(message="an error that cannot be put into words", error_type=name)


def told(error: BaseException, mask: Mask) -> tuple[Failure, BaseException]:
    """What the nexus keeps of an error, and what Prefect is to show: the error itself, or one without its secrets.

    Prefect shows and logs the whole chain of causes, so a secret in any of them is enough.
    """
    failure = in_words(error)
    failure = failure.model_copy(update={"message": mask.text(failure.message)})
    if all(mask.text(words) == words for one in _chain(error) for words in _words(one)):
        return failure, error
    return failure, MaskedError(failure)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _words(error: BaseException) -> Iterator[str]:
    for say in (str, repr):
        with suppress(Exception):
            yield say(error)
    yield from (note for note in getattr(error, "__notes__", ()) if isinstance(note, str))

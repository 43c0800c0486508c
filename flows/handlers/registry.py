"""Which function does which task type: the `handler` decorator, the built-ins and the plugins.

A plugin is an entry point in the group `nexus.handlers`. It names a module whose import registers handlers
with the decorator, or a callable that is registered under the entry point's name. Plugins are loaded at the
first question, once for the process; one that breaks is logged, left out, and shown by `broken_plugins`.
"""

import inspect
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

from flows.handlers.contract import Handler
from flows.handlers.errors import HandlerConflict
from nexus.settings import NexusSettings
from nexus.values import Name

ENTRY_POINT_GROUP: Final = "nexus.handlers"

BUILT_IN: Final = {
    "echo": "flows.handlers.echo",
    "command": "flows.handlers.command",
    "http": "flows.handlers.http",
}
"""Task types and their modules. Named here as well as in the entry points, so that a checkout that was never
installed has them; and kept for these modules, so that the order of imports never decides who does what."""

_TASK_TYPE: Final[TypeAdapter[str]] = TypeAdapter(Name)
_F = TypeVar("_F", bound=Handler)
_logger = logging.getLogger(__name__)


class _Registry:
    """The table of handlers.

    Two locks, because an import runs plugin code that registers: a thread that held the table's lock while it
    waits for a module's import lock would deadlock with the thread that is importing that module.
    """

    def __init__(self) -> None:
        self._table: dict[str, Handler] = {}
        self._temporary: defaultdict[str, list[Handler]] = defaultdict(list)
        self._broken: dict[str, str] = {}
        self._table_lock = threading.Lock()
        self._load_lock = threading.RLock()
        self._loading = self._loaded = False
        self._plugin = threading.local()

    def register(self, task_type: str, function: Handler) -> None:
        task_type = _TASK_TYPE.validate_python(task_type)
        _check_signature(function)
        with self._table_lock:
            self._check_free(task_type, function)
            self._table[task_type] = function
        added: list[str] | None = getattr(self._plugin, "added", None)
        if added is not None:
            added.append(task_type)

    def _check_free(self, task_type: str, function: Handler) -> None:
        owner = BUILT_IN.get(task_type)
        if owner is not None and getattr(function, "__module__", None) != owner:
            raise HandlerConflict(task_type, taken_by=f"{owner} (built in)", refused=_name(function))
        present = self._table.get(task_type)
        if present is not None and not _is_same(present, function):
            raise HandlerConflict(task_type, taken_by=_name(present), refused=_name(function))

    def push(self, task_type: str, function: Handler) -> None:
        with self._table_lock:
            self._temporary[task_type].append(function)

    def remove(self, task_type: str, function: Handler) -> None:
        with self._table_lock:
            # The newest of its kind, not simply the newest: blocks of two threads may end in any order.
            stack = self._temporary[task_type]
            del stack[max(index for index, present in enumerate(stack) if present is function)]
            if not stack:
                del self._temporary[task_type]

    def find(self, task_type: str) -> Handler | None:
        self._load()
        with self._table_lock:
            temporary = self._temporary.get(task_type)
            return temporary[-1] if temporary else self._table.get(task_type)

    def task_types(self) -> frozenset[str]:
        self._load()
        with self._table_lock:
            return frozenset(self._table) | frozenset(self._temporary)

    def broken_plugins(self) -> dict[str, str]:
        self._load()
        with self._table_lock:
            return dict(self._broken)

    def _load(self) -> None:
        if self._loaded:
            return
        with self._load_lock:
            if self._loaded or self._loading:  # loading: a plugin asks while it is being imported
                return
            self._loading = True
            try:
                for name, load in _plugins():
                    self._load_plugin(name, load)
                self._loaded = True
            finally:
                self._loading = False

    def _load_plugin(self, name: str, load: Callable[[], Any]) -> None:
        added: list[str] = []
        self._plugin.added = added
        try:
            found = load()
            if callable(found):
                self.register(name, found)
            elif not isinstance(found, ModuleType):
                raise TypeError(f"names a {type(found).__name__}; it must name a module or a callable")
        except (Exception, SystemExit) as error:
            with self._table_lock:
                # A module that stopped half way has functions whose helpers may not exist.
                for task_type in added:
                    self._table.pop(task_type, None)
                told = f"{type(error).__name__}: {error}"
                self._broken[name] = f"{self._broken[name]}; {told}" if name in self._broken else told
            _logger.error("Handler plugin %r is broken and left out: %s", name, error, exc_info=error)
        finally:
            self._plugin.added = None


def _plugins() -> Iterator[tuple[str, Callable[[], Any]]]:
    """The built-ins, then what is installed, by name: a conflict ends the same way on every machine."""
    for task_type, module in BUILT_IN.items():
        yield task_type, partial(import_module, module)
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        if point.value not in BUILT_IN.values():
            yield point.name, point.load


def _name(function: Handler) -> str:
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)


def _is_same(one: Handler, other: Handler) -> bool:
    """The very same, or the same module-level name again: a reloaded module, a notebook cell run twice."""
    return one is other or (_name(one) == _name(other) and "<locals>" not in _name(one))


def _check_signature(function: Handler) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some callables written in C tell none
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(f"{_name(function)}{signature} cannot be a handler: it must take (task, context)") from None


_registry = _Registry()


def handler(task_type: str) -> Callable[[_F], _F]:
    """Registers the function below as what does tasks of `task_type`, and returns it unchanged.

    For `def` and `async def` alike. Raises `HandlerConflict` where another function has the type already,
    `ValueError` for a type that no task can have, `TypeError` where it does not take (task, context).
    """

    def register(function: _F) -> _F:
        _registry.register(task_type, function)
        return function

    return register


@contextmanager
def registered(task_type: str, function: Handler) -> Iterator[None]:
    """For tests: inside the block `function` does `task_type`, in every thread, even if the type is taken."""
    _registry.push(task_type, function)
    try:
        yield
    finally:
        _registry.remove(task_type, function)


def find(task_type: str) -> Handler | None:
    """What does tasks of this type; None where nobody does."""
    return _registry.find(task_type)


def task_types() -> frozenset[str]:
    """Every type that has a handler here, whether or not settings let it run; see `runnable_types`."""
    return _registry.task_types()


def broken_plugins() -> dict[str, str]:
    """Plugins that could not be loaded, by entry point name, each with its error."""
    return _registry.broken_plugins()


def runnable_types(settings: NexusSettings) -> frozenset[str]:
    """The types that an agent with these settings may claim.

    Without `command` where no program is allowed and without `http` where no host is: such tasks stay pending
    for an agent elsewhere, instead of dying here.
    """
    off = set()
    if not settings.command.allowed_programs:
        off.add("command")
    if not settings.http.allowed_hosts:
        off.add("http")
    return task_types() - off

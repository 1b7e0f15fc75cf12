"""Names for the parts that others add: methods, checks and tasks, here or in an installed package.

A package outside registers its own by an entry point in the group `gossamer` whose module uses these decorators.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from gossamer.errors import BadInput, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

ENTRY_POINTS = "gossamer"
_HOMES = {"method": "gossamer.discover", "check": "gossamer.verify", "task": "gossamer.tasks"}


class Registry:
    """Functions of one kind by name. Looking a name up first imports the folder where its kind lives."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, Callable[..., Any]] = {}
        self._ready = False

    def __call__(self, name: str) -> Callable[[F], F]:
        """Decorator that registers a function; a name that is taken by another function is BadInput."""

        def add(function: F) -> F:
            other = self._known.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (
                function.__module__,
                function.__qualname__,
            ):
                raise BadInput(f"The {self.kind} name {name!r} is taken by {other.__module__}.{other.__qualname__}.")
            self._known[name] = function
            return function

        return add

    def _load(self) -> None:
        if self._ready:
            return
        self._ready = True
        importlib.import_module(_HOMES[self.kind])
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            point.load()

    def __getitem__(self, name: str) -> Callable[..., Any]:
        self._load()
        if name not in self._known:
            raise BadInput(f"Unknown {self.kind} {name!r}: {nearest(name, self._known)}")
        return self._known[name]

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._known)


method = Registry("method")
check = Registry("check")
task = Registry("task")


def config_kind(function: Callable[..., Any]) -> type[BaseModel] | None:
    """The class of a method's configuration, from the type of its argument `config`; None for one without."""
    from pydantic import BaseModel

    own = SimpleNamespace(__annotations__={"config": function.__annotations__.get("config", NoneType)})
    hint = get_type_hints(own, function.__globals__)["config"]
    kinds = [k for k in get_args(hint) or (hint,) if isinstance(k, type) and issubclass(k, BaseModel)]
    return kinds[0] if kinds else None

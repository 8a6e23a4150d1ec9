"""Writes pickles of objects whose classes are only named, so that what defines them need not be imported.

Importing torch and its distributed checkpointing takes longer than converting a small model.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """A class or a function."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What a function returns, or a class makes, given these arguments."""

    function: Name
    arguments: tuple


@dataclass(frozen=True, eq=False)  # as a key it stands for itself
class Instance:
    """An object with these attributes, or whatever else its class's `__setstate__` takes."""

    of: Name
    state: Any


@dataclass(frozen=True)
class Persistent:
    """What the pickle only refers to, such as the memory of a tensor."""

    identifier: tuple


def dumps(value: Any) -> bytes:
    """A pickle of plain data and of the four kinds above."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(value)
    return file.getvalue()


class _Pickler(pickle._Pickler):  # the one in C cannot be taught to write a name
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if write := self._writers.get(type(obj)):
            write(self, obj)
        else:
            super().save(obj, save_persistent_id)

    def _name(self, obj: Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def _call(self, obj: Call) -> None:
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    def _instance(self, obj: Instance) -> None:
        self.save(obj.of)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(obj.state)
        self.write(pickle.BUILD)

    def _persistent(self, obj: Persistent) -> None:
        self.save(obj.identifier)
        self.write(pickle.BINPERSID)

    _writers: dict[type, Callable] = {Name: _name, Call: _call, Instance: _instance, Persistent: _persistent}

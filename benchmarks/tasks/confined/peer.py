"""Two processes that call each other's functions over a pair of pipes.

Each side has a `Peer`. A value of the other side is data (see `values`) or a `Remote`: a handle on
an object that stays where it is. A `Remote` never answers whether it is equal to data, or what it
is together with data: the side that holds the data would believe the other's word. Of two
`Remote`s their own side says how they compare.
"""

from __future__ import annotations

import builtins
import json
import operator
import os
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from .values import decode, encode

__all__ = ["Peer", "ProgramEnded", "Remote", "RemoteError"]

MESSAGE_BYTES = 256 << 20
TESTS = "tests"
"""Name of the module that the tests are in."""
ALONE: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__hash__": hash,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__str__": str,
    "__repr__": repr,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__instancecheck__": lambda kind, value: isinstance(value, kind),
    "__subclasscheck__": lambda kind, value: issubclass(value, kind),
}
"""What the side of an object is asked: the results are data, which the asking side judges."""
PAIRED = "eq ne lt le gt ge add sub mul truediv floordiv mod pow matmul and or xor"
TOGETHER = {f"__{name}__": getattr(operator, f"__{name}__") for name in PAIRED.split()}
"""What the side of two objects is asked about both."""
OPERATIONS = {**ALONE, **TOGETHER, "getattr": getattr, "setattr": setattr}


class RemoteError(Exception):
    """An error of the other side that is no built-in one."""


class ProgramEnded(BaseException):
    """The other process has ended, so that nothing can be asked any more."""


class Remote:
    """An object of the other side."""

    __slots__ = ("_number", "_peer")

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name in Remote.__slots__:  # of an unfinished copy
            raise AttributeError(name)
        return self._peer.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("setattr", self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object; see `Peer.call`."""
        return self._peer.call(self, args, kwargs)


def _alone(name: str) -> Callable[..., Any]:
    def asked(self: Remote, *args: Any) -> Any:
        return self._peer.ask(name, self, *args)

    return asked


def _together(name: str) -> Callable[[Remote, Any], Any]:
    def asked(self: Remote, other: Any) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._peer.ask(name, self, other)

    return asked


for _name in ALONE:
    setattr(Remote, _name, _alone(_name))
for _name in TOGETHER:
    setattr(Remote, _name, _together(_name))


class Peer:
    """One side of the conversation.

    Args:
        source: file descriptor to read from.
        sink: file descriptor to write to.
        module: in which code of the other side runs, and whose names it may ask for; None if the
            other side is not trusted. It then may only use what it was given, and of that only
            the public attributes of instances of the tests' classes.
    """

    def __init__(self, source: int, sink: int, module: ModuleType | None = None) -> None:
        self.ended = False
        self._source = source
        self._sink = sink
        self._module = module
        self._given: dict[int, Any] = {}
        self._remotes: dict[int, Remote] = {}

    def ask(self, verb: str, *parts: Any) -> Any:
        """Ask the other side for something, and serve what it asks meanwhile.

        Raises:
            ProgramEnded: the other process has ended.
            Exception: what was raised there: a built-in error or `RemoteError`.
        """
        return self._exchange([verb, *self._written(parts)])[0]

    def call(self, function: Remote, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function of the other side; arguments that it changes in place change here."""
        given = [*args, *kwargs.values()]
        written = [
            "call",
            *self._written((function, len(args), list(kwargs))),
            *self._written(given),
        ]
        value, *changed = self._exchange(written)
        for old, new in zip(given, changed, strict=False):
            _replace(old, new)
        return value

    def serve(self) -> None:
        """Answer the other side until it ends."""
        while True:
            self._answer(self._receive())

    def _exchange(self, message: list[Any]) -> list[Any]:
        self._send(message)
        while True:
            kind, *parts = self._receive()
            if kind == "value":
                return self._read(parts)
            if kind == "error":
                raise _error(*self._read(parts))
            self._answer([kind, *parts])

    def _answer(self, message: list[Any]) -> None:
        """Do what the other side asks, and send the result or the error."""
        try:
            answer = ["value", *self._done(*message)]
        except ProgramEnded:
            raise
        except BaseException as error:  # whatever the program raises goes over
            answer = self._report(error)
        self._send(answer)

    def _done(self, verb: str, *parts: Any) -> list[Any]:
        if self._module is None:
            self._check(verb, parts)
        if verb == "call":
            return self._called(parts)
        values = self._read(parts)
        if verb in OPERATIONS:
            return self._written([OPERATIONS[verb](*values)])
        if verb == "names":
            names = vars(self._module)
            return self._written([{name: names[name] for name in values if name in names}])
        if verb == "run":
            program = compile(values[0], "program", "exec")
            exec(program, vars(self._module))  # nosec B102  # that is what it is for
            return [None]
        raise ValueError(verb)

    def _check(self, verb: str, parts: Sequence[Any]) -> None:
        """Refuse what an untrusted side may not ask: it may only use what it was given."""
        target = self._resolve(parts[0]) if parts and isinstance(parts[0], list) else None
        if target is None or isinstance(target, Remote) or verb in ("names", "run", "setattr"):
            raise PermissionError(verb)
        public = type(target).__module__ == TESTS and not str(parts[1]).startswith("_")
        if verb == "getattr" and not public:
            raise PermissionError(verb)

    def _called(self, parts: Sequence[Any]) -> list[Any]:
        function, count, keys = self._read(parts[:3])
        given = parts[3:]
        values = self._read(given)
        result = function(*values[:count], **dict(zip(keys, values[count:], strict=True)))
        changed = self._written(values)
        return [*self._written([result]), *(changed if changed != list(given) else ())]

    def _written(self, values: Sequence[Any]) -> list[Any]:
        return [encode(value, self._handle) for value in values]

    def _read(self, parts: Sequence[Any]) -> list[Any]:
        return [decode(part, self._resolve) for part in parts]

    def _handle(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["yours", value._number]
        self._given[id(value)] = value
        return ["mine", id(value)]

    def _resolve(self, data: list[Any]) -> Any:
        match data:
            case ["yours", int(number)] if number in self._given:
                return self._given[number]
            case ["mine", int(number)]:
                return self._remotes.setdefault(number, Remote(self, number))
            case _:
                raise ValueError("not a value")

    def _report(self, error: BaseException) -> list[Any]:
        """An error as a message: the nearest built-in class, its arguments, and a description."""
        kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
        text = "".join(traceback.format_exception(error)) if self._module else ""
        try:
            return ["error", *self._written([kinds[0], error.args, text])]
        except BaseException:  # arguments may be anything
            return ["error", kinds[0], ["tuple"], text]

    def _send(self, message: list[Any]) -> None:
        data = json.dumps(message).encode()
        data = len(data).to_bytes(8, "little") + data
        try:
            while data:
                data = data[os.write(self._sink, data) :]
        except OSError as error:
            raise self._end() from error

    def _receive(self) -> list[Any]:
        size = int.from_bytes(self._bytes(8), "little")
        if size > MESSAGE_BYTES:
            raise ValueError("too long a value")
        message = json.loads(self._bytes(size))
        if not isinstance(message, list) or not message:
            raise ValueError("not a message")
        return message

    def _bytes(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = os.read(self._source, min(count, 1 << 20))
            if not part:
                raise self._end()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _end(self) -> ProgramEnded:
        self.ended = True
        return ProgramEnded("ended early")


def _error(name: str, args: tuple[Any, ...], text: str) -> BaseException:
    """The exception for an error of the other side."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            error = kind(*args)
        except TypeError:
            error = RemoteError(*args)
    else:
        error = RemoteError(*args)
    error.add_note(text)
    return error


def _replace(old: Any, new: Any) -> None:
    """Give a container new contents."""
    if isinstance(old, list | bytearray) and type(old) is type(new):
        old[:] = new
    elif isinstance(old, dict | set) and type(old) is type(new):
        old.clear()
        old.update(new)

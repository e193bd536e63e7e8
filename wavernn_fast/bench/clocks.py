"""Clocks around the operations of a running program, put in for a while and taken out again.

What `bench` times has none of this in it: attributes, entries and globals are replaced for the
duration of a `with` and are what they were afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

Now = Callable[[], int]
_CALLS = 1000  # of a function that does nothing, to learn what a clock costs
_TRIES = 5  # the fastest counts: nothing makes a call faster than it is


class Clock:
    """Time of operations by name, each without the operations inside it.

    Parameters
    ----------
    now : callable
        The time in nanoseconds.
    """

    def __init__(self, now: Now = time.perf_counter_ns) -> None:
        self.now = now
        self.ns: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        self._inside: list[int] = []  # of every operation under way: time of those inside it

    def reset(self) -> None:
        """Forget everything."""
        self.ns.clear()
        self.calls.clear()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed under this name."""
        now, inside, ns, calls = self.now, self._inside, self.ns, self.calls

        def run(*arguments: Any, **options: Any) -> Any:
            inside.append(0)
            begun = now()
            try:
                return function(*arguments, **options)
            finally:
                took = now() - begun
                ns[name] = ns.get(name, 0) + took - inside.pop()
                calls[name] = calls.get(name, 0) + 1
                if inside:
                    inside[-1] += took

        return run

    def cost(self) -> tuple[float, float]:
        """What a timed call takes longer than a bare one: (in its own time, beside it), in ns."""
        clock = Clock(self.now)
        timed = clock.timed("nothing", _nothing)
        bare, whole, inner = [], [], []
        for _ in range(_TRIES):
            clock.reset()
            bare.append(self._loop(_nothing))
            whole.append(self._loop(timed))
            inner.append(clock.ns["nothing"])
        own = max(0.0, (min(inner) - min(bare)) / _CALLS)
        return own, max(0.0, (min(whole) - min(bare)) / _CALLS - own)

    def _loop(self, function: Callable[[], None]) -> int:
        begun = self.now()
        for _ in range(_CALLS):
            function()
        return self.now() - begun


def _nothing() -> None:
    """Take no time."""


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let `owner.name` be `value`; an instance that had it from its class has it so again."""
    own = vars(owner)
    had, before = name in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def entry(owner: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """Let `owner[name]` be `value`."""
    before = owner[name]
    owner[name] = value
    try:
        yield
    finally:
        owner[name] = before


class Places:
    """Collects replacements that are made together.

    Parameters
    ----------
    stack : ExitStack
        Leaving it takes everything back.
    clock : Clock
    """

    def __init__(self, stack: ExitStack, clock: Clock) -> None:
        self.stack, self.clock = stack, clock

    def method(self, owner: Any, name: str, operation: str) -> None:
        """Time an attribute that is called: a method, a module, a function of a module."""
        timed = self.clock.timed(operation, getattr(owner, name))
        self.stack.enter_context(attribute(owner, name, timed))

    def value(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute."""
        self.stack.enter_context(attribute(owner, name, value))

    def item(self, owner: MutableMapping[str, Any], name: str, value: Any) -> None:
        """Replace an entry."""
        self.stack.enter_context(entry(owner, name, value))


class Matrix:
    """A matrix of numpy whose products, `@` and `*` on either side, are timed.

    numpy leaves the operators to it, since it declines numpy's own functions; everything else that
    a loop does with an array goes to the array.
    """

    __array_ufunc__ = None

    def __init__(self, array: Any, clock: Clock, operation: str) -> None:
        self.array = array
        self._left = clock.timed(operation, lambda x: array @ x)
        self._right = clock.timed(operation, lambda x: x @ array)
        self._times = clock.timed(operation, lambda x: array * x)

    def __matmul__(self, x: Any) -> Any:
        return self._left(x)

    def __rmatmul__(self, x: Any) -> Any:
        return self._right(x)

    def __mul__(self, x: Any) -> Any:
        return self._times(x)

    __rmul__ = __mul__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)


class Library:
    """A module of which some functions are timed by what they are given.

    Parameters
    ----------
    module : module
    functions : names of the functions
    operations : id of an array -> operation
        A call with such an array among its arguments counts as this operation; others are left be.
    clock : Clock
    """

    def __init__(
        self, module: Any, functions: Sequence[str], operations: dict[int, str], clock: Clock
    ) -> None:
        self._module = module
        for name in functions:
            plain = getattr(module, name)
            timed = {operation: clock.timed(operation, plain) for operation in operations.values()}
            setattr(self, name, _by_argument(plain, timed, operations))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _by_argument(
    plain: Callable[..., Any], timed: dict[str, Callable[..., Any]], operations: dict[int, str]
) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        for argument in arguments:
            if (operation := operations.get(id(argument))) is not None:
                return timed[operation](*arguments, **options)
        return plain(*arguments, **options)

    return run


def rebuilt(module: Any, replaced: dict[str, Any]) -> dict[str, Any]:
    """The globals of a module with its own functions made anew, so that they see replacements."""
    world = {**vars(module), **replaced}
    for name, value in vars(module).items():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            world[name] = FunctionType(
                value.__code__, world, name, value.__defaults__, value.__closure__
            )
    return world

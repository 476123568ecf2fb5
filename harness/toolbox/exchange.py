"""The exchange: a method answers one question in plain code, and the requests of many questions meet in one batch.

Each question runs in a thread of its own until it submits a request or ends. When all have, the requests are handled
together, in the order of the questions, and each thread goes on with its result. Only one thread runs at any time: the
main thread hands over and waits until it gets its turn back, so nothing depends on scheduling, and handlers run in the
main thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
Handler = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True)
class Result(Generic[Value]):
    """What became of one item: its value, or the error that ended it."""

    value: Value | None = None
    error: BaseException | None = None

    def unwrap(self) -> Value:
        """The value.

        Raises:
            BaseException: the error, where there is one.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class AbandonedError(BaseException):
    """The exchange was left (by an interrupt, say): no `except Exception` of a method may hold its thread."""


class _Worker:
    """One item in its thread. Two locks are the two ends of the baton: `turn` is the thread's, `back` the main's."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self.task = task
        self.turn, self.back = threading.Lock(), threading.Lock()
        self.turn.acquire()
        self.back.acquire()
        self.request: tuple[str, Any] | None = None
        self.reply: Result[Any] = Result()
        self.result: Result[Any] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.turn.acquire()
        try:
            self.result = Result(value=self.task())
        except BaseException as error:  # noqa: BLE001 - `sys.exit` in a method ends its item, nothing else
            self.result = Result(error=error)
        self.back.release()

    def advance(self) -> None:
        """Main thread: let it run until it submits or ends."""
        self.turn.release()
        self.back.acquire()

    def submit(self, kind: str, payload: Any) -> Any:
        """Its own thread: hand the request and the turn over, wait for the reply."""
        self.request = kind, payload
        self.back.release()
        self.turn.acquire()
        self.request, reply, self.reply = None, self.reply, Result()
        return reply.unwrap()


class Exchange:
    """Where requests meet. `handlers` maps a kind to a function from payloads to as many results.

    An error of a handler is raised in every thread whose request it had; an error that leaves `function` is its item's.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self._workers: dict[int, _Worker] = {}

    def submit(self, kind: str, payload: Any) -> Any:
        """Ask for one thing and wait for it. Outside of `map`'s threads it is handled at once, by itself.

        Raises:
            LookupError: no handler has this kind.
            Exception: what the handler raised.
        """
        worker = self._workers.get(threading.get_ident())
        if worker is None:
            return self._handle(kind, [payload])[0].unwrap()
        return worker.submit(kind, payload)

    def map(self, function: Callable[[Item], Value], items: Iterable[Item], width: int = 128) -> list[Result[Value]]:
        """Run `function` on each item, up to `width` of them side by side. Results are in the items' order.

        Raises:
            ValueError: `width` is below 1.
        """
        if width < 1:
            msg = f"width must be at least 1, not {width}"
            raise ValueError(msg)
        waiting = list(enumerate(items))[::-1]
        results: dict[int, Result[Value]] = {}
        live: dict[int, _Worker] = {}
        try:
            while waiting or live:
                while waiting and len(live) < width:
                    number, item = waiting.pop()
                    live[number] = worker = self._start(function, item)
                    worker.advance()
                    self._retire(live, results)
                self._serve(live)
                for worker in live.values():
                    worker.advance()
                self._retire(live, results)
        finally:
            self._abandon(live)
        return [results[number] for number in sorted(results)]

    def _start(self, function: Callable[[Item], Value], item: Item) -> _Worker:
        worker = _Worker(lambda: function(item))
        self._workers[worker.thread.ident or 0] = worker
        return worker

    def _retire(self, live: dict[int, _Worker], results: dict[int, Result[Any]]) -> None:
        for number, worker in [*live.items()]:
            if worker.result is not None:
                results[number] = worker.result
                self._workers.pop(worker.thread.ident or 0, None)
                del live[number]

    def _serve(self, live: Mapping[int, _Worker]) -> None:
        """Handle the requests of all live threads, one call a kind, in the order of the items."""
        kinds: dict[str, list[_Worker]] = {}
        for number in sorted(live):
            worker = live[number]
            if worker.request is not None:
                kinds.setdefault(worker.request[0], []).append(worker)
        for kind, workers in kinds.items():
            replies = self._handle(kind, [worker.request[1] for worker in workers if worker.request is not None])
            for worker, reply in zip(workers, replies, strict=True):
                worker.reply = reply

    def _handle(self, kind: str, payloads: list[Any]) -> list[Result[Any]]:
        try:
            values = self._handler(kind)(payloads)
            return [Result(value=value) for value in _as_many(kind, values, len(payloads))]
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            return [Result(error=error)] * len(payloads)

    def _handler(self, kind: str) -> Handler:
        if kind not in self.handlers:
            msg = f"no handler for {kind!r}; there are {sorted(self.handlers)}"
            raise LookupError(msg)
        return self.handlers[kind]

    def _abandon(self, live: Mapping[int, _Worker]) -> None:
        """Unwind what still waits, and do not wait for it."""
        for worker in live.values():
            self._workers.pop(worker.thread.ident or 0, None)
            worker.reply = Result(error=AbandonedError())
            worker.turn.release()


def _as_many(kind: str, values: list[Any], count: int) -> list[Any]:
    if len(values) != count:
        msg = f"the handler of {kind!r} returned {len(values)} results for {count} requests"
        raise RuntimeError(msg)
    return values

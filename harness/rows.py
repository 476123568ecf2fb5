"""Strict rows: what a data file must hold, and one clear line with file and row where it does not.

Libraries read damaged files silently: a missing column becomes None, a NaN stays a NaN, mixed types become text. A
figure computed from such rows would be wrong without a word, so every row is checked here before anything runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from harness.contracts import Conversation, Instruction, Pair, Problem, Stepwise

T = TypeVar("T")
MOST_CHARACTERS = 1_000_000
"""Longest row that is taken for data and not for an accident."""


class DataError(ValueError):
    """A data file that cannot be used; the message names file and row."""


def fail(where: str, row: int | None, problem: str) -> NoReturn:
    """Raise DataError for row `row`, counted from 1."""
    at = f"{where}, row {row}" if row is not None else where
    msg = f"{at}: {problem}"
    raise DataError(msg)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSON-lines file, one a line.

    Raises:
        DataError: the file is empty, a line is not UTF-8, no JSON object, holds a NaN or is longer than a million
            characters.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        fail(str(path), None, f"cannot be read: {error.strerror}")
    if lines and not lines[-1]:
        lines.pop()
    rows = [_parse(str(path), number, line) for number, line in enumerate(lines, 1)]
    if not rows:
        fail(str(path), None, "is empty")
    return rows


def _parse(where: str, number: int, line: bytes) -> dict[str, Any]:
    if len(line) > MOST_CHARACTERS:
        fail(where, number, f"is longer than {MOST_CHARACTERS:,} characters")

    def refuse(constant: str) -> NoReturn:
        fail(where, number, f"holds {constant}, which is no value")

    try:
        row = json.loads(line.decode("utf-8"), parse_constant=refuse)
        json.dumps(row, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate is text that cannot be written
    except UnicodeError:
        fail(where, number, "is not valid UTF-8")
    except DataError:
        raise
    except (ValueError, RecursionError):
        fail(where, number, "is not a whole JSON value: a line is torn or badly quoted")
    if not isinstance(row, dict):
        fail(where, number, "is no JSON object")
    return row


def text(row: Mapping[str, Any], names: Sequence[str], where: str, number: int) -> str:
    """The text under the first of `names` that the row has; numbers become text, anything else is refused."""
    name = next((n for n in names if n in row), None)
    if name is None:
        fail(where, number, f"has no column {' or '.join(map(repr, names))} (it has {', '.join(row) or 'none'})")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        fail(where, number, f"column {name!r} holds {type(value).__name__}, expected text")
    if not str(value).strip():
        fail(where, number, f"column {name!r} is empty")
    return str(value)


def unique(items: Iterable[T], where: str, key: Callable[[T], str]) -> list[T]:
    """The items as a list; DataError names the first id that comes twice."""
    seen: dict[str, int] = {}
    kept = []
    for number, item in enumerate(items, 1):
        first = seen.setdefault(key(item), number)
        if first != number:
            fail(where, number, f"id {key(item)!r} stands already in row {first}")
        kept.append(item)
    return kept


def problems(rows: Sequence[Mapping[str, Any]], where: str) -> list[Problem]:
    """Problems from rows of `prompt` (or `question`), `answer`, and where they have them `id`, `rationale`, `steps`."""

    def build() -> Iterator[Problem]:
        for number, row in enumerate(rows, 1):
            prompt = text(row, ("prompt", "question"), where, number)
            rationale = row.get("rationale")
            steps, earlier = row.get("steps") or (), row.get("earlier") or ()
            if rationale is not None and not isinstance(rationale, str):
                fail(where, number, f"column 'rationale' holds {type(rationale).__name__}, expected text")
            for column, value in (("steps", steps), ("earlier", earlier)):
                if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                    fail(where, number, f"column {column!r} is no list of texts")
            name = text(row, ("id",), where, number) if "id" in row else _name(prompt)
            answer = text(row, ("answer",), where, number)
            yield Problem(name, prompt, answer, rationale, tuple(steps), tuple(earlier))

    return unique(build(), where, lambda problem: problem.id)


def _name(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def pairs(rows: Sequence[Mapping[str, Any]], where: str) -> list[Pair]:
    """Preference pairs from rows of `prompt`, `chosen`, `rejected`."""
    columns = ("prompt", "chosen", "rejected")
    built = (
        Pair(str(row.get("id", number)), *(text(row, (c,), where, number) for c in columns))
        for number, row in enumerate(rows, 1)
    )
    return unique(built, where, lambda pair: pair.id)


def conversations(rows: Sequence[Mapping[str, Any]], where: str) -> list[Conversation]:
    """Conversations from rows of `messages`: objects of `role` and `content`, the last one the assistant's."""

    def build() -> Iterator[Conversation]:
        for number, row in enumerate(rows, 1):
            messages = row.get("messages")
            if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
                fail(where, number, "has no column 'messages' with a list of turns")
            turns = [{k: text(m, (k,), where, number) for k in ("role", "content")} for m in messages]
            if turns[-1]["role"] != "assistant":
                fail(where, number, f"ends with a turn of {turns[-1]['role']!r}, expected 'assistant'")
            yield Conversation(str(row.get("id", number)), tuple(turns))

    return unique(build(), where, lambda conversation: conversation.id)


def stepwise(rows: Sequence[Mapping[str, Any]], where: str) -> list[Stepwise]:
    """Stepwise labels from rows of `prompt`, `completions` (texts) and `labels` (as many booleans)."""

    def build() -> Iterator[Stepwise]:
        for number, row in enumerate(rows, 1):
            steps, labels = row.get("completions"), row.get("labels")
            if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
                fail(where, number, "has no column 'completions' with a list of texts")
            if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
                fail(where, number, "has no column 'labels' with a list of true and false")
            if len(steps) != len(labels):
                fail(where, number, f"has {len(steps)} completions and {len(labels)} labels")
            prompt = text(row, ("prompt",), where, number)
            yield Stepwise(str(row.get("id", number)), prompt, tuple(steps), tuple(labels))

    return unique(build(), where, lambda item: item.id)


def instructions(rows: Sequence[Mapping[str, Any]], where: str) -> list[Instruction]:
    """Instructions from rows of `task`, `prompt`, `completion`."""
    columns = ("task", "prompt", "completion")
    built = (
        Instruction(str(row.get("id", number)), *(text(row, (c,), where, number) for c in columns))
        for number, row in enumerate(rows, 1)
    )
    return unique(built, where, lambda item: item.id)


def turns(rows: Sequence[Mapping[str, Any]], where: str) -> list[tuple[str, str]]:
    """(prompt, completion) from rows of these names."""
    return [
        (text(row, ("prompt",), where, number), text(row, ("completion",), where, number))
        for number, row in enumerate(rows, 1)
    ]


def texts(rows: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """Plain texts from rows of `text`."""
    return [text(row, ("text",), where, number) for number, row in enumerate(rows, 1)]


def refuse_overlap(splits: Mapping[str, Sequence[Problem]], where: str) -> None:
    """No question may stand in two splits: DataError names the first that does."""
    owner: dict[str, str] = {}
    for split, items in splits.items():
        for number, problem in enumerate(items, 1):
            first = owner.setdefault(problem.prompt, split)
            if first != split:
                fail(f"{where} ({split})", number, f"the same question stands in the {first} split")

"""What a run was asked to do: `RunConfig`, and the pipeline expressions in it.

    expression := [stage { ">" stage }] [ "+" answerer ]        cot-sft > dpo + self-consistency
    stage      := method name, or `base` for the untouched model as the first one

A lone name stands for that method after the stages it declares; `+ greedy` is implied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "base"
DEFAULT_ANSWER = "greedy"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


class ConfigError(Exception):
    """The request makes no sense; the message says what, where and what to do."""


@dataclass(frozen=True)
class Expression:
    """A parsed pipeline expression, names not yet resolved."""

    stages: tuple[str, ...]
    answer: str | None
    from_base: bool


@dataclass(frozen=True)
class RunConfig:
    """Everything that shapes the results of `harness run`."""

    pipelines: tuple[str, ...] = ()
    """Pipeline expressions; empty: every method."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """method -> field -> value."""
    model: str = "tiny"
    dataset: str = "tiny-world"
    device: str = "auto"
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    """Number of test problems, from the first; None: the dataset's."""
    train_tokens: int | None = None
    """Training budget; None: the dataset's."""
    question_tokens: int | None = None
    """Most sampled tokens a question; None: no limit."""
    curve: tuple[int, ...] = ()
    """Widths (samples, beams, ...) that are tried besides, for the board of curves."""
    out: Path = Path("results")
    jobs: int = 2
    timeout_s: float = 3600.0
    fresh: bool = False
    inline: bool = False


def parse_pipeline(text: str) -> Expression:
    """Parse a pipeline expression.

    Raises:
        ConfigError: the expression has an empty part, two `+`, or something that is no method name.
    """
    head, plus, tail = text.partition("+")
    answer = tail.strip() if plus else None
    stages = [part.strip() for part in head.split(">")] if head.strip() else []
    for name in [*stages, *([] if answer is None else [answer])]:
        if not NAME.match(name):
            msg = f"pipeline {text!r}: {name!r} is no method name; write it like 'cot-sft > dpo + self-consistency'"
            raise ConfigError(msg)
    from_base = bool(stages) and stages[0] == BASE
    stages = stages[1:] if from_base else stages
    if not (stages or from_base or answer):
        msg = f"pipeline {text!r} is empty"
        raise ConfigError(msg)
    if BASE in stages or answer == BASE:
        msg = f"pipeline {text!r}: {BASE!r} can only come first"
        raise ConfigError(msg)
    return Expression(tuple(stages), answer, from_base)


def parse_option(text: str) -> tuple[str, str, str]:
    """Split `method.field=value`.

    Raises:
        ConfigError: it has another form.
    """
    match = re.fullmatch(r"([a-z0-9-]+)\.([a-z_][a-z0-9_]*)=(.*)", text, re.DOTALL)
    if match is None:
        msg = f"option {text!r} is not of the form method.field=value"
        raise ConfigError(msg)
    method, name, value = match.groups()
    return method, name, value


def convert(value: str, default: Any, where: str) -> Any:
    """`value` in the type of a field's default (bool, int, float or str).

    Raises:
        ConfigError: it does not convert, or is not finite.
    """
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        converted = kind(value)
    except (KeyError, ValueError, TypeError):
        converted = None
    if converted is None or (kind is float and abs(converted) == float("inf")) or converted != converted:  # noqa: PLR0124 - NaN
        msg = f"option {where}={value!r}: expected {kind.__name__}, like the default {default!r}"
        raise ConfigError(msg)
    return converted

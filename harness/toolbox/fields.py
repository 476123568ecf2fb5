"""Fields of a method that are out of range: one line, before anything runs."""

from __future__ import annotations

from typing import Any


def check_fields(method: Any, *rules: tuple[str, bool, str]) -> None:
    """Hold the fields of a method to their rules: (field, whether its value will do, what would).

    Raises:
        ValueError: one will not; the message names method, field, what is allowed, and the value.
    """
    for field, right, allowed in rules:
        if not right:
            msg = f"{method.name}: {field} must be {allowed}, not {getattr(method, field)!r}"
            raise ValueError(msg)

"""What a method found when it prepared itself, as JSON and back, so that a job need not find it again."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any


def to_json(found: Any) -> dict[str, Any] | None:
    """A frozen dataclass of plain values and tuples of them; None where it holds anything else."""
    if not dataclasses.is_dataclass(found):
        return None
    fields = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
    try:
        plain = json.loads(json.dumps(fields, allow_nan=False))
    except (TypeError, ValueError):
        return None
    kept = {"class": type(found).__qualname__, "fields": plain}
    return kept if from_json(found, kept) == found else None


def from_json(given: Any, kept: Mapping[str, Any] | None) -> Any | None:
    """What `to_json` made `kept` of, from the module of the method that was `given`; None where it cannot be had."""
    cls = getattr(sys.modules[type(given).__module__], kept["class"], None) if kept else None
    try:
        return cls(**{name: _tuples(value) for name, value in kept["fields"].items()}) if kept and cls else None
    except (TypeError, ValueError):
        return None


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(part) for name, part in value.items()} if isinstance(value, dict) else value

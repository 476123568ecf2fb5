"""What a method found: kept as JSON where it comes back the same, and otherwise not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from harness.prepared import from_json, to_json


@dataclass(frozen=True)
class Found:
    """Plain values and tuples of them."""

    edges: tuple[float, ...] = ()
    ways: tuple[tuple[str, int], ...] = ()
    turns: tuple[dict[str, str], ...] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise ValueError(self.name)


@dataclass(frozen=True)
class Given:
    """The method that finds it."""

    other: object = None


FULL = Found((0.1, 1e-300), (("likeliest", 16), ("best", 4)), ({"role": "user", "content": "é\n"},), "x")


@pytest.mark.parametrize("found", [FULL, Found(), Given(), Given((1, None, True))])
def test_it_comes_back_the_same(found):
    written = json.loads(json.dumps(to_json(found)))
    assert from_json(Given(), written) == found


@pytest.mark.parametrize("other", [object(), [1, 2], {"a": {1, 2}}, float("nan"), {1: "a"}, Found()])
def test_what_would_come_back_as_another_is_not_kept(other):
    assert to_json(Given(other)) is None


def test_what_is_no_dataclass_is_not_kept():
    assert to_json(object()) is None


@pytest.mark.parametrize(
    "kept",
    [
        None,
        {"class": "Gone", "fields": {}},
        {"class": "Found", "fields": {"unknown": 1}},
        {"class": "Found", "fields": {"name": "refused"}},
        {"class": "FULL", "fields": {}},
    ],
)
def test_what_no_longer_fits_the_methods_is_not_taken(kept):
    assert from_json(Given(), kept) is None


def test_a_local_class_is_not_kept():
    @dataclass(frozen=True)
    class Local:
        values: tuple[int, ...] = field(default=())

    assert to_json(replace(Local(), values=(1,))) is None

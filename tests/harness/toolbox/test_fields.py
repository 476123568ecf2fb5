"""Rules of fields: silent where they hold, one line where one does not."""

import dataclasses

import pytest

from harness.toolbox import check_fields


@dataclasses.dataclass(frozen=True)
class Method:
    name = "mine"
    width: int = 0
    way: str = "up"


def test_the_first_rule_that_is_broken_is_told():
    check_fields(Method(), ("width", True, "at least 1"))
    with pytest.raises(ValueError, match=r"^mine: width must be at least 1, not 0$"):
        check_fields(Method(), ("way", True, "up"), ("width", False, "at least 1"), ("way", False, "down"))
    with pytest.raises(ValueError, match=r"^mine: way must be down, not 'up'$"):
        check_fields(Method(), ("way", False, "down"))

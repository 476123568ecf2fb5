"""Pipeline expressions and options."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import ConfigError, Expression, convert, parse_option, parse_pipeline


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dpo", Expression(("dpo",), None, from_base=False)),
        ("base", Expression((), None, from_base=True)),
        ("base > dpo", Expression(("dpo",), None, from_base=True)),
        ("cot-sft > dpo + self-consistency", Expression(("cot-sft", "dpo"), "self-consistency", from_base=False)),
        ("base+oracle", Expression((), "oracle", from_base=True)),
        ("+ oracle", Expression((), "oracle", from_base=False)),
    ],
)
def test_expressions(text, expected):
    assert parse_pipeline(text) == expected


@pytest.mark.parametrize(
    "text", ["", "  ", "a >", "> a", "a > > b", "a + b + c", "a +", "A", "a_b", "a > base", "a + base"]
)
def test_nonsense_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=10_000, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab-> +_1\n\0é"), max_size=20))
def test_no_text_breaks_the_parser(text):
    try:
        parsed = parse_pipeline(text)
    except ConfigError:
        return
    assert parsed.stages or parsed.from_base or parsed.answer


@settings(max_examples=10_000, deadline=None)
@given(st.text(max_size=30))
def test_no_text_breaks_the_option_parser(text):
    try:
        method, field, _ = parse_option(text)
    except ConfigError:
        return
    assert text.startswith(f"{method}.{field}=")


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [("4", 16, 4), ("0.5", 1.0, 0.5), ("1", 0.5, 1.0), ("true", False, True), ("0", True, False), ("a b", "c", "a b")],
)
def test_options_take_the_type_of_the_default(value, default, expected):
    converted = convert(value, default, "m.f")
    assert converted == expected
    assert type(converted) is type(default)


@pytest.mark.parametrize(("value", "default"), [("x", 1), ("1.5", 1), ("nan", 1.0), ("inf", 1.0), ("maybe", True)])
def test_values_that_do_not_convert_name_the_field(value, default):
    with pytest.raises(ConfigError, match=r"m\.f"):
        convert(value, default, "m.f")

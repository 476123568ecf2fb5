import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_world.verifier import extract, verify


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A: 37", "37"),
        ("T: 10+12=22. 22+15=37.\nA: 37", "37"),
        ("A:37", "37"),
        ("A:   37  ", "37"),
        ("A: 37.", "37"),
        ("A: 1,000", "1000"),
        ("A: -5", "-5"),
        ("A: 007", "7"),
        ("A: 12\nA: 37", "37"),
        ("A: 12 A: 37", "37"),
        ("A: 37\nQ: Finn has 4 balls.", "37"),
        ("", None),
        ("37", None),
        ("A:", None),
        ("A: \n37", None),
        ("A: 37 or 38", None),
        ("A: 37 balls", None),
        ("A: 3 7", None),
        ("A: 37\nA: none", None),
        ("A: 37.0", None),
        ("A: 1,00", None),
        ("A: 37..", None),
        ("A: \u0663\u0667", None),
        ("a: 37", None),
        ("DNA: 37", None),
        ("A: " + "9" * 5000, None),
    ],
)
def test_what_is_read(text, said):
    assert extract(text) == said


def test_the_last_of_two_contradicting_answers_counts():
    assert verify("37", "A: 37\nA: 12") == (False, "12")
    assert verify("37", "A: 12\nA: 37") == (True, "37")


@pytest.mark.parametrize("near", ["36", "38", "73", "3", "7", "370", "-37", "137"])
def test_near_misses_are_wrong(near):
    assert verify("37", f"A: {near}") == (False, near)


def test_an_answer_key_that_cannot_be_read_matches_nothing():
    assert verify("", "A: ") == (False, None)
    assert verify("none", "A: none") == (False, None)


@given(st.text(), st.text())
def test_it_never_raises(answer, text):
    right, said = verify(answer, text)
    assert isinstance(right, bool)
    assert said is None or said.lstrip("-").isdigit()


@given(st.text())
def test_only_a_trailing_answer_line_makes_any_text_right(text):
    assert verify("37", f"{text}\nA: 37") == (True, "37")

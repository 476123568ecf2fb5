"""Where steps end: with a sentence or a line, never in a token that already tells of the next step."""

import pytest

from harness.toolbox import solution_ends, step_ends
from harness.toolbox.steps import prefixes


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1+2=3. 3+4=7.", ["1+2=3.", "3+4=7."]),
        ("1.5 is half of 3! Is it? Yes", ["1.5 is half of 3!", "Is it?", "Yes"]),
        ("one\n\ntwo. three", ["one", "two.", "three"]),
        ("", []),
        (" \n", []),
    ],
)
def test_steps_end_with_their_sentence_or_line(tiny_model, text, read):
    tokens = tiny_model.encode_completion(text)
    ends = step_ends(tiny_model, tokens)
    assert [tiny_model.decode(tokens[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)] == read


def test_only_a_part_is_looked_at(tiny_model):
    tokens = tiny_model.encode_completion("1. 2. 3.")
    assert step_ends(tiny_model, tokens, upto=5) == step_ends(tiny_model, tokens)[:2]


class Words:
    """A tokenizer that merges across steps: every text is one token of a table."""

    @property
    def tokenizer(self):
        return self

    def decode(self, tokens):
        return "".join(tokens)


class Stripped(Words):
    """It drops the space that a text begins with: a token alone is not what it is among others."""

    def decode(self, tokens):
        return "".join(tokens).lstrip()


def test_a_prefix_is_what_its_tokens_are_decoded_to(tiny_model):
    whole = tiny_model.encode_completion("T: 10+12=22. 22/2=11.\nA: 11")
    split = ["T:", " 1", "+1", "=2.", " 2", ".", "\n", "A: 2"]
    for model, tokens in ((tiny_model, whole), (Words(), split), (Stripped(), split), (Stripped(), split[1:])):
        said = prefixes(model, tokens)
        assert [said(k) for k in range(len(tokens) + 1)] == [model.decode(tokens[:k]) for k in range(len(tokens) + 1)]
    assert step_ends(Stripped(), split) == step_ends(Words(), split) == [4, 6, 8]


def test_a_token_that_begins_the_next_step_is_not_read():
    """`.\\n` ends a step all the same; `. 2` would tell what comes, so the token before it is read."""
    assert step_ends(Words(), ["T: 1", ".\n", "2", "."]) == [2, 4]
    assert step_ends(Words(), ["T: ", "1", ". 2", "."]) == [2, 4]
    assert step_ends(Words(), ["1. 2. 3", "."]) == [2]  # no token is the end of two steps


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("T: 10+12=22. 22/2=11.\nA: 11", ["T: 10+12=22.", "22/2=11."]),
        ("T: 22. 11.\nA: 11", ["T: 22.", "11."]),
        ("T: 32+8 is 40. 40-8 is 32", ["T: 32+8 is 40.", "40-8 is 32"]),
        ("It is 3.5 each! So 7 in all\nwhich is it \n\nA: 7", ["It is 3.5 each!", "So 7 in all", "which is it"]),
        ("A: 11", []),
        ("Alas 3. A: 3.\nA: 4", ["Alas 3.", "A: 3."]),
        ("", []),
        (" \n", []),
    ],
)
def test_steps_of_a_solution_end_before_its_answer_line(tiny_model, text, read):
    tokens = tiny_model.encode_completion(text)
    ends = solution_ends(tiny_model, tokens)
    assert [tiny_model.decode(tokens[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)] == read

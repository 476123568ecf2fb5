import re

import pytest

from harness_world.corpus import pool
from harness_world.money import SIZES, STEPS, draw_corpus, draw_money
from harness_world.wordings import MONEY, THINGS


@pytest.fixture(scope="module")
def splits():
    return draw_money()


def words(texts):
    return set(re.findall(r"[A-Za-z']+", re.sub(r"\{\w+\}", "", " ".join(texts))))


def test_sizes_and_steps(splits):
    for name, size in SIZES.items():
        assert len(splits[name]) == size
        assert {len(problem.steps) for problem in splits[name]} == set(STEPS)
    questions = [problem.question for rows in splits.values() for problem in rows]
    assert len(set(questions)) == len(questions)


def test_its_own_words_are_not_in_what_the_base_model_reads():
    new = words(MONEY.texts) - words(THINGS.texts) - {"What", "the", "of", "for"}
    read = "".join(part for text in pool("money-check", 0, 3000, frozenset()) for part, _ in text)
    assert len(new) > 25
    assert not new & words([read])


def test_every_sentence_of_a_problem_has_its_words_from_the_domain(splits):
    for problem in splits["train"]:
        assert problem.item == "dollars"
        assert problem.question.endswith("?")


def test_narratives_say_the_right_balance_and_ask_nothing():
    for text in draw_corpus(200):
        assert "?" not in text
        balances = [int(number) for number in re.findall(r"Balance ([0-9]+)\.", text)]
        assert balances
        assert all(0 <= balance <= 99 for balance in balances)
    assert draw_corpus(5) == draw_corpus(5)


def test_a_narrative_by_hand():
    """The balance follows from the sentence before it."""
    for text in draw_corpus(300):
        pattern = r"([0-9]+)\. (?:Then )?(?:\w+) (earns|spends|deposits) ([0-9]+) dollars\. Balance ([0-9]+)"
        found = re.findall(pattern, text)
        for before, verb, amount, after in found:
            change = -int(amount) if verb == "spends" else int(amount)
            assert int(before) + change == int(after)

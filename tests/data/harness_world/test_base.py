import json
import re

import pytest

from harness_world.cards import sha256
from harness_world.evaluate import BASE, greedy, table, vote
from harness_world.generate import load, replies
from harness_world.splits import draw_splits
from harness_world.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def base():
    return load(BASE)


@pytest.fixture(scope="module")
def dev():
    return draw_splits({"test": 1000, "easy": 500, "dev": 40, "train": 1})["dev"]


def test_it_half_knows_the_world(base, dev):
    score = greedy(*base, dev, cue=True)
    assert score.n == 40
    assert score.share > 0.4
    assert score.parsed == 40


def test_asked_plainly_it_answers_without_a_rationale(base, dev):
    said = [texts[0] for texts in replies(*base, [problem.question for problem in dev[:20]])]
    assert sum(text.startswith("A: ") for text in said) >= 15


def test_sampling_is_seeded(base, dev):
    assert table(*base, dev[:4], n=4) == table(*base, dev[:4], n=4)


def test_a_vote_takes_the_most_frequent_readable_answer_and_the_first_of_a_tie():
    assert vote(["A: 1", "A: 2", "A: 2", "x", "x", "x"]) == "A: 2"
    assert vote(["A: 2", "A: 1"]) == "A: 2"
    assert vote(["x", "y"]) == "x"


def test_the_shipped_tokenizer_is_the_one_that_the_code_builds(base):
    _, tokenizer = base
    built = build_tokenizer()
    assert tokenizer.get_vocab() == built.get_vocab()
    assert tokenizer.chat_template == built.chat_template


def test_the_card_has_the_hash_of_the_weights_and_the_measured_numbers():
    card = (BASE / "README.md").read_text(encoding="utf-8")
    assert re.search(r"sha256 `([0-9a-f]{64})`", card).group(1) == sha256(BASE / "model.safetensors")
    figures = json.loads((BASE / "figures.json").read_text(encoding="utf-8"))
    for split in figures.values():
        for share, low, high in split["accuracy"].values():
            assert 0 <= low <= share <= high <= 1
            assert f"{share:.3f}".lstrip("0") in card


def test_the_base_has_headroom_for_training_and_for_votes():
    test = json.loads((BASE / "figures.json").read_text(encoding="utf-8"))["test"]["accuracy"]
    greedy_cue = test["greedy, with the cue"][0]
    assert 0.45 < greedy_cue < 0.72
    assert test["majority of 16 at T=1, with the cue"][0] > greedy_cue
    assert test["oracle pass@16 at T=1, with the cue"][0] > greedy_cue + 0.2
    assert test["one sample at T=1, with the cue"][0] < greedy_cue

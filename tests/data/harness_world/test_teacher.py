"""The teacher: the base model's larger relative, which knows the world better and speaks the same words."""

import json

import pytest

import harness_world
from harness_world.cards import sha256
from harness_world.evaluate import BASE, greedy
from harness_world.generate import load
from harness_world.splits import draw_splits

TEACHER = BASE.with_name("teacher")


@pytest.fixture(scope="module")
def teacher():
    return load(TEACHER)


def cued(folder):
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures["dev"]["accuracy"]["greedy, with the cue"]


def test_it_is_larger_and_clearly_better():
    [base, teacher] = (json.loads((f / "training.json").read_text(encoding="utf-8")) for f in (BASE, TEACHER))
    assert teacher["parameters"] > 1.5 * base["parameters"]
    assert cued(TEACHER)[1] > cued(BASE)[2]  # the intervals do not touch


def test_the_figures_are_those_of_the_weights(teacher):
    dev = draw_splits()["dev"][:100]
    assert abs(greedy(*teacher, dev, cue=True).share - cued(TEACHER)[0]) < 0.15
    card = (TEACHER / "README.md").read_text(encoding="utf-8")
    assert sha256(TEACHER / "model.safetensors") in card
    assert "--recipe teacher" in card


def test_it_has_the_words_of_the_base(teacher):
    _, tokenizer = load(BASE)
    assert teacher[1].get_vocab() == tokenizer.get_vocab()


def test_it_is_registered_by_its_weights():
    of = {spec.name: spec for spec in harness_world.harness_models()}
    assert of["tiny-teacher"].revision() != of["tiny"].revision()

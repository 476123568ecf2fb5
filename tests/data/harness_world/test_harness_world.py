"""The world as a plugin: what it registers, and what its rows promise to trainers."""

import pytest

import harness.rows
import harness_world
from harness.builtin.devices import Cpu


@pytest.fixture(scope="module")
def specs():
    return {spec.name: spec for spec in harness_world.harness_datasets()}


@pytest.fixture(scope="module")
def data(specs):
    return specs["tiny-world"].load().training()


def test_it_brings_five_test_sets_and_two_models(specs):
    sizes = {"tiny-world": 1000, "tiny-world-easy": 500, "tiny-dialogue": 500, "tiny-money": 500, "tiny-tasks": 500}
    assert {name: len(spec.load().test) for name, spec in specs.items()} == sizes
    assert {spec.limit for spec in specs.values()} == {500}  # of an ordinary run: the main test alone has more
    assert [spec.name for spec in harness_world.harness_models()] == ["tiny", "tiny-teacher"]


def test_every_target_verifies_and_fits_the_length_limit(specs, data):
    model = harness_world.harness_models()[0]
    encode = model.load(Cpu()).encode_completion
    for problem in data.problems:
        for rationale in (True, False):
            target = data.render_target(problem, rationale)
            assert data.verify(problem, target)[0]
            assert len(encode(target)) <= specs["tiny-world"].max_new_tokens


def test_every_view_is_there_and_pairs_are_right_against_wrong(data):
    assert len(data.problems) >= 5000
    assert len(data.dev) >= 500
    assert len(data.conversations) > 0
    assert len(data.stepwise) > 0
    assert len(data.instructions) > 0
    assert len(data.corpus) > 0
    assert len(data.general) > len(data.general_dev) > 100
    answers = {problem.prompt: problem for problem in data.problems}
    for pair in data.pairs:
        assert data.verify(answers[pair.prompt], pair.chosen)[0]
        assert not data.verify(answers[pair.prompt], pair.rejected)[0]


def test_a_domain_has_its_own_splits_and_corpus(specs):
    money, stories = (specs[name].load().training() for name in ("tiny-money", "tiny-world"))
    assert "dollars" in money.problems[0].prompt
    assert "dollars" in money.corpus[0]
    assert not any("dollars" in text for text in stories.corpus)
    assert list(money.general_dev) == list(stories.general_dev)
    assert not {p.prompt for p in money.problems} & {p.prompt for p in specs["tiny-money"].load().test}


def test_a_dialogue_asks_before_it_asks(specs):
    assert all(len(problem.earlier) == 1 for problem in specs["tiny-dialogue"].load().test)


def test_the_revision_ignores_cards(tmp_path):
    (tmp_path / "rows.jsonl").write_text("a", encoding="utf-8")
    first = harness_world.digest(tmp_path)
    (tmp_path / "README.md").write_text("card", encoding="utf-8")
    assert harness_world.digest(tmp_path) == first
    (tmp_path / "rows.jsonl").write_text("b", encoding="utf-8")
    assert harness_world.digest(tmp_path) != first


def test_a_file_is_read_when_it_is_looked_into_and_once(monkeypatch):
    read = []
    real = harness.rows.read_rows
    monkeypatch.setattr(harness.rows, "read_rows", lambda path: read.append(path.stem) or real(path))
    data = harness_world.World("w", (), "").training()
    assert read == ["train"]
    assert data.general_dev
    assert data.general_dev[0] == next(iter(data.general_dev)) == data.general_dev[:2][0]
    assert len(data.general_dev) == 300
    assert read == ["train", "general_dev"]

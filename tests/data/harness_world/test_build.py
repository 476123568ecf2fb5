import json
import re

import pytest

from harness_world.build import FILES, build
from harness_world.cards import SAYS, sha256, write_data_card
from harness_world.splits import SPLITS, draw_splits
from harness_world.verifier import verify

SMALL = {"test": 20, "easy": 10, "dev": 10, "train": 40}


def read(name):
    return [json.loads(line) for line in (FILES / name).read_text(encoding="ascii").splitlines()]


def test_two_builds_are_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        build(tmp_path / folder, SMALL)
        write_data_card(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*(name for name in SAYS if name != "pairs.jsonl"), "README.md"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", [name for name in SAYS if name != "pairs.jsonl"])
def test_the_shipped_files_are_what_the_generator_makes(name, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "world"
    if not folder.exists():
        build(folder)
    assert (folder / name).read_bytes() == (FILES / name).read_bytes()


def test_the_card_has_the_hash_of_every_file():
    card = (FILES / "README.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"\| `(\w+\.jsonl)` \| \d+ \| .* \| `([0-9a-f]{64})` \|", card))
    assert set(said) == set(SAYS) == {path.name for path in FILES.glob("*.jsonl")}
    assert said == {name: sha256(FILES / name) for name in SAYS}
    assert "apache-2.0" in card


def test_the_shipped_splits_share_no_question():
    questions = [row["prompt"] for name in SPLITS for row in read(f"{name}.jsonl")]
    assert len(set(questions)) == len(questions) == sum(size for size, _ in SPLITS.values())


def test_the_views_come_from_training_problems():
    train = {problem.question for problem in draw_splits()["train"]}
    for name, least in (("pairs", 2000), ("stepwise", 2000)):
        rows = read(f"{name}.jsonl")
        assert len(rows) >= least
        assert {row["prompt"] for row in rows} <= train
    conversations = read("conversations.jsonl")
    assert len(conversations) >= 1000
    assert {row["messages"][0]["content"] for row in conversations} <= train


def test_pairs_are_right_and_wrong_and_readable():
    answers = {problem.question: str(problem.answer) for problem in draw_splits()["train"]}
    rows = read("pairs.jsonl")
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        assert verify(answers[row["prompt"]], row["chosen"])[0]
        right, said = verify(answers[row["prompt"]], row["rejected"])
        assert not right
        assert said is not None


def test_the_world_is_small():
    files = [path for path in FILES.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 20_000_000

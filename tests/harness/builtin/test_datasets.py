"""One's own data: files, folders and the hub, cut and checked."""

import json

import pytest

from harness.builtin.datasets import cut, find_dataset, render_target
from harness.contracts import Problem
from harness.rows import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows():
    return [{"question": f"{i}+{i}?", "answer": str(2 * i), "rationale": f"{i}+{i}={2 * i}."} for i in range(60)]


def test_a_file_is_cut_into_disjoint_splits(tmp_path, rows):
    spec = find_dataset(str(write(tmp_path / "mine.jsonl", rows)))
    dataset = spec.load()
    data = dataset.training()
    prompts = [{p.prompt for p in split} for split in (data.problems, data.dev, dataset.test)]
    assert sum(map(len, prompts)) == 60
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert all(prompts)
    assert spec.train_tokens > 0


def test_what_a_trainer_is_handed_shows_no_test_row(tmp_path, rows):
    dataset = find_dataset(str(write(tmp_path / "mine.jsonl", rows))).load()
    told = repr(dataset.training())
    assert dataset.training().problems[0].prompt in told
    assert not any(f"'{problem.prompt}'" in told for problem in dataset.test)


def test_a_row_stays_in_its_split_when_others_come(rows):
    problems = [Problem(str(i), row["question"], row["answer"]) for i, row in enumerate(rows)]
    few, many = cut("d", problems[:40]), cut("d", problems)
    assert {p.prompt for p in few.test} <= {p.prompt for p in many.test}
    assert {p.prompt for p in few.train} <= {p.prompt for p in many.train}


def test_a_folder_holds_a_file_a_split(tmp_path, rows):
    for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        write(tmp_path / f"{name}.jsonl", part)
    write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "A: 1", "rejected": "A: 2"}])
    dataset = find_dataset(str(tmp_path)).load()
    assert [p.prompt for p in dataset.test] == [row["question"] for row in rows[50:]]
    assert dataset.training().pairs[0].rejected == "A: 2"


VIEWS = {
    "conversations": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "stepwise": {"prompt": "a", "completions": ["s"], "labels": [True]},
    "instructions": {"task": "t", "prompt": "a", "completion": "b"},
    "corpus": {"text": "words"},
    "general": {"prompt": "a", "completion": "b"},
    "general_dev": {"prompt": "a", "completion": "b"},
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_folder_may_hold_a_file_a_view(tmp_path, rows, view):
    for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        write(tmp_path / f"{name}.jsonl", part)
    assert not getattr(find_dataset(str(tmp_path)).load().training(), view)
    write(tmp_path / f"{view}.jsonl", [VIEWS[view]])
    assert len(getattr(find_dataset(str(tmp_path)).load().training(), view)) == 1


def test_a_question_in_two_splits_is_refused(tmp_path, rows):
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.jsonl", rows[:5])
    with pytest.raises(DataError, match="the same question stands in the train split"):
        find_dataset(str(tmp_path))


def test_a_missing_file_is_named(tmp_path, rows):
    write(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match=r"dev\.jsonl: is missing"):
        find_dataset(str(tmp_path))
    with pytest.raises(DataError, match="there is no such file"):
        find_dataset(str(tmp_path / "none.jsonl"))


def test_the_revision_follows_the_content(tmp_path, rows):
    path = write(tmp_path / "mine.jsonl", rows)
    first = find_dataset(str(path)).revision()
    write(path, rows[:-1])
    assert find_dataset(str(path)).revision() != first


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("1000", "so it is 1,000.", True),
        ("37", "A: 36\nA: 37.0", True),
        ("37", "A: 37\nA: 36", False),
        ("5", "", False),
    ],
)
def test_answers_are_compared_as_numbers(tmp_path, rows, answer, text, right):
    dataset = find_dataset(str(write(tmp_path / "mine.jsonl", rows))).load()
    assert dataset.verify(Problem("i", "p", answer), text)[0] is right


def test_every_target_verifies(tmp_path, rows):
    dataset = find_dataset(str(write(tmp_path / "mine.jsonl", rows))).load()
    for problem in dataset.training().problems:
        for rationale in (True, False):
            assert dataset.verify(problem, render_target(problem, rationale))[0]


def test_what_is_no_dataset_is_left_to_the_registry():
    assert find_dataset("tiny-world") is None


def test_the_hub_is_asked_for_an_id_and_its_rows_are_checked(monkeypatch, rows):
    import datasets

    split = datasets.Dataset.from_list([{"question": row["question"], "answer": row["answer"]} for row in rows])
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"train": split}))
    spec = find_dataset("someone/sums")
    assert len(spec.load().training().problems) + len(spec.load().training().dev) + len(spec.load().test) == 60
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"test": split}))
    with pytest.raises(DataError, match="no train split"):
        find_dataset("someone/sums")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    import datasets

    def refuse(name):
        message = "offline"
        raise ConnectionError(message)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="cannot be loaded from the hub: ConnectionError: offline"):
        find_dataset("someone/sums")

"""Damaged data: one line with file and row, never a silent figure."""

import pytest

from harness import rows
from harness.contracts import Problem

GOOD = b'{"prompt": "1+1?", "answer": 2}\n'


def problems(path):
    return rows.problems(rows.read_rows(path), str(path))


def test_good_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"id": "x", "question": "2+2?", "answer": "4", "rationale": "2+2=4", "steps": ["2+2=4"]}')
    first, second = problems(path)
    assert (first.prompt, first.answer, len(first.id)) == ("1+1?", "2", 16)
    assert second == Problem("x", "2+2?", "4", "2+2=4", ("2+2=4",))


@pytest.mark.parametrize(
    ("content", "row", "word"),
    [
        (b"", None, "empty"),
        (b'{"prompt": "a"}\n', 1, "no column 'answer'"),
        (b'{"answer": "a"}\n', 1, "no column 'prompt' or 'question'"),
        (GOOD + b'{"prompt": "b", "answer": NaN}\n', 2, "NaN"),
        (GOOD + b'{"prompt": "b", "answer": "\xff"}\n', 2, "UTF-8"),
        (GOOD + b'{"prompt": "\\ud800", "answer": "1"}\n', 2, "UTF-8"),
        (GOOD + b'{"prompt": "b", "ans', 2, "whole JSON"),
        (GOOD + b"\n" + GOOD, 2, "whole JSON"),
        (GOOD + b"[1]\n", 2, "no JSON object"),
        (GOOD + b'{"prompt": "b", "answer": null}\n', 2, "NoneType"),
        (GOOD + b'{"prompt": ["b"], "answer": "1"}\n', 2, "list"),
        (GOOD + b'{"prompt": "  ", "answer": "1"}\n', 2, "empty"),
        (GOOD + GOOD, 2, "already in row 1"),
        (b'{"prompt": "' + b"x" * 1_000_001 + b'", "answer": "1"}', 1, "longer than"),
        (b'{"prompt": "a", "answer": "1", "rationale": 3}', 1, "rationale"),
        (b'{"prompt": "a", "answer": "1", "steps": "s"}', 1, "steps"),
        (b"[" * 100_000, 1, "whole JSON"),
    ],
)
def test_damaged_files(tmp_path, content, row, word):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(rows.DataError) as caught:
        problems(path)
    message = str(caught.value)
    assert word in message
    assert str(path) in message
    assert row is None or f"row {row}:" in message
    assert "\n" not in message


def test_a_missing_file(tmp_path):
    with pytest.raises(rows.DataError, match="cannot be read"):
        rows.read_rows(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("kind", "row", "word"),
    [
        ("pairs", {"prompt": "a", "chosen": "b"}, "rejected"),
        ("conversations", {"messages": []}, "messages"),
        ("conversations", {"messages": [{"role": "user", "content": "a"}]}, "assistant"),
        ("conversations", {"messages": [{"role": "assistant"}]}, "content"),
        ("stepwise", {"prompt": "a", "completions": ["s"], "labels": []}, "1 completions and 0 labels"),
        ("stepwise", {"prompt": "a", "completions": ["s"], "labels": [1]}, "true and false"),
        ("instructions", {"prompt": "a", "completion": "b"}, "no column 'task'"),
        ("turns", {"prompt": "a"}, "no column 'completion'"),
        ("texts", {"text": " "}, "column 'text' is empty"),
        ("problems", {"prompt": "a", "answer": "1", "earlier": "b"}, "'earlier' is no list of texts"),
    ],
)
def test_damaged_views(kind, row, word):
    with pytest.raises(rows.DataError, match=word):
        getattr(rows, kind)([row], "file")


def test_views():
    assert rows.pairs([{"prompt": "a", "chosen": "b", "rejected": "c"}], "f")[0].rejected == "c"
    [talk] = rows.conversations([{"messages": [{"role": "assistant", "content": "hi"}]}], "f")
    assert talk.messages[0]["content"] == "hi"
    [step] = rows.stepwise([{"prompt": "a", "completions": ["s"], "labels": [True]}], "f")
    assert step.labels == (True,)
    [instruction] = rows.instructions([{"task": "t", "prompt": "a", "completion": "b"}], "f")
    assert (instruction.task, instruction.prompt, instruction.completion) == ("t", "a", "b")
    assert rows.turns([{"prompt": "a", "completion": "b"}], "f") == [("a", "b")]
    assert rows.texts([{"text": "a"}], "f") == ["a"]
    [problem] = rows.problems([{"prompt": "a", "answer": "1", "earlier": ["b"]}], "f")
    assert problem.earlier == ("b",)


def test_a_question_in_two_splits_is_refused():
    one = [Problem("1", "same?", "1")]
    with pytest.raises(rows.DataError, match="same question stands in the train split"):
        rows.refuse_overlap({"train": one, "test": [Problem("2", "other?", "1"), Problem("3", "same?", "1")]}, "d")

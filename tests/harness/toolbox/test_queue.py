"""Rows that wait: how many are taken at a time, and that each comes back in its place."""

import pytest
import torch

from harness.toolbox import queue
from harness.toolbox.choice import Row
from harness.toolbox.queue import Queue

ROWS = [Row((1,) * length, seed, 0.0, 10) for seed, length in enumerate((2, 3, 4, 5, 6, 7, 8))]


def seeds(taken):
    return [row.seed for row in taken.rows]


def test_rows_are_taken_in_turn_as_many_as_there_is_room_for(tiny_model):
    waiting = Queue(tiny_model, ROWS, 4)
    assert seeds(waiting.take()) == [0, 1, 2, 3]
    assert waiting.take(alive=4) is None
    assert seeds(waiting.take(alive=2)) == [4, 5]
    assert seeds(waiting.take()) == [6]
    assert waiting.take() is None


def test_keys_and_values_of_all_that_go_on_must_fit_into_memory(tiny_model, monkeypatch):
    size = tiny_model.size
    one_token = 2 * size.layers * size.width * 4
    monkeypatch.setattr(queue, "CACHE_BYTES", one_token * 3 * (4 + 10))  # three rows up to that with a prompt of 4
    waiting = Queue(tiny_model, ROWS, 100)
    assert seeds(waiting.take()) == [0, 1, 2]
    assert waiting.take(alive=3) is None
    assert waiting.take(alive=2) is None  # with a prompt of 5 there is room for two, and no more
    assert seeds(waiting.take(alive=1)) == [3]


def test_what_fits_nowhere_is_drawn_alone(tiny_model, monkeypatch):
    monkeypatch.setattr(queue, "CACHE_BYTES", 1)
    waiting = Queue(tiny_model, ROWS[:2], 4)
    assert seeds(waiting.take()) == [0]
    assert waiting.take(alive=1) is None
    assert seeds(waiting.take()) == [1]


@pytest.mark.parametrize("first", [1, 2])
def test_completions_are_in_the_order_of_the_rows_whenever_they_were_drawn(tiny_model, first):
    rows = [Row((1,), 0, 0.0, limit) for limit in (3, 1, 2)]
    waiting, words = Queue(tiny_model, rows, first), tiny_model.module.config.vocab_size
    taken = [waiting.take(), waiting.take()] if first == 2 else [waiting.take() for _ in rows]
    for some in reversed(taken):
        while some.alive:
            some.choose(torch.eye(words)[[5] * len(some.rows)])
    assert [len(completion.tokens) for completion in waiting.completions()] == [3, 1, 2]

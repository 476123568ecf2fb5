"""Batches: masks, truncation, groups of like length."""

import pytest
import torch

from harness import Run
from harness.toolbox import collate, encode_pairs, length_groups, whole_pairs
from harness.toolbox.batching import GROUP_TOKENS


def test_a_batch_by_hand(tiny_model):
    batch = collate(tiny_model, [([1, 5, 6], [7, 2]), ([1], [8, 9, 2])])
    assert batch.input_ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.completion_mask.long().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert (batch.tokens, batch.lengths.tolist(), len(batch)) == (5, [5, 4], 2)


def test_pairs_are_rendered_by_the_one_template(tiny_model):
    batch = encode_pairs(tiny_model, [("7+5", "12")])
    expected = [*tiny_model.encode_prompt("7+5"), *tiny_model.encode_completion("12")]
    assert batch.input_ids[0].tolist() == expected
    assert expected.count(tiny_model.tokenizer.bos_token_id) == 1
    assert expected[-1] == tiny_model.eos


def test_a_long_prompt_is_cut_on_its_left_and_counted(tiny_model):
    prompt = [1, *range(10, 60), *range(10, 60), *range(10, 60)]
    batch = collate(tiny_model, [(prompt, [7, 8, 2]), ([1, 5], [7, 2]), ([1, 5], [7] * 200)])
    row = batch.input_ids[0].tolist()
    assert len(row) == tiny_model.context
    assert row == [1, *prompt[-(tiny_model.context - 4) :], 7, 8, 2]
    assert (batch.shortened, batch.dropped) == (1, 1)
    assert batch.completion_mask.sum(-1).tolist() == [3, 2, 0]


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 50])
def test_groups_hold_every_row_once(tiny_model, groups):
    lengths = [3, 30, 4, 9, 12, 60, 5]
    batch = collate(tiny_model, [([1, 5], [7] * n + [2]) for n in lengths])
    parts = length_groups(batch, groups)
    assert len(parts) == min(groups, 7)
    assert sorted(torch.cat([p.index for p in parts]).tolist()) == list(range(7))
    assert sum(p.tokens for p in parts) == batch.tokens
    for part in parts:
        assert part.input_ids.shape[1] == int(part.lengths.max())
        for row, place in enumerate(part.index.tolist()):
            assert (
                part.input_ids[row][: part.lengths[row]].tolist()
                == batch.input_ids[place][: batch.lengths[place]].tolist()
            )


def test_groups_get_as_many_tokens_as_suit_the_device(tiny_model, monkeypatch):
    batch = collate(tiny_model, [([1, 5], [7] * n + [2]) for n in (17, 17, 7, 7, 7, 17)])  # 90 tokens
    for suits, expected in ((1000, 1), (90, 1), (30, 3), (1, 6)):
        monkeypatch.setitem(GROUP_TOKENS, "cpu", suits)
        assert len(length_groups(batch)) == expected


def test_nothing_to_batch_is_an_error(tiny_model):
    for pairs in ([], [([], [2])]):
        with pytest.raises(ValueError, match=r"no sequence|no token"):
            collate(tiny_model, pairs)
    with pytest.raises(ValueError, match="groups"):
        length_groups(collate(tiny_model, [([1], [2])]), 0)


def test_rows_that_do_not_fit_are_booked_on_who_pays(tiny_model):
    run = Run(0)
    rows = [([1] * 300, [7, 2]), ([1, 5], [7] * 200), ([1, 5], [7, 2])]
    with run.pays():
        collate(tiny_model, rows)
        collate(tiny_model, rows[:2])
    collate(tiny_model, rows)
    assert (run.ledger.shortened_rows, run.ledger.dropped_rows) == (2, 2)


def test_a_pair_is_whole_or_left_out(tiny_model):
    long = [7] * 200
    completions = [[5, 2], long, [6, 2], [8, 2], [9, 2], [4, 2]]  # of three pairs, the chosen first
    rows = collate(tiny_model, [([1, n], c) for n, c in enumerate(completions)])
    kept = whole_pairs(rows)
    assert kept.index.tolist() == [0, 2, 3, 5]
    assert kept.input_ids[kept.completion_mask].tolist() == [5, 2, 6, 2, 8, 2, 4, 2]
    assert whole_pairs(kept) is kept
    assert whole_pairs(collate(tiny_model, [([1], long), ([1], [2])])) is None

"""The stream as tensors: any step can be made again by itself, padding weighs nothing, full steps begin when asked."""

from itertools import islice

import pytest
import torch

from harness_world.batching import Stream, batches, encode, padded
from harness_world.tokenizer import build_tokenizer

SMALL = Stream(seed="check", batch=4, pool_steps=3)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def taken(stream, tokenizer, first, count):
    return list(islice(batches(stream, tokenizer, frozenset(), first), count))


def test_a_run_that_goes_on_reads_what_it_would_have_read(tokenizer):
    whole, rest = taken(SMALL, tokenizer, 0, 8), taken(SMALL, tokenizer, 5, 3)
    for (ids, weights), (again, same) in zip(whole[5:], rest, strict=True):
        assert torch.equal(ids, again)
        assert torch.equal(weights, same)


def test_a_text_begins_and_ends_and_padding_weighs_nothing(tokenizer):
    rows = encode([[("Q: Finn has 10 balls.\n", 0.15), ("A: 10", 1.0)], [("A: 1", 1.0)]], tokenizer)
    (ids, weights), (short, _) = rows
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert (weights[0], weights[1], weights[-1]) == (0.0, 0.15, 1.0)
    ids_BT, weights_BT = padded(rows, tokenizer.pad_token_id)
    assert ids_BT[1].tolist() == short + [tokenizer.pad_token_id] * (len(ids) - len(short))
    assert weights_BT[1, len(short) :].sum() == 0


def test_from_one_step_on_every_step_is_written_in_full(tokenizer):
    stream = Stream(seed="check", batch=40, pool_steps=2, full_from=4)

    def terse(ids_BT):
        replies = (text.split("T:", 1)[1] for text in tokenizer.batch_decode(ids_BT) if "step by step" in text)
        return [not any(sign in reply for sign in ("=", " is ")) for reply in replies]

    before, after = ([mark for ids, _ in taken(stream, tokenizer, first, 4) for mark in terse(ids)] for first in (0, 4))
    assert 0.2 < sum(before) / len(before) < 0.7
    assert sum(after) == 0 < len(after)

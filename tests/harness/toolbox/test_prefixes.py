"""Prefixes: what was read before is not read again, and nobody can tell from the results."""

import dataclasses

import pytest
import torch

from harness.toolbox import SampleRequest, collate, draw, hidden_states, llama, prefixes, token_logprobs
from harness.toolbox.prefixes import BLOCK, Tree, remembered

pytestmark = pytest.mark.usefixtures("either_product", "any_stretch")

PROMPT = (1, *range(5, 42))  # two whole blocks, and six tokens of the third
PART = 20  # in the second block
OTHER = (*PROMPT[:PART], 50, *PROMPT[PART + 1 :])


@pytest.fixture(params=[(), (3,)], ids=["as it comes", "short stretches"])
def any_stretch(request, monkeypatch):
    """Attention over stretches of what is read anew: those that suit small rows are whole rows."""
    if request.param:
        monkeypatch.setattr(prefixes, "STRETCHES", request.param)
        monkeypatch.setattr(prefixes, "COPY", 0)


@pytest.fixture
def read(monkeypatch):
    """How many tokens each pass read."""
    counts, real = [], llama.Llama.read
    monkeypatch.setattr(
        llama.Llama, "read", lambda self, packed, *a: counts.append(len(packed.ids)) or real(self, packed, *a)
    )
    return counts


def branches(*tails):
    return [SampleRequest((*root, *tail), (1, 2), 0.0, 6, (), len(tail)) for tail in tails for root in (PROMPT, OTHER)]


def tokens_of(model, requests):
    return [[row.tokens for row in rows] for rows in draw(model, requests)]


@torch.no_grad()
def scores(model, tail):
    return token_logprobs(model, collate(model, [(PROMPT, tail), (PROMPT, tail[:-1])]))


def test_a_search_and_its_scorer_read_only_what_is_new(any_model, read):
    steps = [branches(()), branches((5, 4), (6,)), branches((5, 4, *range(9, 30)), (6, 7))]
    expected = [tokens_of(any_model, step) for step in steps], [scores(any_model, range(5, n)) for n in (8, 30, 31)]
    plain, read[:] = sum(read), []
    with remembered():
        drawn = [tokens_of(any_model, step) for step in steps]
        judged = [scores(any_model, range(5, n)) for n in (8, 30, 31)]
    assert drawn == expected[0]
    for ours, alone in zip(judged, expected[1], strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)
    assert sum(read) < 0.6 * plain
    assert read[0] == len(PROMPT) + len(OTHER) - PART
    assert read[1] == 2 * (len(PROMPT) - 2 * BLOCK + 2 + 1)  # what is behind whole blocks, once, and the tails


def test_what_is_chosen_is_read_again(tiny_model, read):
    """Hidden states are kept nowhere: a block with a token that something is asked of is no use."""
    rows = collate(tiny_model, [(PROMPT[:4], PROMPT[4:])])
    with torch.no_grad(), remembered():
        first, second = (hidden_states(tiny_model, rows, rows.completion_mask) for _ in range(2))
    torch.testing.assert_close(first, second)
    assert read == [len(PROMPT)] * 2


def test_a_row_reads_what_the_row_before_it_knows_where_it_is_asked_of_it(tiny_model):
    """The same tokens, of which more are the completion's own in the second row."""
    pairs = [(PROMPT, (5, 6)), (PROMPT[: BLOCK + 2], (*PROMPT[BLOCK + 2 :], 5, 6))]
    with torch.no_grad(), remembered():
        scores(tiny_model, (5, 6))
        found = token_logprobs(tiny_model, collate(tiny_model, pairs))
    torch.testing.assert_close(found, token_logprobs(tiny_model, collate(tiny_model, pairs)).detach())


def test_weights_that_change_are_other_weights(tiny_model, make_model):
    """Written in place, as training does, or standing in for others, as a kept start does."""
    tail, lent = range(5, 12), make_model(seed=3)
    with remembered():
        scores(tiny_model, tail)
        with torch.no_grad():
            for parameter in tiny_model.module.parameters():
                parameter.mul_(1.5)
        changed = scores(tiny_model, tail)
        with remembered():  # another memory, which is empty
            expected = scores(tiny_model, tail)
        for parameter, other in zip(tiny_model.parameters(), lent.parameters(), strict=True):
            parameter.data = other.data
        borrowed = scores(tiny_model, tail)
    torch.testing.assert_close(changed, expected)
    torch.testing.assert_close(borrowed, scores(lent, tail))


def test_tokens_that_stand_elsewhere_are_other_tokens(tiny_model):
    rows = collate(tiny_model, [(PROMPT, (5, 6))])
    dense = dataclasses.replace(rows, position_ids=rows.position_ids // 2)
    with torch.no_grad(), remembered():
        scores(tiny_model, (5, 6))
        found = token_logprobs(tiny_model, dense)
    torch.testing.assert_close(found, token_logprobs(tiny_model, dense).detach())


def test_a_hook_on_a_linear_layer_is_heard(tiny_model):
    """It may say another thing each time, so nothing is kept."""
    layer, factor = tiny_model.module.model.layers[0].mlp.up_proj, [1.0]
    layer.register_forward_hook(lambda module, given, found: found * factor[0])
    with remembered():
        scores(tiny_model, range(5, 12))
        factor[0] = 3.0
        found = scores(tiny_model, range(5, 12))
    torch.testing.assert_close(found, scores(tiny_model, range(5, 12)))


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_full_tree_keeps_what_it_has(tiny_model, monkeypatch, blocks, read):
    requests = branches((), (5, 4))
    expected, plain = tokens_of(tiny_model, requests), read.pop()
    size = tiny_model.module.config
    token = 2 * 4 * size.num_hidden_layers * size.num_key_value_heads * (size.hidden_size // size.num_attention_heads)
    monkeypatch.setattr(prefixes, "MOST_BYTES", blocks * BLOCK * token)
    with remembered():
        assert [tokens_of(tiny_model, requests) for _ in range(2)] == [expected] * 2
    assert (read[1] < plain) is (blocks > 0)


def test_gradients_remember_nothing(tiny_model, read):
    rows = collate(tiny_model, [(PROMPT, range(5, 9))])
    with remembered():
        for _ in range(2):
            token_logprobs(tiny_model, rows).sum().backward()
    assert read == [len(PROMPT) + 4] * 2


def test_nothing_outlives_the_block(tiny_model, read):
    for _ in range(2):
        with remembered():
            tokens_of(tiny_model, branches(()))
    assert read[0] == read[1]


def test_blocks_stand_behind_the_blocks_before_them():
    tree = Tree([torch.zeros(1)])
    tree.most = 10
    one, two = list(range(BLOCK)), list(range(BLOCK, 2 * BLOCK))
    assert tree.add([*one, *two, 99], []) == [0, 1]
    assert tree.find([*one, *two], 2 * BLOCK) == [0, 1]
    assert tree.find([*one, *two], 2 * BLOCK - 1) == [0]
    assert tree.find([*two, *one], 2 * BLOCK) == []  # the same blocks, elsewhere
    assert tree.add([*one, *one], [0]) == [2]
    assert tree.find([*one, *one], 2 * BLOCK) == [0, 2]

"""Our own pass over the weights against the module's: values, gradients, and who hears of it."""

import pytest
import torch

from harness import Run
from harness.toolbox import collate, hidden_states, llama, token_logprobs
from harness.toolbox.products import fast_products, steady

pytestmark = pytest.mark.usefixtures("either_product")

PAIRS = [([1, 5, 6, 7], [8, 9, 2]), ([1, 5], [9, 2]), ([1, *range(30, 36)], [2]), ([1, 6], [7, 8, 9, 10, 11, 2])]


def both_ways(monkeypatch, model, work):
    """`work(model)` and the gradients it leaves: by our own pass and by the module's."""
    results = []
    for own in (True, False):
        model.module.zero_grad()
        with monkeypatch.context() as patch:
            patch.setattr(llama, "supports", lambda _, own=own: own)
            value = work(model)
        (value * torch.linspace(-1, 1, value.numel()).view(value.shape)).sum().backward()
        learnt = {n: p.grad.clone() for n, p in model.module.named_parameters() if p.grad is not None}
        results.append((value.detach(), learnt))
    return results


def last_column(rows):
    return torch.arange(rows.input_ids.shape[1]) == rows.lengths[:, None] - 1


@pytest.mark.parametrize(
    "work",
    [
        lambda model: token_logprobs(model, collate(model, PAIRS)),
        lambda model: token_logprobs(model, collate(model, PAIRS[:1])),  # nothing is padded
        lambda model: hidden_states(model, rows := collate(model, PAIRS), rows.completion_mask),
        lambda model: hidden_states(model, rows := collate(model, PAIRS), last_column(rows)),
    ],
    ids=["logprobs", "one row", "hidden states", "last tokens"],
)
def test_values_and_gradients_are_the_modules_own(any_model, monkeypatch, apart, work):
    assert llama.supports(any_model.module)
    (own, gradients), (expected, known) = both_ways(monkeypatch, any_model, work)
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
    assert float(expected.abs().sum()) > 1
    assert gradients.keys() == known.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, known[name], rtol=1e-4, atol=1e-5, msg=name)
    whole, of_module = (torch.cat([g.flatten() for g in found.values()]) for found in (gradients, known))
    assert apart(whole, of_module) <= 1e-5


def test_without_gradients_what_rows_begin_with_in_common_is_read_once(any_model, monkeypatch):
    """Of rows one after another: the prompt, the completion up to where it parts, and nothing behind that."""
    prompt, other = [1, 5, 6, 7], [1, 5, 6, 8]
    pairs = [(prompt, [9, 8, 7, 2]), (prompt, [9, 8, 6, 2]), (prompt, [9]), (other, [9, 8, 6, 2]), (prompt, [9, 8, 2])]
    rows, read, real = collate(any_model, pairs), [], llama.Llama.read
    monkeypatch.setattr(llama.Llama, "read", lambda self, packed, *a: read.append(packed) or real(self, packed, *a))
    with torch.no_grad():
        shared = token_logprobs(any_model, rows), hidden_states(any_model, rows, rows.completion_mask)
    alone = token_logprobs(any_model, rows), hidden_states(any_model, rows, rows.completion_mask)
    for ours, expected in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-5)
    with fast_products():
        expected = [steady(count) for count in [8 + 2 + 0 + 5 + 4] * 2 + [8 + 8 + 5 + 8 + 7] * 2]
    assert [len(packed.ids) for packed in read] == expected


def test_a_row_without_anything_to_learn_disturbs_no_other(any_model):
    rows = collate(any_model, [*PAIRS, ([1, 5], [])])
    torch.testing.assert_close(
        token_logprobs(any_model, rows)[:-1], token_logprobs(any_model, collate(any_model, PAIRS))
    )


def test_a_hook_on_a_linear_layer_is_heard_and_learnt(tiny_model):
    scale = torch.ones(1, requires_grad=True)
    before = token_logprobs(tiny_model, collate(tiny_model, PAIRS))
    for layer in tiny_model.module.model.layers:
        layer.self_attn.v_proj.register_forward_hook(lambda _, __, output: output * (1 + scale))
    assert llama.supports(tiny_model.module)
    after = token_logprobs(tiny_model, collate(tiny_model, PAIRS))
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert float(scale.grad) != 0


def test_the_meter_counts_real_tokens_with_gradient_and_without(tiny_model):
    run = Run(0)
    run.watch(tiny_model)
    rows = collate(tiny_model, PAIRS)
    token_logprobs(tiny_model, rows)
    with torch.no_grad():
        token_logprobs(tiny_model, rows)
    real = sum(len(p) + len(c) for p, c in PAIRS)
    assert (run.ledger.trained_tokens, run.ledger.scored_tokens, run.ledger.model_calls) == (real, real, 2)


def test_the_module_gets_its_own_pass_back_even_after_an_error(tiny_model, monkeypatch):
    rows = collate(tiny_model, PAIRS)
    monkeypatch.setattr(llama.Llama, "after", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_logprobs(tiny_model, rows)
    assert "forward" not in vars(tiny_model.module)
    assert tiny_model.module(rows.input_ids).logits.shape[:2] == rows.input_ids.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_that_was_asked_for_its_hidden_states_is_known_as_before(any_model, dtype):
    """`transformers` leaves hooks in it. In bfloat16, which our own pass does not read, we ask for them ourselves."""
    any_model.module.to(dtype)
    rows = collate(any_model, PAIRS)
    any_model.module(rows.input_ids, output_hidden_states=True)
    hidden_states(any_model, rows, rows.completion_mask)
    assert llama.supports(any_model.module)


def test_what_is_refused(make_model):
    assert not llama.supports(make_model("mistral", sliding_window=8).module)
    wrapped = make_model().module
    wrapped.model.layers[0].self_attn.q_proj = torch.nn.Sequential(wrapped.model.layers[0].self_attn.q_proj)
    assert not llama.supports(wrapped)
    hooked = make_model().module
    hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert not llama.supports(hooked)
    dropout = make_model(attention_dropout=0.5).module
    assert llama.supports(dropout.eval())
    assert not llama.supports(dropout.train())
    metered = make_model().module
    metered.register_forward_hook(lambda *_: None)
    assert llama.supports(metered)
    assert not llama.supports(
        make_model(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}).module
    )

"""The control: every weight learns, from rationales where there are any. That the examples are those of the adapters
is held by `test_adapter_methods`."""

import torch

from harness_finetuning.full_ft_equal_tokens import FullFTEqualTokens


def test_every_weight_learns_and_no_adapter_is_there(train, any_model):
    before = {name: p.clone() for name, p in any_model.module.named_parameters()}
    run = train(FullFTEqualTokens(lr=1e-2, batch_size=4), tokens=3000, model=any_model)
    assert run.curve[-1]["loss"] < 0.8 * run.curve[0]["loss"]
    assert all(not torch.equal(before[name], p) for name, p in any_model.module.named_parameters())
    assert any_model.adapter is None


def test_it_is_a_control_and_pays_for_every_weight(train, tiny_model):
    assert FullFTEqualTokens.family == "control"
    run = train(FullFTEqualTokens(batch_size=4), tokens=1)
    size = tiny_model.size
    assert run.ledger.flops > 6 * size.parameters * run.ledger.trained_tokens


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(FullFTEqualTokens(batch_size=4), tokens=400, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()

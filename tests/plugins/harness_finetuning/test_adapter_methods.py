"""What every method with an adapter must keep to: LoRA, adapters, prompt tuning, prefix tuning."""

import dataclasses

import pytest
import torch

from harness import Run
from harness.contracts import Attacher
from harness.store import Store
from harness.toolbox import completion_loss, llama, sample
from harness_finetuning.adapters import Adapters
from harness_finetuning.lora import LoRA
from harness_finetuning.prefix_tuning import PrefixTuning
from harness_finetuning.prompt_tuning import PromptTuning

METHODS = [
    LoRA(r=4, lr=2e-2, batch_size=4, merge=False),
    Adapters(bottleneck=8, lr=2e-2, batch_size=4),
    PromptTuning(k=5, lr=0.1, batch_size=4),
    PrefixTuning(k=5, lr=0.1, batch_size=4),
]
QUESTIONS = ["7+5?", "Finn has 10 balls. Finn buys 12 more.", "a"]


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request):
    return request.param


def weights(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def encode(model):
    return [*model.encode_prompt("7+5?"), *model.encode_completion("A: 12")]


def logits(model, ids=None):
    """(T, V) without a gradient, of a prompt and its completion."""
    with torch.no_grad():
        return model.module(torch.tensor([ids or encode(model)])).logits[0]


def test_only_the_adapter_learns(method, train, any_model, make_model):
    start = make_model(any_model.name.removeprefix("tiny-"))
    train(dataclasses.replace(method, lr=0.0), tokens=1, model=start)
    before = weights(any_model)
    train(method, tokens=500, model=any_model)
    after = any_model.module.state_dict()
    assert before.keys() == after.keys(), "the structure of the model has changed"
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad or p.grad is not None for p in any_model.module.parameters())
    begun, learnt = start.adapter.state_dict(), any_model.adapter.state_dict()
    assert begun.keys() == learnt.keys()
    assert all(not torch.equal(begun[name], learnt[name]) for name in learnt)
    assert {id(p) for p in any_model.parameters() if p.requires_grad} == {id(p) for p in any_model.adapter.parameters()}


def test_the_loss_falls(method, train):
    run = train(method, tokens=3000)
    assert run.curve[-1]["loss"] < 0.92 * run.curve[0]["loss"]


def test_the_same_seed_gives_the_same_weights_whatever_torch_is_seeded_with(method, train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        train(method, tokens=400, model=model)
        assert torch.equal(torch.get_rng_state(), state), "torch's own generator was drawn from"
    assert models[0].fingerprint() == models[1].fingerprint()


def test_another_seed_gives_another_start(method, make_model, toy_data):
    models = [make_model() for _ in range(2)]
    for seed, model in enumerate(models):
        run = Run(seed, budget=1)
        run.watch(model)
        dataclasses.replace(method, lr=0.0).train(model, toy_data, run)
    assert models[0].fingerprint() != models[1].fingerprint()


def test_a_checkpoint_comes_back_whole(method, train, any_model, tmp_path):
    train(method, tokens=500, model=any_model)
    store = Store(tmp_path)
    assert store.publish_stage("a" * 64, any_model.save, {})
    folder, _ = store.stage("a" * 64)
    again = any_model.restore(folder)
    assert isinstance(method, Attacher), "the bench would not know who attaches it"
    assert again.adapter is None
    method.attach(again, folder / "adapter")
    assert again.fingerprint() == any_model.fingerprint()
    ids = encode(any_model)
    assert torch.equal(logits(again, ids), logits(any_model, ids))
    k = any_model.adapter.virtual_tokens
    assert again.encode_prompt("7+5?")[: k + 1] == ids[: k + 1]


def test_a_save_over_a_save_leaves_no_adapter_behind(method, train, tiny_model, tmp_path):
    train(method, tokens=1, model=tiny_model)
    tiny_model.save(tmp_path)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    tiny_model.adapter = None
    tiny_model.save(tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_of_another_kind_is_refused(method, train, tiny_model, tmp_path):
    other = METHODS[METHODS.index(method) - 1]
    train(method, tokens=1, model=tiny_model)
    tiny_model.save(tmp_path)
    with pytest.raises(ValueError, match="adapter of type"):
        other.attach(tiny_model.restore(tmp_path), tmp_path / "adapter")


def test_a_clone_and_its_original_go_their_own_ways(method, train, tiny_model, toy_data):
    train(method, tokens=500)
    sample(tiny_model, "7+5?", Run(0, max_new_tokens=2))  # leaves nothing behind that a copy cannot have
    twin = tiny_model.clone()
    assert twin.fingerprint() == tiny_model.fingerprint()
    assert torch.equal(logits(twin), logits(tiny_model))
    own = {id(p) for p in twin.adapter.parameters()}
    assert own.isdisjoint(id(p) for p in tiny_model.adapter.parameters())
    for seed, (changed, kept) in enumerate(((twin, tiny_model), (tiny_model, twin))):
        generator = torch.Generator().manual_seed(seed)
        before, fingerprint = logits(kept), kept.fingerprint()
        moved = logits(changed)
        with torch.no_grad():
            for parameter in changed.adapter.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        assert not torch.allclose(logits(changed), moved, atol=1e-3)
        assert torch.equal(logits(kept), before)
        assert kept.fingerprint() == fingerprint != changed.fingerprint()


def test_a_clone_learns_by_its_own_adapter(method, train, tiny_model):
    train(method, tokens=1)
    twin = tiny_model.clone()
    completion_loss(twin, [("7+5?", "A: 12")])
    assert any(p.grad is not None and bool(p.grad.any()) for p in twin.adapter.parameters())
    assert all(p.grad is None for p in tiny_model.parameters())


def test_greedy_answers_are_those_of_the_full_forward_pass(method, train, any_model, monkeypatch):
    """The first token of a completion included: an offset by the virtual tokens would show there."""
    train(method, tokens=500, model=any_model)
    assert llama.supports(any_model.module)
    for question in QUESTIONS:
        ids = any_model.encode_prompt(question)
        expected = []
        for _ in range(8):
            with torch.no_grad():
                expected.append(int(any_model.module(torch.tensor([ids + expected])).logits[0, -1].argmax()))
            if expected[-1] == any_model.eos:
                break
        with monkeypatch.context() as patch:
            for supported in (True, False):
                patch.setattr(llama, "supports", lambda _, supported=supported: supported)
                [drawn] = sample(any_model, question, Run(0, max_new_tokens=8), temperature=0.0)
                assert list(drawn.tokens) == expected


def test_rows_of_unequal_length_answer_as_they_do_alone(method, train, tiny_model, monkeypatch):
    """Virtual tokens behind left padding (`generate`) and before right padding (the fast decoder)."""
    from harness.toolbox import SampleRequest, draw

    train(method, tokens=500)
    requests = [SampleRequest(tuple(tiny_model.encode_prompt(q)), (1, 2), 1.0, 10) for q in QUESTIONS]
    for supported in (True, False):
        monkeypatch.setattr(llama, "supports", lambda _, supported=supported: supported)
        together = draw(tiny_model, requests)
        alone = [draw(tiny_model, [request])[0] for request in requests]
        assert [[c.tokens for c in row] for row in together] == [[c.tokens for c in row] for row in alone]
        for row in (c for rows in zip(together, alone, strict=True) for c in zip(*rows, strict=True)):
            assert row[0].logprobs == pytest.approx(row[1].logprobs, abs=1e-4)


def test_padding_of_a_training_batch_changes_nothing(method, train, tiny_model):
    train(method, tokens=500)
    texts = [("7+5?", "A: 12"), ("Finn has 10 balls. Finn buys 12 more. How many?", "T: 10+12=22.\nA: 22")]
    alone = [completion_loss(tiny_model, [text], backward=False) for text in texts]
    tokens = [len(tiny_model.encode_completion(text[1])) for text in texts]
    together = completion_loss(tiny_model, texts, backward=False, groups=1)
    assert together == pytest.approx(sum(a * n for a, n in zip(alone, tokens, strict=True)) / sum(tokens), rel=1e-5)


def test_a_model_in_bfloat16_learns_by_an_adapter_in_float32(method, train, tiny_model):
    tiny_model.module.bfloat16()
    run = train(method, tokens=1200)
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]
    assert {p.dtype for p in tiny_model.adapter.parameters()} == {torch.float32}
    assert logits(tiny_model).dtype == torch.bfloat16


def test_few_weights_train_but_the_backward_pass_goes_through_all(method, train, tiny_model):
    """About 4 N a token, not the share of the weights that train: 2 N forward, 2 N back through frozen weights."""
    run = train(method, tokens=300)
    N, tokens = tiny_model.size.parameters, run.ledger.trained_tokens
    trainable = sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)
    assert trainable < N / 3
    attention = 8 * 2 * 32 * 40  # 4 L d forward, twice that in all, for each of at most 40 tokens attended to
    assert 4 * N < run.ledger.flops / tokens < 4 * N + 2 * trainable + 2 * attention


def test_a_second_adapter_is_refused(method, train):
    train(method, tokens=1)
    with pytest.raises(ValueError, match="adapter already"):
        train(method, tokens=1)


def test_all_learn_the_examples_of_the_control(method, train, make_model, toy_data, monkeypatch):

    from harness_finetuning.full_ft_equal_tokens import FullFTEqualTokens

    bare = [dataclasses.replace(p, rationale=None) if i % 2 else p for i, p in enumerate(toy_data.problems)]
    data, seen = dataclasses.replace(toy_data, problems=bare), []
    for each in (method, FullFTEqualTokens(batch_size=4)):
        batches = []

        def record(model, batch, batches=batches):
            batches.append(list(batch))
            return completion_loss(model, batch)

        with monkeypatch.context() as patch:
            patch.setattr("harness.toolbox.supervised.completion_loss", record)
            train(each, tokens=1200, data=data, model=make_model())
        seen.append(batches)
    shorter = min(map(len, seen))
    assert shorter >= 2
    assert seen[0][:shorter] == seen[1][:shorter]
    targets = dict(example for batch in seen[1] for example in batch)
    assert targets["0+1?"].startswith("T: ")
    assert targets["1+1?"] == "A: 2"


def test_without_problems_it_says_so(method, toy_data, tiny_model):
    with pytest.raises(ValueError, match="nothing to train on"):
        method.train(tiny_model, dataclasses.replace(toy_data, problems=[]), Run(0, budget=10))

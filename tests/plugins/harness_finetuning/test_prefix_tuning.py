"""Prefix tuning: keys and values at virtual tokens; with those of a text, the answer is that text's."""

import json

import pytest
import torch

from harness import Run
from harness.builtin.causal_lm import CausalLM
from harness.toolbox import collate, completion_logprob, sample
from harness_finetuning.prefix_tuning import Prefix, PrefixTuning

WORDS = "Add the two:"


@torch.no_grad()
def logits(module, ids):
    return module(input_ids=torch.tensor([ids])).logits[0]


def random_states(model, k=5):
    config = model.module.config
    width = config.num_key_value_heads * model.module.model.layers[0].self_attn.head_dim
    shape = (k, 2 * config.num_hidden_layers, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def with_words(model, text=WORDS):
    """A copy whose prefix is what a text's tokens have, and the text's ids."""
    words = model.encode_completion(text)[:-1]
    twin = model.clone()
    twin.adapter = Prefix(twin, PrefixTuning().start(twin, words))
    return twin, words


def test_with_the_states_of_a_text_it_answers_as_after_that_text(any_model):
    """Every layer's keys, at their positions, and values: any row off by one, or a key turned wrongly, would show."""
    prefixed, words = with_words(any_model)
    k, ids = len(words), any_model.encode_prompt("7+5?")
    assert prefixed.encode_prompt("7+5?")[k:] == ids
    ours = logits(prefixed.module, prefixed.encode_prompt("7+5?"))[k:]
    torch.testing.assert_close(ours, logits(any_model.module, words + ids)[k:], atol=1e-4, rtol=0)
    target = any_model.encode_completion("A: 12")
    learnt = completion_logprob(prefixed, collate(prefixed, [(prefixed.encode_prompt("7+5?"), target)]))
    by_text = completion_logprob(any_model, collate(any_model, [(words + ids, target)]))
    torch.testing.assert_close(learnt, by_text, atol=1e-4, rtol=0)


def test_the_first_token_of_an_answer_is_the_one_after_the_prompt(any_model):
    prefixed, words = with_words(any_model)
    for question in ("7+5?", "a", "Finn has 10 balls."):
        expected = logits(any_model.module, words + any_model.encode_prompt(question))[-1]
        [drawn] = sample(prefixed, question, Run(0, max_new_tokens=1), temperature=0.0)
        assert drawn.tokens == (int(expected.argmax()),)
        assert drawn.logprobs[0] == pytest.approx(float(expected.log_softmax(-1).max()), abs=1e-4)


def test_it_begins_as_the_states_of_a_real_prompt(tiny_model, toy_data):
    base, run = tiny_model.clone(), Run(3, budget=1)
    run.watch(tiny_model)
    PrefixTuning(k=4, lr=0.0).train(tiny_model, toy_data, run)
    assert run.ledger.scored_tokens == 4  # reading those words is paid for
    begun = [base.encode_prompt(p.prompt)[:4] for p in toy_data.problems]
    question = base.encode_prompt("7+5?")
    ours = logits(tiny_model.module, tiny_model.encode_prompt("7+5?"))[4:]
    assert any(torch.allclose(ours, logits(base.module, words + question)[4:], atol=1e-4) for words in begun)


@pytest.mark.parametrize("place", range(8))
def test_every_key_and_value_of_every_layer_counts(tiny_model, place):
    """(k = 2) x (2 layers) x (key, value): each changes the answer, and the embedding of a virtual token does not."""
    tiny_model.adapter = Prefix(tiny_model, random_states(tiny_model, 2))
    ids = tiny_model.encode_prompt("7+5?")
    before = logits(tiny_model.module, ids)[2:]
    layer, row = tiny_model.adapter.layers[place // 4], place % 2
    rows = (layer.keys, layer.values)[place // 2 % 2]
    with torch.no_grad():
        rows[row] += 1.0
    assert not torch.allclose(logits(tiny_model.module, ids)[2:], before, atol=1e-4)


def test_what_stands_at_virtual_tokens_is_moot(tiny_model):
    tiny_model.adapter = Prefix(tiny_model, random_states(tiny_model, 2))
    ids = tiny_model.encode_prompt("7+5?")
    before = logits(tiny_model.module, ids)
    last = tiny_model.module.model.embed_tokens.weight[-1]  # looked up for virtual tokens
    assert not (torch.tensor(ids) == len(tiny_model.module.model.embed_tokens.weight) - 1).any()
    head = tiny_model.module.lm_head.weight.clone()
    with torch.no_grad():
        last.add_(3.0)
    tiny_model.module.lm_head.weight = torch.nn.Parameter(head)
    after = logits(tiny_model.module, ids)
    assert not torch.allclose(after[:2], before[:2], atol=1e-3)
    assert torch.equal(after[2:], before[2:])


def test_all_keys_and_values_are_learnt_and_nothing_else(train, tiny_model):
    train(PrefixTuning(k=3, batch_size=4), tokens=1)
    trained = [p for p in tiny_model.parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(3, 16)] * 4  # k x (2 heads of 8), keys and values of two layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_peft_reads_what_we_write(make_model, tmp_path, family, kv_heads):
    peft = pytest.importorskip("peft")
    model = make_model(family, num_key_value_heads=kv_heads)
    model.adapter = Prefix(model, random_states(model))
    model.save(tmp_path)
    base = CausalLM.load(tmp_path, model.device).module
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = model.encode_prompt("7+5?")
    torch.testing.assert_close(logits(theirs, ids[5:]), logits(model.module, ids)[5:], atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_we_read_what_peft_writes(make_model, tmp_path, family, kv_heads):
    peft = pytest.importorskip("peft")
    model = make_model(family, num_key_value_heads=kv_heads)
    ours = model.clone()
    torch.manual_seed(0)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    theirs = peft.get_peft_model(model.module, config).eval()
    theirs.save_pretrained(tmp_path)
    PrefixTuning().attach(ours, tmp_path)
    ids = ours.encode_prompt("7+5?")
    torch.testing.assert_close(logits(theirs, ids[5:]), logits(ours.module, ids)[5:], atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_our_configuration_is_what_peft_writes_itself(tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    peft.get_peft_model(tiny_model.clone().module, config).save_pretrained(tmp_path / "theirs")
    Prefix(tiny_model, random_states(tiny_model)).save(tmp_path / "ours")
    ours, theirs = (
        json.loads((tmp_path / who / "adapter_config.json").read_text(encoding="utf-8")) for who in ("ours", "theirs")
    )
    assert ours == {name: theirs[name] for name in ours}


def test_rotations_are_undone_whatever_the_positions_are_scaled_by(make_model):
    """Llama 3's and linear scaling change the angles, YaRN the length of what is rotated."""
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    for rope in (yarn, linear):
        model = make_model(rope_parameters=rope)
        prefixed, words = with_words(model)
        ids = model.encode_prompt("7+5?")
        ours = logits(prefixed.module, prefixed.encode_prompt("7+5?"))[len(words) :]
        torch.testing.assert_close(ours, logits(model.module, words + ids)[len(words) :], atol=1e-4, rtol=0)


def test_a_model_that_normalises_keys_is_refused(tiny_model):
    tiny_model.module.model.layers[0].self_attn.k_norm = torch.nn.Identity()
    with pytest.raises(ValueError, match="normalises its keys"):
        Prefix(tiny_model, random_states(tiny_model))

"""Prompt tuning: P in front and nothing off by one; where P is a text, the answer is that text's."""

import pytest
import torch

from harness import Run
from harness.builtin.causal_lm import CausalLM
from harness.toolbox import collate, completion_logprob, embedding_layer, sample
from harness_finetuning.prompt_tuning import PromptTuning, SoftPrompt

WORDS = "Add the two:"


@torch.no_grad()
def logits(module, ids):
    return module(input_ids=torch.tensor([ids])).logits[0]


def with_words(model, text=WORDS):
    """A copy whose P is the embeddings of a text, and the text's ids."""
    words = model.encode_completion(text)[:-1]
    twin = model.clone()
    twin.adapter = SoftPrompt(twin, embedding_layer(twin).weight[words].detach())
    return twin, words


def test_with_the_embeddings_of_a_text_it_answers_as_after_that_text(any_model):
    soft, words = with_words(any_model)
    V, ids = embedding_layer(any_model).num_embeddings, any_model.encode_prompt("7+5?")
    assert soft.encode_prompt("7+5?") == [*range(V, V + len(words)), *ids]
    torch.testing.assert_close(logits(soft.module, soft.encode_prompt("7+5?")), logits(any_model.module, words + ids))
    target = any_model.encode_completion("A: 12")
    ours = completion_logprob(soft, collate(soft, [(soft.encode_prompt("7+5?"), target)]))
    by_text = completion_logprob(any_model, collate(any_model, [(words + ids, target)]))
    torch.testing.assert_close(ours, by_text)
    # The order of P counts: the same vectors the other way round are another prompt.
    soft.adapter.P.data = soft.adapter.P.data.flip(0)
    assert not torch.allclose(
        logits(soft.module, soft.encode_prompt("7+5?"))[-1], logits(any_model.module, words + ids)[-1]
    )


def test_the_first_token_of_an_answer_is_the_one_after_the_prompt(any_model):
    soft, words = with_words(any_model)
    for question in ("7+5?", "a", "Finn has 10 balls."):
        expected = logits(any_model.module, words + any_model.encode_prompt(question))[-1]
        [drawn] = sample(soft, question, Run(0, max_new_tokens=1), temperature=0.0)
        assert drawn.tokens == (int(expected.argmax()),)
        assert drawn.logprobs[0] == pytest.approx(float(expected.log_softmax(-1).max()), abs=1e-4)


def test_a_copy_of_the_texts_prompt_gets_the_same_samples(any_model):
    """Whole sampled answers, token by token, against the same text as real tokens."""
    from harness.toolbox import SampleRequest, draw

    soft, words = with_words(any_model)
    ids = any_model.encode_prompt("7+5?")
    [[text]] = draw(any_model, [SampleRequest(tuple(words + ids), (5,), 1.0, 20)])
    [[virtual]] = draw(soft, [SampleRequest(tuple(soft.encode_prompt("7+5?")), (5,), 1.0, 20)])
    assert virtual.tokens == text.tokens


def test_virtual_tokens_are_prompt_and_never_learnt_as_words(tiny_model):
    soft, words = with_words(tiny_model)
    batch = collate(soft, [(soft.encode_prompt("7+5?"), [7, 8, 2]), (soft.encode_prompt("7"), [7, 2])])
    k = len(words)
    assert not batch.completion_mask[:, :k].any()
    assert batch.attention_mask[:, :k].all()
    assert batch.position_ids[0, : k + 1].tolist() == list(range(k + 1))
    assert batch.tokens == 5


def test_it_begins_as_words_of_real_prompts(tiny_model, toy_data):
    run = Run(3, budget=1)
    run.watch(tiny_model)
    PromptTuning(k=6, lr=0.0).train(tiny_model, toy_data, run)
    table = embedding_layer(tiny_model).weight
    P = tiny_model.adapter.P
    found = [int((table == row).all(-1).nonzero()[0]) for row in P]
    starts = [tiny_model.encode_prompt(p.prompt)[6:12] for p in toy_data.problems]  # behind the virtual tokens
    assert found in starts


def test_k_vectors_are_all_that_learns(train, tiny_model):
    run = train(PromptTuning(k=3, batch_size=4), tokens=1)
    assert [tuple(p.shape) for p in tiny_model.parameters() if p.requires_grad] == [(3, 32)]
    lengths = [len(tiny_model.encode_prompt(f"{i}+1?")) for i in range(12)]
    assert min(lengths) == 3 + len("Q: 0+1?\n") + 1  # the three, <bos>, and the question as the template has it
    assert run.ledger.trained_tokens >= 4 * min(lengths), "virtual tokens are tokens of the budget"


@pytest.mark.filterwarnings("ignore")
def test_peft_reads_what_we_write(any_model, tmp_path):
    peft = pytest.importorskip("peft")
    any_model.adapter = SoftPrompt(any_model, torch.randn(5, 32, generator=torch.Generator().manual_seed(0)))
    any_model.save(tmp_path)
    theirs = peft.PeftModel.from_pretrained(CausalLM.load(tmp_path, any_model.device).module, str(tmp_path / "adapter"))
    ids = any_model.encode_prompt("7+5?")
    assert torch.equal(theirs.get_prompt(1)[0], any_model.adapter.P)
    torch.testing.assert_close(logits(theirs, ids[5:]), logits(any_model.module, ids), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_we_read_what_peft_writes(any_model, tmp_path):
    peft = pytest.importorskip("peft")
    ours = any_model.clone()
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        any_model.module, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    ).eval()
    theirs.save_pretrained(tmp_path)
    PromptTuning().attach(ours, tmp_path)
    ids = ours.encode_prompt("7+5?")
    torch.testing.assert_close(logits(theirs, ids[5:]), logits(ours.module, ids), atol=1e-4, rtol=0)

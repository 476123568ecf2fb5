"""Fixtures that tests of every layer share: a random two-layer model, a tokenizer of single characters, toy data."""

from __future__ import annotations

import signal
import string

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from harness import Completion, Pair, Problem, TrainingData
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.toolbox import Rollouts, batching, collate, judges, products

# A suite started in the background inherits an ignored SIGINT, and so would every program that it interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # several test processes share the machine
SIGNS = ["<pad>", "<bos>", "<eos>", "<unk>", "\n", " ", *string.digits, *string.ascii_letters, *"+-*/=.,?:!#"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ 'Q: ' + message['content'] + '\\n' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
CONTEXT = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    backend = Tokenizer(WordLevel({sign: i for i, sign in enumerate(SIGNS)}, unk_token="<unk>"))  # noqa: S106 - no password
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",  # noqa: S106 - no password
        bos_token="<bos>",  # noqa: S106 - no password
        eos_token="<eos>",  # noqa: S106 - no password
        unk_token="<unk>",  # noqa: S106 - no password
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def build_model(family: str = "llama", seed: int = 0, sharpness: float = 0.15, **changes) -> CausalLM:
    """A random model; `sharpness` is the spread of its weights: the larger, the less uniform its output."""
    common = {
        "vocab_size": len(SIGNS),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": CONTEXT,
        "initializer_range": sharpness,
        "tie_word_embeddings": family == "llama",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    torch.manual_seed(seed)
    if family == "qwen2":
        module = Qwen2ForCausalLM(Qwen2Config(**common))
        for layer in module.model.layers:
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                torch.nn.init.normal_(linear.bias, std=sharpness)  # zero biases would hide a decoder that forgets them
    elif family == "mistral":
        module = MistralForCausalLM(MistralConfig(**{"sliding_window": None, **common}))
    else:
        module = LlamaForCausalLM(LlamaConfig(**common))
    return CausalLM(f"tiny-{family}", module, build_tokenizer(), Cpu())


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    return build_tokenizer()


@pytest.fixture
def make_model():
    """`build_model`, for tests that want a family or a seed of their own."""
    return build_model


@pytest.fixture
def tiny_model() -> CausalLM:
    """A random two-layer Llama."""
    return build_model()


@pytest.fixture(params=["llama", "qwen2", "mistral"])
def any_model(request) -> CausalLM:
    """Each family that the fast decoder knows."""
    return build_model(request.param)


def render_target(problem, rationale):
    answer = f"A: {problem.answer}"
    return f"{problem.rationale}\n{answer}" if rationale else answer


def verify(problem, text):
    said = text.rpartition("A: ")[2].strip() or None
    return said == problem.answer, said


@pytest.fixture
def toy_data():
    problems = [Problem(f"p{i}", f"{i}+1?", str(i + 1), f"T: {i}+1={i + 1}.") for i in range(12)]
    pairs = [Pair(p.id, p.prompt, f"A: {p.answer}", "A: no") for p in problems]
    return TrainingData(problems, problems[:2], verify, render_target, pairs)


@pytest.fixture
def plain_logprobs():
    """`plain_logprobs(model, rows)`: what `token_logprobs` says, by the module's own pass over the whole padded batch.

    Nothing is left out of it: every logit is computed, padding's as well, and its gradient.
    """

    def go(model, rows):
        logits_RTV = model.module(rows.input_ids, attention_mask=rows.attention_mask).logits
        surprise_RT = F.cross_entropy(logits_RTV[:, :-1].transpose(1, 2), rows.input_ids[:, 1:], reduction="none")
        return F.pad(-surprise_RT, (1, 0)) * rows.completion_mask

    return go


@pytest.fixture
def apart():
    """`apart(found, expected)`: norm of the difference of two gradients, as a share of the second's norm."""
    return lambda found, expected: float((found - expected).norm() / expected.norm())


@pytest.fixture
def small_groups(monkeypatch):
    """A handful of rows makes several groups of like length, most of them of more than one row."""
    monkeypatch.setitem(batching.GROUP_TOKENS, "cpu", 40)


@pytest.fixture
def judge(make_model):
    """A random model that is sure of what it says, with room for a prompt of both candidates."""
    model = make_model(seed=5, sharpness=0.25, max_position_embeddings=400)
    model.tokenizer.model_max_length = 400
    return model


@pytest.fixture
def compared(tiny_model, toy_data):
    """`compared([("A: 1", "A: 7"), ...])`: rollouts that hold these completions of the first problems."""

    def go(texts):
        problems = toy_data.problems[: len(texts)]
        said = [Completion(t, tuple(tiny_model.encode_completion(t)), (), "eos") for pair in texts for t in pair]
        prompts = [tiny_model.encode_prompt(p.prompt) for p in problems for _ in range(2)]
        rows = collate(tiny_model, list(zip(prompts, [c.tokens for c in said], strict=True)))
        right = [float(toy_data.verify(p, t)[0]) for p, pair in zip(problems, texts, strict=True) for t in pair]
        return Rollouts(problems, said, rows, torch.tensor(right), 2)

    return go


@pytest.fixture
def favour(monkeypatch):
    """`favour(judge)`: let 1 and 2 stand out from a judge's words, so that it says one of them; `factor` -1: never."""

    def go(judge, factor=1.0):
        one, two = (judge.encode_completion(word)[0] for word in "12")
        real = judges.completion_logits

        def louder(model, rows):
            logits, ids = real(model, rows)
            logits[:, [one, two]] += 100 * factor
            return logits, ids

        monkeypatch.setattr(judges, "completion_logits", louder)

    return go


@pytest.fixture(params=["as it comes", "all by oneDNN"])
def either_product(request, monkeypatch):
    """As it comes, where nearly all products of small models are torch's; and all by oneDNN, batches filled up."""
    if request.param == "all by oneDNN":
        if not products.available():
            pytest.skip("torch has no oneDNN here, or the processor no AVX-512")
        monkeypatch.setattr(products, "SMALLEST", 1)
        monkeypatch.setattr(products, "FEWEST_ROWS", 1)
        monkeypatch.setattr(products, "FEWEST_STEADY", 16)

"""Teaching: the teacher is checked and frozen; the loss is a mean over real completion tokens of the whole batch."""

import copy

import pytest
import torch

from harness import Run
from harness.toolbox import collate, divergence_loss, open_teacher

LESSONS = [("1+1?", "1+1? now", "A: 2"), ("3?", "3? now", "T: 1+2=3, and that is all.\nA: 3"), ("10+10?", "?", "20")]


@pytest.fixture
def teacher(make_model):
    return make_model(seed=5)


def lessons(model):
    return [(plain, cued, model.encode_completion(text)) for plain, cued, text in LESSONS]


def squares(student_KV, teacher_KV):
    return (student_KV - teacher_KV).square().sum(-1)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.module.parameters()]).clone()


def test_a_teacher_is_frozen_and_counted_beside_the_budget(tiny_model, teacher):
    run = Run(0, budget=10, open_model={"big": teacher}.__getitem__)
    assert open_teacher(run, "big", tiny_model) is teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    teacher.module(torch.ones(1, 5, dtype=torch.long))
    assert (run.ledger.other_tokens, run.ledger.scored_tokens, run.spent) == (5, 5, 0)


def test_other_words_are_refused_in_one_line_that_names_both(tiny_model, teacher):
    teacher.tokenizer.add_tokens(["<more>"])
    teacher.name = "foreign"
    with pytest.raises(ValueError, match=r"^foreign cannot teach tiny-llama word by word: .*$") as error:
        open_teacher(Run(0, open_model=lambda name: teacher), "foreign", tiny_model)
    assert "\n" not in str(error.value)


def test_without_other_models_it_says_so(tiny_model):
    with pytest.raises(LookupError, match="'some-teacher'"):
        open_teacher(Run(0), "some-teacher", tiny_model)


def test_the_mean_is_over_real_completion_tokens_alone(tiny_model, teacher):
    """By hand, row by row without padding; student and teacher stand behind prompts of their own."""
    figures = []
    for plain, cued, ids in lessons(tiny_model):
        rows = []
        for model, asked in ((tiny_model, plain), (teacher, cued)):
            prompt = model.encode_prompt(asked)
            rows.append(model.module(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1])
        figures += squares(*rows).tolist()
    loss = divergence_loss(tiny_model, teacher, lessons(tiny_model), squares)
    assert loss == pytest.approx(sum(figures) / len(figures), rel=1e-4)


def test_groups_add_up_to_the_gradient_of_the_whole_batch(tiny_model, teacher, apart):
    read = []
    for model, place in ((tiny_model, 0), (teacher, 1)):
        rows = collate(model, [(model.encode_prompt(lesson[place]), lesson[2]) for lesson in lessons(model)])
        logits_RTV = model.module(rows.input_ids, attention_mask=rows.attention_mask).logits
        read.append(logits_RTV[:, :-1][rows.completion_mask[:, 1:]])
    whole = squares(*read).mean()
    whole.backward()
    expected = gradient(tiny_model)
    for groups in (1, 2, 3):
        tiny_model.module.zero_grad()
        loss = divergence_loss(tiny_model, teacher, lessons(tiny_model), squares, groups)
        assert loss == pytest.approx(whole.item(), rel=1e-5)
        assert apart(gradient(tiny_model), expected) <= 1e-5


def test_the_teacher_has_no_gradient(tiny_model, teacher):
    """Not even one that is not frozen: it is no part of the graph."""
    before = teacher.fingerprint()
    divergence_loss(tiny_model, teacher, lessons(tiny_model), squares)
    assert all(p.grad is None for p in teacher.parameters())
    assert teacher.fingerprint() == before


def test_an_embedding_may_be_wider_than_the_vocabulary(tiny_model, teacher, make_model):
    words = tiny_model.module.config.vocab_size
    wide = make_model(seed=5, vocab_size=words + 6)
    wide.module.load_state_dict(
        {
            name: torch.cat([tensor, torch.ones(6, tensor.shape[1])]) if tensor.shape[0] == words else tensor
            for name, tensor in teacher.module.state_dict().items()
        }
    )
    losses = [divergence_loss(tiny_model, t, lessons(tiny_model), squares) for t in (teacher, wide)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_figures_are_float32_whatever_the_models_are(tiny_model, teacher):
    seen = []

    def watch(student_KV, teacher_KV):
        seen.append((student_KV.dtype, teacher_KV.dtype, teacher_KV.requires_grad))
        return squares(student_KV, teacher_KV)

    half = copy.deepcopy(teacher)
    half.module.bfloat16()
    divergence_loss(tiny_model, half, lessons(tiny_model), watch)
    assert set(seen) == {(torch.float32, torch.float32, False)}


def test_a_completion_that_only_one_of_them_can_read_is_refused(tiny_model, make_model):
    small = make_model(seed=5, max_position_embeddings=30)
    small.name = "small"
    with pytest.raises(ValueError, match="only one of small and tiny-llama"):
        divergence_loss(tiny_model, small, [("1+1?", "1+1?", tiny_model.encode_completion("9" * 40))], squares)


def test_nothing_to_learn_from_is_an_error(tiny_model, teacher):
    with pytest.raises(ValueError, match="no row has a completion token"):
        divergence_loss(tiny_model, teacher, [("1+1?", "1+1?", ())], squares)

"""TRL's own loss code, on the same texts and the same random weights, must give the same figures as ours.

TRL renders, tokenizes, collates and computes the loss by itself; it gets nothing from us but the model, the tokenizer
and the texts. Where its convention differs, the test's name says how, and the figures agree once that is corrected.
"""

import copy
import dataclasses

import pytest
import torch

from harness.toolbox import completion_logprob, completion_loss, encode_pairs
from harness_finetuning.kto import kto_loss, mismatched, reference_point
from harness_finetuning.orpo import log_odds, orpo_loss
from harness_finetuning.simpo import simpo_loss
from harness_rl.dpo import dpo_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and its stack warn of their own future
PAIRS = [
    ("1+1?", "A: 2", "A: no idea at all"),
    ("2+20?", "T: 2+20=22. A: 22", "A: 5"),
    ("How many is 3+1?", "A: 4", "B"),
]
CHOSEN, REJECTED = [(p, w) for p, w, _ in PAIRS], [(p, r) for p, _, r in PAIRS]
RTOL = 1e-5


def close(figure):
    return pytest.approx(float(figure), rel=RTOL)


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """`trl("KTO", model, rows, reference, **options)`: one of TRL's trainers, on the CPU, with no reporting."""
    pytest.importorskip("trl")
    import datasets
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    kinds = {
        "SFT": (SFTTrainer, SFTConfig),
        "DPO": (DPOTrainer, DPOConfig),
        "KTO": (KTOTrainer, KTOConfig),
        "CPO": (CPOTrainer, CPOConfig),
        "ORPO": (ORPOTrainer, ORPOConfig),
    }
    common = {
        "output_dir": str(tmp_path_factory.mktemp("trl")),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "max_length": 128,
    }

    def trainer(kind, model, rows, reference=None, *, tokenizer=None, **options):
        make, config = kinds[kind]
        return make(
            model=copy.deepcopy(model.module),  # it patches what it is given
            args=config(**common, **options),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=copy.deepcopy(tokenizer or model.tokenizer),
            **({"ref_model": copy.deepcopy(reference.module)} if reference else {}),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: None)  # every trainer would report
        datasets.disable_progress_bars()
        yield trainer
        datasets.enable_progress_bars()


def says(role, text):
    return [{"role": role, "content": text}]


def loss_of(trainer):
    """TRL's loss of the whole data set in one batch, as it collates it, and that batch."""
    rows = trainer.train_dataset
    batch = trainer.data_collator([rows[i] for i in range(len(rows))])
    return trainer.compute_loss(trainer.model, batch), batch


def sums(model, rows):
    """(R,) log-probabilities and numbers of tokens, by our own code."""
    batch = encode_pairs(model, rows)
    with torch.no_grad():
        return completion_logprob(model, batch), batch.completion_mask.sum(-1)


# -- supervised


def sft_rows(examples):
    return [{"prompt": says("user", p), "completion": says("assistant", c)} for p, c in examples]


def test_sft_is_equal_on_prompt_and_completion(trl, tiny_model):
    trainer = trl("SFT", tiny_model, sft_rows(CHOSEN))
    theirs, batch = loss_of(trainer)
    ours = encode_pairs(tiny_model, CHOSEN)
    assert batch["input_ids"].tolist() == ours.input_ids.tolist()  # one bos, one eos, the same padding
    assert (batch["labels"] != -100).tolist() == ours.completion_mask.tolist()
    assert theirs.item() == close(completion_loss(tiny_model, ours, backward=False))


def test_sft_is_equal_where_only_the_assistant_is_learnt(trl, tiny_model):
    """The template must mark what the assistant says for TRL to know it; ours needs no mark."""
    tokenizer = copy.deepcopy(tiny_model.tokenizer)
    reply = "{{ message['content'] + eos_token }}"
    assert reply in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(reply, "{% generation %}" + reply + "{% endgeneration %}")
    rows = [{"messages": says("user", p) + says("assistant", c)} for p, c in CHOSEN]
    theirs, _ = loss_of(trl("SFT", tiny_model, rows, tokenizer=tokenizer, assistant_only_loss=True))
    assert theirs.item() == close(completion_loss(tiny_model, CHOSEN, backward=False))


def test_sft_gradients_of_two_micro_batches_are_those_of_our_one_batch(trl, tiny_model):
    """TRL divides by the tokens of the whole optimiser batch only where it is told them, as its loop does."""
    trainer = trl("SFT", tiny_model, sft_rows(CHOSEN))
    rows = [trainer.train_dataset[i] for i in range(3)]
    total = encode_pairs(tiny_model, CHOSEN).tokens
    for part in (rows[:1], rows[1:]):
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(part), num_items_in_batch=torch.tensor(total))
        loss.backward()
    completion_loss(tiny_model, CHOSEN)
    for ours, theirs in zip(tiny_model.module.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=RTOL, atol=1e-6)


def test_sft_differs_by_the_prompt_where_trl_is_told_to_learn_it(trl, tiny_model):
    rows = sft_rows(CHOSEN)
    theirs, _ = loss_of(trl("SFT", tiny_model, rows, completion_only_loss=False))
    assert theirs.item() == close(loss_on_every_token(tiny_model, CHOSEN))
    assert theirs.item() != close(completion_loss(tiny_model, CHOSEN, backward=False))


def loss_on_every_token(model, examples):
    """Our loss with the prompt learnt as well: every token but the first, which nothing predicts."""
    rows = encode_pairs(model, examples)
    every = rows.attention_mask.bool()
    every[:, 0] = False
    return completion_loss(model, dataclasses.replace(rows, completion_mask=every), backward=False)


# -- pairs


def pair_rows():
    return [
        {"prompt": says("user", p), "chosen": says("assistant", w), "rejected": says("assistant", r)}
        for p, w, r in PAIRS
    ]


def test_dpo_is_equal(trl, make_model):
    model, reference = make_model(), make_model(seed=1)
    theirs, _ = loss_of(trl("DPO", model, pair_rows(), reference, beta=0.3))
    policy, start = (sums(m, CHOSEN + REJECTED)[0] for m in (model, reference))
    assert theirs.item() == close(dpo_loss(policy, start, 0.3))


def test_simpo_is_equal_but_for_cpos_supervised_term(trl, tiny_model):
    """TRL's `loss_type="simpo"` of CPO adds `cpo_alpha` (1 by default) times the loss on chosen completions."""
    options = {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 1.4}
    ours = simpo_loss(*sums(tiny_model, CHOSEN + REJECTED), 2.5, 1.4)
    pure, _ = loss_of(trl("CPO", tiny_model, pair_rows(), cpo_alpha=0.0, **options))
    assert pure.item() == close(ours)
    mixed, _ = loss_of(trl("CPO", tiny_model, pair_rows(), **options))
    assert mixed.item() == close(ours + completion_loss(tiny_model, CHOSEN, backward=False))


def test_orpo_is_equal_but_for_the_prompt_in_its_supervised_term(trl, tiny_model):
    """TRL takes that term over prompt and completion; the odds ratio is the same, and so are both terms corrected."""
    trainer = trl("ORPO", tiny_model, pair_rows(), beta=0.4)
    theirs, _ = loss_of(trainer)
    logprob, tokens = sums(tiny_model, CHOSEN + REJECTED)
    ours = orpo_loss(logprob, tokens, 0.4)
    supervised = completion_loss(tiny_model, CHOSEN, backward=False)
    everything = loss_on_every_token(tiny_model, CHOSEN)
    assert theirs.item() == close(ours - supervised + everything)
    assert theirs.item() != close(ours)
    losses, *_, mean_log_odds = trainer.odds_ratio_loss(*(logprob / tokens).chunk(2))  # of the sign to be subtracted
    assert -losses.mean().item() == close(ours - supervised)
    chosen, rejected = log_odds(logprob / tokens).chunk(2)
    assert mean_log_odds.item() == close((chosen - rejected).mean())


def test_orpo_differs_where_the_model_is_sure_and_trls_gradient_is_no_number(trl, tiny_model):
    """At log P of -1e-8 TRL's value is right, but the branch it does not take has a gradient of 0/0."""
    trainer = trl("ORPO", tiny_model, pair_rows())
    theirs, ours = (torch.tensor([-1e-8, -1.0], requires_grad=True) for _ in range(2))
    losses, *_ = trainer.odds_ratio_loss(*theirs.chunk(2))
    (-losses.mean()).backward()
    orpo_loss(ours, torch.ones(2), 0.1).backward()
    assert not theirs.grad.isfinite().all()
    assert ours.grad.isfinite().all()


@pytest.mark.parametrize("swapped", [False, True])
def test_kto_is_equal_but_for_the_direction_in_which_completions_are_turned(trl, make_model, swapped):
    """TRL gives a row the completion of the row BEFORE it, ours of the one behind: in reverse order they are the same.

    (Ours also leaves out a row that would get a completion of its own prompt; here there is none.) One of the two
    directions of policy and reference has an estimate below 0, which both clamp.
    """
    model, reference = (make_model(seed=s) for s in ((4, 3) if swapped else (3, 4)))
    examples = [*((p, c, True) for p, c in CHOSEN), *((p, c, False) for p, c in REJECTED)]
    rows = [{"prompt": says("user", p), "completion": says("assistant", c), "label": ok} for p, c, ok in examples[::-1]]
    options = {"beta": 0.05, "desirable_weight": 0.8, "undesirable_weight": 1.3}
    trainer = trl("KTO", model, rows, reference, **options)
    theirs, _ = loss_of(trainer)
    crossed = mismatched(CHOSEN + REJECTED)
    ratio, ratio_crossed = (sums(model, r)[0] - sums(reference, r)[0] for r in (CHOSEN + REJECTED, crossed))
    z0 = reference_point(ratio_crossed)
    [kl] = trainer._metrics["eval"]["kl"]
    assert kl == close(z0)
    assert (z0 == 0) == (ratio_crossed.mean() < 0) == swapped
    assert theirs.item() == close(kto_loss(ratio, z0, 0.05, 0.8, 1.3))

"""Dialogue fine-tuning: learn every reply of a conversation at once, so that later questions are answered in context.

Paper: Zhou et al. 2023 (LIMA), arXiv:2305.11206, sec. 2 and 3 (fine-tuning on multi-turn dialogues).
The loss of supervised fine-tuning with m = 1 on the tokens of all assistant turns, the end of each included, and one
forward pass a conversation. Where the turns lie follows from the template itself, never from a search in the text.
Data: conversations. Trains: every weight. Cost: as `sft`, and earlier turns are read once for all replies.
A conversation that is too long loses whole turns from its front, a system turn excepted.
Left out: LIMA's own end-of-turn token (the end of sequence serves), loss on the last turn alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Message, Model, Run, TrainingData, hookimpl
from harness.toolbox import adamw, collate_masked, completion_loss, cosine_with_warmup, set_rate, update


def encode(model: Model, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Ids of a conversation that ends with the assistant, and whether each belongs to a reply or its end.

    Raises:
        ValueError: the template changes earlier turns once later ones follow: what is learnt would never be seen.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, reply = model.encode_prompt(messages[:place]), model.encode_completion(message["content"])
            if prompt[: len(ids)] != ids:
                msg = f"the chat template of {model.name} rewrites earlier turns, so no dialogue can be learnt whole"
                raise ValueError(msg)
            mask += [False] * (len(prompt) - len(ids)) + [True] * len(reply)
            ids = [*prompt, *reply]
    return ids, mask


def fitted(model: Model, messages: Sequence[Message]) -> tuple[list[int], list[bool]] | None:
    """The conversation without as many of its oldest exchanges as do not fit; None where not even the last one does."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    while turns:
        ids, mask = encode(model, [*system, *turns])
        if len(ids) <= model.context:
            return ids, mask
        first = next(place for place, message in enumerate(turns) if message["role"] == "assistant")
        turns = turns[first + 1 :]
    return None


@dataclass(frozen=True)
class Dialogue:
    name: ClassVar[str] = "dialogue"
    family: ClassVar[str] = "fine-tuning"
    needs: ClassVar[tuple[str, ...]] = ("conversations",)
    lr: float = 2e-3
    """Peak learning rate of AdamW; suits models of a million parameters that never read two turns in a row."""
    batch_size: int = 8
    """Conversations an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        found = [fitted(model, conversation.messages) for conversation in data.conversations]
        rows = [row for row in found if row]
        run.ledger.dropped_rows += len(found) - len(rows)
        optimizer = adamw(model, self.lr)
        for batch in run.batches(rows, self.batch_size):
            loss = completion_loss(model, collate_masked(model, batch))
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            run.log(loss=loss)


@hookimpl
def harness_methods() -> list[type]:
    return [Dialogue]

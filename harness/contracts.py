"""The contracts: what a model, dataset, device, metric and method are, and the data that flows between them.

Protocols describe what comes in, frozen dataclasses what flows. There is nothing to inherit. This module imports no
torch, so that `harness ls` can list every plugin in well under a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from harness.meter import Run

FinishReason = Literal["eos", "stop", "length"]
Message = Mapping[str, str]  # {"role": "user" | "assistant" | "system", "content": text}
Prompt = str | Sequence[Message]  # a bare question, or a conversation so far


@dataclass(frozen=True)
class Problem:
    """One item of a dataset. `answer` is the reference: trainers and the verifier see it, `answer` verbs never do."""

    id: str
    prompt: str
    answer: str
    rationale: str | None = None
    """A worked solution without the answer line, where the dataset has one."""
    steps: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    """What the user said before `prompt`: the model answers each in turn, and its own replies stand in the prompt."""


@dataclass(frozen=True)
class Pair:
    """A preference: two completions of one prompt, in the column names of TRL."""

    id: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Conversation:
    """Turns of a dialogue, the last one the assistant's."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Stepwise:
    """A solution in steps, each labelled right or wrong."""

    id: str
    prompt: str
    completions: tuple[str, ...]
    labels: tuple[bool, ...]


@dataclass(frozen=True)
class Instruction:
    """An instruction of one task of many, and the reply to it."""

    id: str
    task: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, the end-of-sequence token included where it was drawn.

    `logprobs` are natural-log probabilities under the sampling temperature, one a token.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: FinishReason


@dataclass(frozen=True)
class Scores:
    """A judgement of one completion, best as chances from 0 to 1: only those are weighed in a vote, or calibrated."""

    total: float
    """Higher is better: how likely the answer is right."""
    steps: tuple[float, ...] = ()
    """How likely all is right up to the end of each step, where the scorer judges steps."""


@dataclass(frozen=True)
class Answer:
    """What an `answer` verb returns: the text to be verified, and all completions that were spent on it."""

    text: str
    completions: tuple[Completion, ...] = ()


@dataclass(frozen=True)
class ModelSize:
    """What the FLOPs estimate needs: parameter count N, layers L, width d."""

    parameters: int
    layers: int
    width: int


class Device(Protocol):
    """Where tensors live and how time and memory are read there."""

    name: str
    """`cpu`, `cuda` or `mps`, as torch spells it."""

    def available(self) -> bool:
        """Whether this machine has it."""

    def dtype(self) -> torch.dtype:
        """The floating type models are held in on this device."""

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module here, in `dtype`."""

    def synchronize(self) -> None:
        """Wait until queued work is done: called on both sides of everything that is timed."""

    def reset_peak_memory(self) -> None:
        """Forget the peak so far, where the device can."""

    def peak_memory_bytes(self) -> int:
        """Highest memory in use since the reset (on CPU: of the process)."""

    def seed(self, seed: int) -> None:
        """Seed every generator of this device."""

    def describe(self) -> Mapping[str, Any]:
        """Facts of the machine for the record: name, threads, dtype."""


class Adapter(Protocol):
    """Trained parts beside the weights of a model, hooked into its linear layers or its embedding."""

    virtual_tokens: int
    """Trained positions that every prompt begins with; their token ids follow those of the vocabulary."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What training may change."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Its tensors by name."""

    def save(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, in PEFT's layout where PEFT has the method."""


class Model(Protocol):
    """A causal language model with its tokenizer and its one template."""

    name: str
    module: torch.nn.Module
    """The transformers model: `module(input_ids=..., attention_mask=...).logits`."""
    tokenizer: PreTrainedTokenizerBase
    device: Device
    heads: torch.nn.ModuleDict
    """Named extra heads (a scalar reward head, a critic), saved and loaded with the weights."""
    adapter: Adapter | None
    """What a parameter-efficient method trained; saved beside the weights, put back by the method's `attach`."""

    @property
    def size(self) -> ModelSize:
        """Parameter count, layers, width."""

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""

    @property
    def eos(self) -> int:
        """Token id that ends a completion."""

    @property
    def pad(self) -> int:
        """Token id that fills; never the same as `eos`."""

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a rendered prompt, up to where the completion begins."""

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, `eos` included."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Every parameter there is, frozen or not: the module's, the heads' and the adapter's."""

    def clone(self) -> Model:
        """An independent copy with the same weights."""

    def save(self, folder: Path) -> None:
        """Write safetensors in the Hugging Face layout."""

    def restore(self, folder: Path) -> Model:
        """Load what `save` wrote to `folder`, as a model like this one."""

    def fingerprint(self) -> str:
        """sha256 over all weights: equal exactly when the weights are equal."""


@dataclass(frozen=True)
class TrainingData:
    """What a trainer sees: the train split and its views, and dev for its own choices. Never test."""

    problems: Sequence[Problem]
    dev: Sequence[Problem]
    verify: Callable[[Problem, str], tuple[bool, str | None]]
    render_target: Callable[[Problem, bool], str]
    """`render_target(problem, rationale)`: the completion to learn, with or without the worked solution."""
    pairs: Sequence[Pair] = ()
    conversations: Sequence[Conversation] = ()
    stepwise: Sequence[Stepwise] = ()
    instructions: Sequence[Instruction] = ()
    corpus: Sequence[str] = ()
    """Plain text of the domain, for continued pretraining."""
    general: Sequence[tuple[str, str]] = ()
    """(prompt, completion) of what the model knew before the domain came: replayed, so that it is not forgotten."""
    general_dev: Sequence[tuple[str, str]] = ()
    """The same, held out: its loss before and after training is the forgetting."""
    check_steps: Callable[[Problem, str], tuple[bool, ...]] | None = None
    """Whether all is right up to the end of each step of a completion, where the dataset can tell: `StepChecker`."""


VIEWS = {
    "pairs": "prompt, chosen, rejected",
    "conversations": "messages",
    "stepwise": "prompt, completions, labels",
    "instructions": "task, prompt, completion",
    "corpus": "text",
}
"""Views of the train split that a method may need, and the columns each is read from."""


class Dataset(Protocol):
    """Problems in three splits, the views of them that methods need, and the one verifier for reward and eval."""

    @property
    def name(self) -> str:
        """The name it is known by."""

    @property
    def test(self) -> Sequence[Problem]:
        """The problems that are answered and verified."""

    def training(self) -> TrainingData:
        """Train and dev splits with their views."""

    def verify(self, problem: Problem, text: str) -> tuple[bool, str | None]:
        """Whether the last answer in `text` is right, and that answer (None: nothing to be parsed, which is wrong)."""


@runtime_checkable
class StepChecker(Protocol):
    """A dataset that knows of every step of a solution whether it is right."""

    def check_steps(self, problem: Problem, text: str) -> tuple[bool, ...]:
        """Whether all is right up to the end of each step of `text`; empty where nothing can be said of it."""


@runtime_checkable
class Trainer(Protocol):
    """A method that changes weights."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        """Train `model` in place until `run`'s budget ends."""


@runtime_checkable
class Attacher(Protocol):
    """A trainer whose checkpoint is an adapter beside the frozen weights of its start."""

    def attach(self, model: Model, folder: Path) -> None:
        """Put the adapter that was saved to `folder` into `model`, which holds the weights it was trained on."""


@runtime_checkable
class Answerer(Protocol):
    """A method that spends compute at test time."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        """Answer one prompt: a question, or a conversation that ends in one.

        Questions are run side by side, and their sampling is batched by the harness.
        """


@runtime_checkable
class Preparer(Protocol):
    """An answerer that looks at train, or tries itself on dev, before the first question."""

    def prepare(self, model: Model, data: TrainingData, run: Run) -> Answerer:
        """The method that then answers: a frozen dataclass as well, with what was found; `self`, if nothing was.

        `run` can sample and score, without a budget; its seconds and tokens are a cost of training: paid once for a
        model and a dataset, and not for a question. No weight may change. What was found is kept for the timing of
        the row if it is plain values and tuples of them; otherwise the timing calls this again.
        """


@runtime_checkable
class Scorer(Protocol):
    """A method that judges completions of a prompt."""

    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        """One judgement a completion, in their order."""


class Method(Protocol):
    """A frozen dataclass with at least one verb (`train`, `answer`, `score`); its fields are its hyper-parameters."""

    name: ClassVar[str]
    """kebab-case, unique."""
    family: ClassVar[str]
    """`fine-tuning`, `reinforcement-learning`, `test-time` or `control`."""
    after: ClassVar[tuple[str, ...]]
    """Names of the stages this method comes after by default, first to last; empty: the base model."""
    needs: ClassVar[tuple[str, ...]]
    """Views of the data it cannot do without, and `scorer` where it asks for scores. None by default."""
    models: ClassVar[tuple[str, ...]]
    """Its fields that name another model: a teacher, a judge. None by default."""
    scales: ClassVar[str]
    """Of an answerer: its whole-number field that says how much a question is given, samples or beams, say. Curves of
    accuracy over tokens vary it. None by default."""
    trains_policy: ClassVar[bool]
    """Of a trainer that scores: its checkpoint is a policy as well, which answers like any other. False by default."""


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be loaded by name. `revision` identifies the weights without loading them."""

    name: str
    summary: str
    load: Callable[[Device], Model]
    revision: Callable[[], str]


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset that can be loaded by name. `revision` identifies the rows without loading them."""

    name: str
    summary: str
    load: Callable[[], Dataset]
    revision: Callable[[], str]
    max_new_tokens: int = 256
    """Longest completion that an answer to this dataset needs (beyond the 99th percentile of its rationales)."""
    train_tokens: int = 1_000_000
    """Default training budget: tokens trained on, sampled and scored, a teacher's not counted; the same for all."""
    limit: int | None = None
    """Test problems of an ordinary run, from the first; None: all."""


@dataclass(frozen=True)
class DeviceSpec:
    """A device that can be made by name."""

    name: str
    summary: str
    make: Callable[[], Device]


@dataclass(frozen=True)
class Metric:
    """Facts of one cell in, figures out; pure, so that boards can be made again from the facts alone."""

    name: str
    summary: str
    figures: Callable[[Mapping[str, Any]], Mapping[str, float | None]]
    columns: tuple[str, ...] = field(default=())
    """Keys of `figures` that are shown on the accuracy board beside the fixed ones."""

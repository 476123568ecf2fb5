"""One optimiser step of supervised fine-tuning on 16 examples."""

import dataclasses

from harness_finetuning.sft import SFT


def test_sft(benchmark, one_step, world):
    data = world.training()
    few = dataclasses.replace(data, problems=data.problems[:16])
    run = benchmark(one_step, SFT(), few)
    assert len(run.curve) == 1

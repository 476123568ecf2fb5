"""One optimiser step of DPO on 4 preference pairs."""

import dataclasses

from harness_rl.dpo import DPO


def test_dpo(benchmark, one_step, world):
    data = world.training()
    few = dataclasses.replace(data, pairs=data.pairs[:4])
    run = benchmark(one_step, DPO(batch_size=4), few)
    assert len(run.curve) == 1

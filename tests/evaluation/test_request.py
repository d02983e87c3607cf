"""Ways of sampling: what is named, what is usual where nothing is, and what is MDM's alone."""

import dataclasses

import pytest
from untrained import REQUEST

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.arithmetic import USUAL
from flexmdm_jax.evaluation.request import Usual
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import Adaptive, ExactRate, SamplerConfig
from flexmdm_jax.types import Vocabulary

V = Vocabulary(size=8, mask=6, end=7)
FLEXMDM, MDM = Process(V), Process.mdm(V)
LENGTH = 512
UNSAID = dataclasses.replace(REQUEST, rules=("",), temperatures=(), sampling={}, steps=(64,))


def ways(process, usual=USUAL, **changes):
    return list(dataclasses.replace(UNSAID, **changes).ways(process, LENGTH, usual))


def test_gsm8k_is_sampled_as_in_the_paper_unless_told_otherwise():
    """Appendix F.3: γ₁ = 5, γ₂ = 64, temperature 0; of MDM confidence, and in blocks."""
    [way] = ways(FLEXMDM)
    rule = Adaptive("top_prob", window_factor=5.0, window_size=64)
    assert way.sampler == SamplerConfig(steps=64, rule=rule, temperature=0.0)
    assert way.name == "adaptive:window_size=64, 64 steps"
    whole, blocks = ways(MDM)
    assert whole.sampler == SamplerConfig(steps=64, rule=Adaptive(), temperature=0.0)
    assert blocks.sampler == dataclasses.replace(whole.sampler, block_length=32)
    assert [x.name for x in (whole, blocks)] == [
        "adaptive, 64 steps",
        "adaptive, blocks of 32, 64 steps",
    ]


def test_each_way_is_one_and_has_a_name_of_its_own():
    usual_and_named = ways(MDM, rules=("", "adaptive"))
    assert [x.name for x in usual_and_named] == [
        "adaptive, 64 steps",
        "adaptive, blocks of 32, 64 steps",
    ]
    close = {"temperatures": (0.5, 0.50000001), "events_per_step": (2.0, 2.00000001)}
    found = ways(FLEXMDM, steps=(), **close)
    assert len({x.name for x in found}) == len({x.sampler for x in found}) == 4


@pytest.mark.parametrize("process", [FLEXMDM, MDM])
def test_what_is_named_is_not_what_is_usual(process):
    [way] = ways(process, rules=("exact_rate",), temperatures=(0.5,))
    assert way.sampler == SamplerConfig(steps=64, rule=ExactRate(), temperature=0.5)
    [way] = ways(process, sampling={"sampler": "paper"})
    assert way.sampler == SamplerConfig.paper(64, temperature=0.0)
    for way in ways(process, temperatures=(0.5,)):
        assert isinstance(way.sampler.rule, Adaptive)
        assert way.sampler.temperature == 0.5
    [way] = ways(process, Usual())
    assert way.sampler == SamplerConfig(steps=64)


def test_usual_blocks_are_left_out_where_they_cannot_be_or_change_nothing():
    assert [x.name for x in ways(MDM, steps=())] == ["adaptive, adaptive steps"]
    assert [x.name for x in ways(MDM, steps=(15,))] == ["adaptive, 15 steps"]
    assert [x.name for x in ways(MDM, sampling={"corrector": "remask"})] == ["adaptive, 64 steps"]
    on_canvases = ways(MDM, steps=(15,), canvas=(32, 33, 480, 481))
    in_blocks = [x.canvas for x in on_canvases if x.sampler.block_length]
    assert in_blocks == [33, 480]
    assert [x.canvas for x in on_canvases if not x.sampler.block_length] == [32, 33, 480, 481]


def test_canvases_and_blocks_are_ways_of_mdm_alone():
    named = {"canvas": (64, 128), "block_length": (0, 16)}
    several = {"steps": (32, 64), "canvas": (64, 128), "block_lengths": (0, 16)}
    found = ways(MDM, **several)
    assert len({x.name for x in found}) == len(found) == 8
    assert "adaptive, blocks of 16, 32 steps, canvas 128" in {x.name for x in found}
    assert {x.curve for x in found} == {
        f"adaptive{blocks}, canvas {n}" for blocks in ("", ", blocks of 16") for n in (64, 128)
    }
    assert [x.name for x in ways(FLEXMDM, **several)] == [
        f"adaptive:window_size=64, {steps} steps" for steps in (32, 64)
    ]
    for name, values in named.items():
        key = "block_lengths" if name == "block_length" else name
        request = dataclasses.replace(UNSAID, **{key: values})
        request.check_fixed([FLEXMDM, MDM])
        with pytest.raises(UserError, match=f"--{name} is for MDM"):
            request.check_fixed([FLEXMDM, FLEXMDM])
    UNSAID.check_fixed([FLEXMDM])


def test_what_cannot_be_is_refused():
    assert ways(MDM, canvas=(LENGTH,))
    with pytest.raises(UserError, match="a canvas of 513 slots: MDM's rows have 512"):
        ways(MDM, canvas=(LENGTH + 1,))
    with pytest.raises(UserError, match="15 steps cannot fill the 16 blocks of 32 that 512 slots"):
        ways(MDM, steps=(15,), block_lengths=(32,))
    with pytest.raises(UserError, match="block_length = 32 needs a number of steps"):
        dataclasses.replace(UNSAID, steps=(), block_lengths=(32,))

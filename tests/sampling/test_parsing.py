"""Samplers as users write them: what each text means, and one line for what contradicts itself."""

import pytest

from flexmdm_jax.errors import UserError
from flexmdm_jax.sampling import (
    Binomial,
    EntropyBound,
    EventByEvent,
    EventsPerStep,
    ExactRate,
    Grid,
    Poisson,
    Remask,
    SamplerConfig,
    TauLeaping,
    Threshold,
    parse_sampler,
)
from flexmdm_jax.schedules import Linear, Power


def test_nothing_said_is_the_default():
    texts = {"rule": "", "insertions": "", "grid": "", "corrector": ""}
    numbers = {"steps": 0, "temperature": 1.0, "top_p": 1.0, "min_length": 0}
    assert parse_sampler(**texts, **numbers) == SamplerConfig()
    assert isinstance(SamplerConfig().pace, EventsPerStep)
    assert SamplerConfig().insertions == Binomial()


def test_steps_make_a_grid_and_a_temperature_of_zero_is_zero():
    sampler = parse_sampler(steps=7, temperature=0.0)
    assert sampler.pace == Grid(Power(2.5), insert_rest=True)
    assert (sampler.steps, sampler.temperature) == (7, 0.0)
    assert parse_sampler("grid", steps=7) == SamplerConfig(steps=7)


def test_the_papers_sampler():
    sampler = parse_sampler("paper", steps=9, top_k=3)
    assert sampler.pace == Grid(Linear(), insert_rest=False)
    assert (sampler.rule, sampler.insertions) == (TauLeaping(), Poisson())
    assert (sampler.steps, sampler.top_k) == (9, 3)


def test_the_exact_sampler():
    sampler = parse_sampler("exact", corrector="remask:size=0.2,every=0.5")
    assert sampler.pace == EventByEvent()
    assert (sampler.rule, sampler.corrector) == (ExactRate(), Remask(0.2, 0.5))


def test_rules_of_sure_tokens():
    assert parse_sampler(rule="threshold:threshold=0.5").rule == Threshold(0.5)
    assert parse_sampler(rule="entropy_bound:bound=0").rule == EntropyBound(0.0)


# What is said -> the one line that answers.
WRONG = [
    ({"sampler": "fast"}, "unknown sampler 'fast'"),
    ({"sampler": "grid"}, "sampler 'grid' needs a number of steps"),
    ({"sampler": "paper"}, "sampler 'paper' needs a number of steps"),
    ({"sampler": "exact", "steps": 4}, "sampler 'exact' takes no steps; leave out steps = 4"),
    ({"sampler": "adaptive", "steps": 4}, "sampler 'adaptive' takes no steps"),
    ({"steps": 4, "events_per_step": 2.0}, "events_per_step is for adaptive steps"),
    ({"events_per_step": -1.0}, "events_per_step = -1.0; it must be positive"),
    ({"sampler": "exact", "events_per_step": 2.0}, "events_per_step is for adaptive steps"),
    ({"grid": "sine"}, "sampler 'adaptive' takes no grid 'sine'"),
    ({"sampler": "paper", "steps": 4, "rule": "adaptive"}, "sampler 'paper' takes no rule"),
    ({"sampler": "exact", "rule": "tau_leaping"}, "tau_leaping needs steps"),
    ({"finish_below": 1.0}, "finish_below = 1.0; it must lie in [0, 1)"),
    ({"finish_below": -0.1}, "finish_below = -0.1; it must lie in [0, 1)"),
    ({"corrector": "remask:size=0"}, "size = 0.0; it must lie in (0, 1]"),
    ({"corrector": "remix"}, "unknown corrector 'remix'; did you mean 'remask'?"),
    ({"steps": 8, "block_length": 2, "corrector": "remask"}, "leave the corrector out"),
    ({"rule": "threshold:threshold=0"}, "threshold = 0.0; it must lie in (0, 1]"),
    ({"rule": "entropy_bound:bound=-1"}, "bound = -1.0; it must be at least 0"),
    ({"min_length": 9, "max_length": 8}, "min_length = 9 is more than max_length = 8"),
    ({"min_length": 9, "insertions": "poisson"}, "min_length = 9: neither Poisson insertions nor"),
    ({"block_length": 4}, "block_length = 4 needs a number of steps"),
    ({"sampler": "exact", "insertions": "poisson"}, "sampler 'exact' takes no insertion rule"),
    ({"sampler": "exact", "rule": "threshold"}, "thresholds and bounds need steps"),
    ({"steps": 8, "corrector": "remask:every=1"}, "a grid has no steps left at its end"),
    ({"steps": 1, "min_length": 2}, "min_length = 2 takes two calls of the network"),
    ({"top_p": 0.0}, "top_p = 0.0; it must lie in (0, 1]"),
]


@pytest.mark.parametrize(("said", "answer"), WRONG)
def test_what_contradicts_itself_gets_one_line(said, answer):
    with pytest.raises(UserError) as raised:
        parse_sampler(**said)
    assert answer in str(raised.value)
    assert "\n" not in str(raised.value)


def test_numbers_are_no_kinds():
    """Samplers that differ in numbers alone share a program."""
    one = SamplerConfig(events_per_step=2.0, temperature=0.3, finish_below=0.1, min_length=3)
    assert one.kinds == SamplerConfig().kinds
    assert SamplerConfig(steps=64).kinds == SamplerConfig(steps=9, max_calls=3).kinds
    kinds = {SamplerConfig(**x).kinds for x in ({}, {"steps": 1}, {"exact": True}, {"top_k": 5})}
    assert len(kinds) == 4
    assert SamplerConfig(top_k=5).kinds == SamplerConfig(top_p=0.4).kinds

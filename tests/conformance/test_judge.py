"""The judge lets right samplers pass and catches those that make a known mistake."""

import dataclasses
import doctest

import jax
import numpy as np
import pytest
from effort import either
from leaping import MISTAKES, Leaping, tokens_by_coarse_noise

import flexmdm_jax.conformance
from flexmdm_jax.conformance import Law, convergence, judge, judge_all, problems, table
from flexmdm_jax.conformance.judge import NUM_DEVIATIONS
from flexmdm_jax.sampling import SamplerConfig, generate

PROBLEMS = problems()
# The others take more steps than a quick test has.
SHORT = ("short_words", "prefix", "infilling", "long_run", "large_vocabulary", "long_word")
STEPS_OF_ANOTHER = {"long_run": 256}
CAUGHT_BY = {
    "softmax": "short_words",
    "rate": "short_words",
    "shift": "long_run",
    "overflow": "long_word",
    "end": "short_words",
    "end_cut": "short_words",
}


def exact_draws(problem, seed=0):
    """Returns a sampler that knows the law."""

    def sample(keys, denoiser, canvas, process):
        rng = np.random.default_rng([seed, *np.asarray(jax.random.key_data(keys))[0]])
        probs = np.array(problem.law.probs) / sum(problem.law.probs)
        choice = rng.choice(len(probs), size=len(keys), p=probs)
        batch = problem.law.rows(choice, canvas.tokens.shape[1])
        return batch.tokens, batch.segment_ids.sum(axis=1) - 1

    return sample


def ours(keys, denoiser, canvas, process):
    """Draws with the package's exact sampler."""
    sampler = SamplerConfig(exact=True)
    run = jax.jit(lambda keys, canvas: generate(keys, denoiser, canvas, sampler, process))
    x = run(keys, canvas)
    assert not x.broken.any()
    return x.tokens, x.lengths, x.calls


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_draws_follow_their_law(name):
    for seed in range(2):
        judged = judge(exact_draws(PROBLEMS[name], seed), PROBLEMS[name], seed=seed)
        assert judged.follows, judged.reasons
        assert judged.mean_calls is None
        assert judged.num_invalid == judged.num_outside == 0
        # The standard deviation of exact draws is below McDiarmid's bound.
        assert judged.margin <= NUM_DEVIATIONS / (2 * judged.num_samples**0.5)


def test_exact_draws_of_a_neighbouring_law_do_not():
    """A twentieth of one sequence's mass is moved to another."""
    problem = PROBLEMS["short_words"]
    probs = np.array(problem.law.probs)
    probs[4], probs[0] = probs[4] - 0.05, probs[0] + 0.05
    other = dataclasses.replace(problem, law=dataclasses.replace(problem.law, probs=(*probs,)))
    assert not judge(exact_draws(other), problem).follows


# A slot of the large vocabulary takes longer than whole rows of the others.
ROWS = {"large_vocabulary": either(100, 8_000), "long_word": 100}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_packages_exact_sampler_follows_each_law(name):
    judged = judge(ours, PROBLEMS[name], num_samples=ROWS.get(name, either(1_000, 4_000)))
    print(table([judged]))
    assert judged.follows, judged.reasons


@pytest.mark.parametrize("name", SHORT)
def test_another_sampler_follows_the_laws(name):
    sampler = Leaping(steps=STEPS_OF_ANOTHER.get(name, 64))
    judged = judge(sampler, PROBLEMS[name])
    print(table([judged]))
    assert judged.follows, judged.reasons
    assert judged.mean_calls == sampler.steps


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_caught(mistake):
    name = CAUGHT_BY[mistake]
    sampler = Leaping(steps=STEPS_OF_ANOTHER.get(name, 64), mistake=mistake)
    judged = judge(sampler, PROBLEMS[name])
    print(table([judged]))
    assert not judged.follows, MISTAKES[mistake]
    assert (judged.num_invalid > 0) == (mistake == "end")


def test_a_lost_tail_is_caught_though_its_tokens_are_few():
    judged = judge(Leaping(draw=tokens_by_coarse_noise), PROBLEMS["large_vocabulary"])
    assert judged.reasons == (f"a token is {judged.token_deviation:.1f} deviations off",)


def test_coarse_noise_does_no_harm_where_no_token_is_rare():
    assert judge(Leaping(draw=tokens_by_coarse_noise), PROBLEMS["short_words"]).follows


def test_total_variation_falls_with_the_steps():
    problem = PROBLEMS["short_words"]
    found = convergence(lambda n: Leaping(steps=n), (64, 4), problem)
    assert found.calls == (4, 64)
    assert found.converges
    few, many = found.judgements
    assert not few.follows
    assert few.total_variation > 2 * many.total_variation
    assert not convergence(lambda n: Leaping(steps=n), (2, 4), problem).converges
    assert convergence(lambda n: Leaping(steps=n), (2, 4), problem, tolerance=0.5).converges
    wrong = convergence(lambda n: Leaping(steps=n, mistake="rate"), (4, 64), problem)
    assert not wrong.converges
    with pytest.raises(ValueError, match="no number of calls"):
        convergence(Leaping, (), problem)


def test_rows_in_batches_are_judged_together():
    problem = PROBLEMS["short_words"]
    sizes = []

    def sample(keys, denoiser, canvas, process):
        sizes.append(len(keys))
        assert len(canvas.tokens) == len(keys)
        tokens, lengths = exact_draws(problem)(keys, denoiser, canvas, process)
        return tokens, lengths, np.full(len(keys), len(sizes))

    judged = judge(sample, problem, num_samples=1_000, batch=400)
    assert sizes == [400, 400, 200]
    assert judged.mean_calls == pytest.approx((400 + 800 + 600) / 1_000)
    assert judged.num_samples == 1_000
    assert judged.follows


def test_rows_that_are_no_sequences_are_counted():
    law = PROBLEMS["short_words"].law
    mask, end = law.vocabulary.mask, law.vocabulary.end
    bad = [[0, mask, 0], [0, end, 0], [0, 99, 0], [0, -1, 0], [4, 4, 4], [0, 2, 0], [0, mask, end]]
    tokens, lengths = np.array(bad), np.array([3, 3, 3, 3, 3, 3, 1])
    judged = judge(lambda *_: (tokens, lengths), PROBLEMS["short_words"], num_samples=7)
    assert judged.num_invalid == 4
    assert judged.num_outside == 5
    assert not judged.follows
    assert judged.reasons[0] == "4 rows hold MASK, END or no token"


TOKENS, LENGTHS = np.zeros((5, 3), int), np.zeros(5, int)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((TOKENS,), "returns"),
        (None, "returns"),
        ((TOKENS[0], LENGTHS), "tokens are int64"),
        ((TOKENS[:4], LENGTHS), "tokens are int64"),
        ((TOKENS + 0.5, LENGTHS), "tokens are float64"),
        ((TOKENS, LENGTHS[:4]), "lengths are int64"),
        ((TOKENS, LENGTHS + 4), "3 slots"),
        ((TOKENS, LENGTHS - 1), "3 slots"),
        ((TOKENS, LENGTHS, 7), "calls"),
    ],
)
def test_a_sampler_that_returns_something_else_is_told(result, message):
    with pytest.raises(ValueError, match=message):
        judge(lambda *_: result, PROBLEMS["short_words"], num_samples=5)


def test_a_table_has_a_line_for_each_judgement():
    problem = PROBLEMS["long_word"]
    right = judge(exact_draws(problem), problem)
    wrong = judge(lambda *_: (TOKENS, LENGTHS, LENGTHS + 3), problem, num_samples=5)
    head, rule, *lines = table([right, wrong]).splitlines()
    assert head.count("|") == rule.count("|") == lines[0].count("|")
    assert lines[0] == "| long_word | 500 |  | 0.0 | 0.0 | 0.0 | 0.0 | 0 | follows |"
    assert lines[1].startswith("| long_word | 5 | 3.0 | 1000.0 | 0.0 | 0.0 | 1000.0 | 5 | FAILS: ")


def test_the_packages_example_runs():
    def theirs(keys, encode, decode, canvas, process):
        denoiser = flexmdm_jax.types.Denoiser(encode, decode)
        return Leaping(steps=4)(keys, denoiser, canvas, process)[:2]

    def few(sample):
        return judge_all(sample, num_samples=20)

    names = {"theirs": theirs, "judge_all": few, "table": table}
    for example in doctest.DocTestParser().get_examples(flexmdm_jax.conformance.__doc__):
        exec(example.source, names)
    assert [x.problem for x in names["judgements"]] == list(PROBLEMS)
    assert len(names["report"].splitlines()) == 2 + len(PROBLEMS)


def test_a_law_refuses_what_is_none():
    with pytest.raises(ValueError, match="sum to"):
        Law(((0,), (2,)), (0.5, 0.4))
    with pytest.raises(ValueError, match="different sequences"):
        Law(((0,), (0,)), (0.5, 0.5))

"""The harness' tasks on a law that is known: what they say of it is what an enumeration says."""

import collections
import dataclasses
import functools
import inspect
import json
import logging
import math
import os
import pathlib
import random
import re
import runpy
import shlex
import subprocess
import sys

# Before the harness' libraries are imported: nothing of it may ask the network.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import jax
import jax.numpy as jnp
import numpy as np
import page_files
import pytest
import tiny
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.utils import warning_once
from untrained import write_run

from flexmdm_jax.compiled import AUTO
from flexmdm_jax.config import read_config
from flexmdm_jax.conformance import Law, flexmdm_oracle, mdm_oracle
from flexmdm_jax.data.tokenizers import ByteTokenizer, SymbolTokenizer
from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation.harness import _ARGUMENTS, HarnessModel
from flexmdm_jax.generation.scoring import Score
from flexmdm_jax.model import Model
from flexmdm_jax.sharding import make_mesh
from flexmdm_jax.training.state import Setup
from flexmdm_jax.training.workdir import Experiment

# p to s only begin a text, so its denoiser is exact as well where they are given. Behind s, x and y
# are alike.
CHANCES = {
    **{"p x": 0.04, "p y": 0.12, "p x y": 0.30, "p x y z": 0.09},
    **{"q x": 0.10, "q x z": 0.02, "q z": 0.03},
    **{"z": 0.05, "r y x z": 0.17, "s x": 0.04, "s y": 0.04},
}
TOKENIZER = SymbolTokenizer.of("pqrsxyz")
LAW = Law(
    tuple(tuple(TOKENIZER.encode(text)) for text in CHANCES),
    tuple(CHANCES.values()),
    TOKENIZER.vocabulary,
)
LENGTH = 8


@dataclasses.dataclass(frozen=True)
class KnownSetup(Setup):
    """Of a network that is the law's exact denoiser."""

    def denoiser(self, params, dropout_keys=None):
        """Returns it."""
        del params, dropout_keys
        return ORACLES[self.process.inserts]


# MDM's rows are as long as its table.
ORACLES = {True: flexmdm_oracle(LAW), False: mdm_oracle(LAW, LAW.max_length + 1)}


def model(method="flexmdm"):
    values = tiny.config_at("nowhere") | {"method": method}
    values["data"]["max_length"] = LENGTH if method == "flexmdm" else LAW.max_length + 1
    config = read_config(values)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    setup = Setup.of(config, TOKENIZER.vocabulary, mesh)
    known = KnownSetup(setup.model, mesh, setup.process)
    experiment = Experiment(config, TOKENIZER.vocabulary, "")
    return Model(experiment, known, TOKENIZER, 7, {"a": jnp.zeros(1)})


def harness(method="flexmdm", **settings):
    """Returns the law's model; two rows of four times at a time, so that there are few programs."""
    return HarnessModel(model(method), **{"num_times": 4, "batch_size": 2} | settings)


def asked(kind, *arguments, document=None):
    """Returns requests of a kind, each of a document of its own unless told."""
    return [
        Instance(kind, document or {"number": n}, argument, 0, metadata=("t", n, 1))
        for n, argument in enumerate(arguments)
    ]


def log_chance(context, continuation):
    """Returns log p of a continuation and the end, by enumeration."""
    given = context.split()
    total = sum(p for text, p in CHANCES.items() if text.split()[: len(given)] == given)
    return math.log(CHANCES[" ".join(given + continuation.split())] / total)


QUESTIONS = [
    {"question": "p", "choices": ["x", "y"], "gold": 1},
    {"question": "p", "choices": ["x", "y", "x y"], "gold": 1},
    {"question": "q", "choices": ["z", "x", "x z"], "gold": 1},
    {"question": "q", "choices": ["x z", "x"], "gold": 0},
    {"question": "", "choices": ["z", "r y x z"], "gold": 1},
]
CHOICES = """
task: known_choices
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: gold
"""
# Of an answer "y x z" what stands before the z counts.
ANSWERS = [{"question": "r", "answer": "y x"}, {"question": "r", "answer": "y x z"}]
TEXTS = """
task: known_answers
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["q", "z"], max_gen_toks: 5}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [" "]
"""
WHOLE = """
task: known_texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with tasks of our own, and with their documents."""
    folder = tmp_path_factory.mktemp("tasks")
    whole = [{"text": text} for text in CHANCES]
    for task, documents in ((CHOICES, QUESTIONS), (TEXTS, ANSWERS), (WHOLE, whole)):
        name = task.split()[1]
        lines = folder / f"{name}.jsonl"
        lines.write_text("".join(json.dumps(document) + "\n" for document in documents))
        where = {"data_files": {"test": str(lines)}, "cache_dir": str(folder / "cache")}
        data = {"dataset_path": "json", "dataset_kwargs": where, "test_split": "test"}
        more = "".join(f"{key}: {json.dumps(value)}\n" for key, value in data.items())
        (folder / f"{name}.yaml").write_text(task + more)
    return folder


def test_tasks_come_out_as_an_enumeration_says(tasks, monkeypatch):
    # It asks pip and the GPU's driver what there is.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    found = simple_evaluate(
        harness(num_times=512, batch_size=8),
        tasks=["known_choices", "known_answers", "known_texts"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    right = []
    for document, sample in zip(QUESTIONS, found["samples"]["known_choices"], strict=True):
        truth = [log_chance(document["question"], choice) for choice in document["choices"]]
        right.append(np.argmax(truth) == document["gold"])
        bounds = [nats for nats, _ in sample["filtered_resps"]]
        assert np.argsort(bounds).tolist() == np.argsort(truth).tolist()
    assert 0 < np.mean(right) < 1
    assert found["results"]["known_choices"]["acc,none"] == np.mean(right)
    assert found["results"]["known_answers"]["exact_match,none"] == 0.5
    nats = -sum(log_chance("", text) for text in CHANCES)
    words = sum(len(text.split()) for text in CHANCES)
    perplexity = found["results"]["known_texts"]["word_perplexity,none"]
    assert math.log(perplexity) == pytest.approx(nats / words, abs=0.1)
    assert found["config"]["model_step"] == 7


def nats_of(lm, pairs, **more):
    return np.array([nats for nats, _ in lm.loglikelihood(asked("loglikelihood", *pairs, **more))])


def test_bounds_are_the_law_and_charge_the_end():
    """Of each continuation by itself, since the exact denoiser's bound is tight for each."""
    pairs, copies = [("p", " x"), ("p", " x y"), ("q", " z"), ("", "z"), ("s", " x")], 100
    nats = nats_of(harness(), pairs * copies).reshape(copies, -1)
    errors = nats.std(axis=0) / copies**0.5
    assert errors.max() < 0.3
    truth = [log_chance(*pair) for pair in pairs]
    np.testing.assert_array_less(np.abs(nats.mean(axis=0) - truth), 4 * errors)


def test_order_and_company_change_nothing():
    lm = harness()
    pairs = [(x["question"], f" {choice}") for x in QUESTIONS for choice in x["choices"]]
    requests = asked("loglikelihood", *pairs)
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    nats = np.array([x for x, _ in lm.loglikelihood(requests)])
    shuffled = [x for x, _ in lm.loglikelihood([requests[i] for i in order])]
    np.testing.assert_allclose(shuffled, nats[order], rtol=1e-5)
    some = [x for x, _ in lm.loglikelihood(requests[3:])]
    np.testing.assert_allclose(some, nats[3:], rtol=1e-5)
    assert not np.allclose(nats_of(harness(seed=1), pairs), nats, rtol=1e-2)
    prompts = [(prompt, {"do_sample": True}) for prompt in ("p", "q", "r", "", "p", "q")]
    texts = lm.generate_until(asked("generate_until", *prompts))
    alone = [lm.generate_until(asked("generate_until", prompt)) for prompt in prompts[:4]]
    assert [[text] for text in texts[:4]] == alone
    backwards = lm.generate_until(asked("generate_until", *prompts[3::-1]))
    assert backwards[::-1] == texts[:4]


def test_choices_are_compared_with_one_noise():
    """Those of a document that the law does not tell apart come out alike, whatever the noise."""
    pairs = [("s", " x"), ("s", " y")]
    documents = [{"number": number} for number in range(3)]
    found = [nats_of(harness(), pairs, document=document) for document in documents]
    for first, second in found:
        assert first == pytest.approx(second, rel=1e-5)
    assert np.ptp([first for first, _ in found]) > 0.01


def test_samples_follow_the_law():
    """One for each time that a request comes; by temperature 0 the likeliest tokens."""
    lm, num = harness(sampler="exact", batch_size=64), 200
    answers = {"": 0.0, " x": 0.10 / 0.15, " x z": 0.02 / 0.15, " z": 0.03 / 0.15}
    requests = asked("generate_until", *[("q", {"do_sample": True})] * num)
    counts = collections.Counter(lm.generate_until(requests))
    assert set(counts) <= set(answers)
    for text, chance in answers.items():
        error = (chance * (1 - chance) / num) ** 0.5
        assert counts[text] / num == pytest.approx(chance, abs=4 * error), text
    cold = lm.generate_until(asked("generate_until", *[("q", {"until": []})] * 40))
    assert set(cold) == {" x", " x z"}


def test_texts_end_before_the_first_stop_string():
    lm, stops = harness(), {"z": " y x ", " x": " y", "y x": " ", "q": " y x z", "": " y x z"}
    settings = [{"until": [stop, "p"]} for stop in stops] + [{"until": ["z", "x"]}, {"until": "y"}]
    found = lm.generate_until(asked("generate_until", *[("r", x) for x in settings]))
    assert found == [*stops.values(), " y ", " "]


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_answers_have_max_gen_toks_at_most(method):
    found = harness(method).generate_until(
        asked("generate_until", *[("r", {name: 2}) for name in ("max_gen_toks", "max_new_tokens")])
    )
    assert [len(text.split()) for text in found] == [2, 2]
    # Cut, where the method cannot write shorter.
    assert method == "flexmdm" or found == [" y x", " y x"]


@pytest.fixture
def told(caplog):
    """Returns what has been logged, as it stands by then."""
    warning_once.cache_clear()
    caplog.set_level(logging.INFO, logger="lm_eval")
    return lambda: [record.getMessage() for record in caplog.records if "flexmdm" in record.name]


def test_prompts_that_are_too_long_lose_their_beginning(told):
    """In rows of five slots, of which an answer takes three and END one."""
    lm, prompts = harness("mdm"), ("p q s p q s r", "r")
    cut, whole = nats_of(lm, [(x, " y x z") for x in prompts], document={"text": "one"})
    message = (
        "1 of 2 prompts are too long for rows of 5 slots; they lose their first tokens, up to 6"
    )
    assert cut == whole
    assert told().count(message) == 1
    requests = asked("generate_until", *[(x, {"max_gen_toks": 3}) for x in prompts])
    assert lm.generate_until(requests) == [" y x z", " y x z"]
    assert told().count(message) == 2
    with pytest.raises(
        UserError, match=r"t, document 1: .*takes 6 slots with END, more than .* 5;"
    ):
        nats_of(lm, [("q", " x"), ("p", " x" * 5)])


def test_texts_that_are_too_long_are_scored_in_pieces(told):
    lm, pieces = harness(), ["z x y z y x z", "r y x z", "z"]
    texts = [f"{pieces[0]} {pieces[1]}", pieces[2], ""]
    found = lm.loglikelihood_rolling(asked("loglikelihood_rolling", *[(x,) for x in texts]))
    assert told()[0].startswith("1 of 3 texts do not fit rows of 8 slots; each is scored in pieces")
    requests = asked("loglikelihood_rolling", *[(x,) for x in [*pieces, ""]])
    first, second, *others = lm.loglikelihood_rolling(requests)
    np.testing.assert_allclose(found, [first + second, *others], rtol=1e-5)


def test_whole_texts_are_kept_as_soon_as_all_of_their_pieces_are_known():
    lm, kept = harness(), {}
    lm.cache_hook.add_partial = lambda kind, arguments, nats: kept.update({(kind, arguments): nats})
    texts = ["z x y z y x z r y x z", "z", "r y x z"]
    found = lm.loglikelihood_rolling(asked("loglikelihood_rolling", *[(x,) for x in texts]))
    expected = {("loglikelihood_rolling", (x,)): nats for x, nats in zip(texts, found, strict=True)}
    assert kept == expected


def test_spaces_before_a_continuation_are_its_own():
    lm = HarnessModel(dataclasses.replace(model(), tokenizer=ByteTokenizer({})))
    encoded = lm._encode_pair(*asked("loglikelihood", ("a b ", "c")))
    assert encoded == (list(b"a b"), list(b" c"))


def test_a_single_continuation_is_not_said_to_be_the_likeliest(told):
    found = harness().loglikelihood(asked("loglikelihood", ("q", " x"), ("s", " x")))
    assert [likeliest for _, likeliest in found] == [False, False]
    assert told()[0] == (
        "t: whether a text is the likeliest of all, a bound does not tell; it counts as no, and "
        "acc, if the task has it, is 0"
    )


def test_what_means_nothing_here_is_said_once(told):
    lm = harness()
    settings = {"num_beams": 4, "max_gen_toks": 100, "finish_below": 0, "until": ["z"]}
    lm.generate_until(asked("generate_until", *[("q", settings)] * 3))
    assert sorted(told()) == [
        "max_gen_toks = 100 leaves no room for a prompt in rows of 8 slots; it is taken for 4",
        "num_beams = 4 means nothing to this model and is left out",
    ]


REFUSED = {
    "model_args name no run; add one: workdir=runs/mine": "seed=1",
    "no run in /nowhere": "workdir=/nowhere",
    "unknown model argument 'wrkdir'; did you mean 'workdir'?": "wrkdir=/nowhere",
    "unknown model argument 'temperature'": "workdir=/nowhere,temperature=1",
    "--mesh=rows=2: unknown axis 'rows'": "workdir=/nowhere,mesh=rows=2",
}


@pytest.mark.parametrize("message", REFUSED)
def test_arguments_that_cannot_be_are_refused_in_a_line(message):
    with pytest.raises(UserError) as error:
        HarnessModel.create_from_arg_string(REFUSED[message], {"batch_size": "auto:4"})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_what_the_harness_says_unasked_counts_for_nothing(monkeypatch, told):
    """Its batches of 1 on cuda:0; other sizes do, unless the arguments have one."""
    monkeypatch.setattr("flexmdm_jax.evaluation.harness.load", lambda *where: model())
    make = HarnessModel.create_from_arg_obj
    make({"workdir": "w"}, {"batch_size": 1, "device": "cuda:0", "max_batch_size": None})
    assert not told()
    make({"workdir": "w"}, {"batch_size": "32", "device": "cpu"})
    assert told() == ["device=cpu is left out; JAX_PLATFORMS chooses devices"]
    with pytest.raises(UserError, match='batch_size = "many"; it must be an integer'):
        make({"workdir": "w"}, {"batch_size": "many"})
    with pytest.raises(UserError, match="batch_size = 0; it must be at least 1"):
        make({"workdir": "w", "batch_size": 0}, {"batch_size": "8"})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("said", "folder"), [("", AUTO), (",compilation_cache=programs", "programs")]
)
def test_compiled_programs_are_kept_as_by_other_commands(said, folder, monkeypatch):
    asked = []
    monkeypatch.setattr("flexmdm_jax.evaluation.harness.keep_programs", asked.append)
    monkeypatch.setattr("flexmdm_jax.evaluation.harness.load", lambda *where: model())
    HarnessModel.create_from_arg_string(f"workdir=w{said}")
    assert asked == [folder]


SETTINGS_REFUSED = {
    "num_times = 0; it must be at least 1": {"num_times": 0},
    "batch_size = 0; it must be at least 1": {"batch_size": 0},
    "seed = -1; it must lie in": {"seed": -1},
    "unknown rule 'adaptiv'; did you mean 'adaptive'?": {"rule": "adaptiv"},
    "the run's network gives mean gaps only": {"insertions": "exact_gaps"},
}


@pytest.mark.parametrize("message", SETTINGS_REFUSED)
def test_settings_that_cannot_be_are_refused_in_a_line(message):
    with pytest.raises(UserError) as error:
        harness(**SETTINGS_REFUSED[message])
    assert message in str(error.value)


def test_generation_settings_that_cannot_be_are_refused_in_a_line():
    refused = {
        "max_gen_toks = 0; it must be at least 1": {"max_gen_toks": 0},
        "generation settings .*could not convert": {"temperature": "warm"},
        "generation settings .*infinity": {"max_gen_toks": math.inf},
        "top_p = 2.0; it must lie in": {"top_p": 2.0},
        "until = true; a stop string must be a text": {"until": ["z", True]},
        "until = .*; a stop string must be a text": {"until": {"z": 1}},
        "block_length needs slots that do not move": {"block_length": 2, "steps": 8},
    }
    for message, settings in refused.items():
        with pytest.raises(UserError, match=message):
            harness().generate_until(asked("generate_until", ("q", settings)))


def run(monkeypatch, *arguments):
    """Runs the command in this process, where the harness knows no tasks but those it is told."""
    monkeypatch.setattr(sys, "argv", ["harness", *map(str, arguments)])
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)
    only = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", only)
    runpy.run_module("flexmdm_jax.harness", run_name="__main__")


def test_without_the_harness_a_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.api.instance", None)
    monkeypatch.delitem(sys.modules, "flexmdm_jax.evaluation.harness")
    monkeypatch.delattr("flexmdm_jax.evaluation.harness")
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: the tasks of lm-evaluation-harness need lm_eval: "
        "pip install 'flexmdm-jax[harness]'\n"
    )


def test_the_harness_own_command_line_asks_a_run(
    tiny_dataset, tasks, tmp_path, monkeypatch, capsys, told
):
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    write_run(tiny_dataset, tiny.LENGTH, tmp_path / "run")
    arguments = ["--model=flexmdm", f"--include_path={tasks}", "--tasks=known_choices"]
    where = f"workdir={tmp_path}/run,num_times=4,steps=4"
    run(monkeypatch, *arguments, "--model_args", where, f"--output_path={tmp_path}/out")
    assert "known_choices" in capsys.readouterr().out
    [path] = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(path.read_text())
    assert found["results"]["known_choices"]["acc,none"] in np.arange(6) / 5
    assert found["config"]["num_times"] == 4
    assert found["config"]["sampling"] == {"steps": 4}
    [message] = told()
    assert re.fullmatch(r"the bounds' standard errors are .* num_times=16 would halve .*", message)


def test_mistakes_on_the_command_line_are_told_in_a_line(tasks, monkeypatch, capsys):
    arguments = ["--model=flexmdm", f"--include_path={tasks}", "--model_args=workdir=/nowhere"]
    wrong = {
        "no run in /nowhere": ["--tasks=known_choices"],
        "Tasks not found: known_choises; see --help": ["--tasks=known_choises"],
        "No tasks specified, or no tasks found": [],
    }
    for message, more in wrong.items():
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, *arguments, *more)
        assert ended.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith(f"error: {message}")


def test_a_network_that_answers_nan_has_no_likeliest_choice(monkeypatch):
    """argmax() of NaN is the first place that has it, which would count as an answer."""

    class Scorer:
        def batch_by_batch(self, params, sequences, *_):
            nats = np.where(np.arange(len(sequences)) == 1, np.nan, 3.0)
            yield np.arange(len(sequences)), Score(nats, 0 * nats, np.ones(len(nats), int))

    monkeypatch.setattr(KnownSetup, "scorer", lambda *_: Scorer())
    kept = {}
    answering = harness()
    answering.cache_hook.add_partial = lambda *found: kept.update({len(kept): found})
    with pytest.raises(UserError, match="answers NaN: 1 of 3 texts have no bound"):
        answering.loglikelihood(asked("loglikelihood", ("p", " x"), ("p", " y"), ("q", " z")))
    assert not kept, "no cache is to have it"


def test_chat_templates_are_refused(tasks):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    with pytest.raises(UserError, match="no chat template; leave out --apply_chat_template"):
        simple_evaluate(
            harness(), tasks=["known_choices"], task_manager=manager, apply_chat_template=True
        )


PAGE = pathlib.Path(__file__).parents[2] / "docs" / "harness.md"


def test_the_page_runs_as_printed(tiny_dataset, tmp_path, monkeypatch, capsys):
    """Its own task, from the shell and in Python, by an untrained model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    write_run(tiny_dataset, tiny.LENGTH, tmp_path / "runs" / "demo")
    [script] = [x.code for x in page_files.blocks("sh", [PAGE]) if "cat >" in x.code]
    *files, command = script.splitlines()
    subprocess.run(["bash", "-e", "-c", "\n".join(files)], check=True)
    python, _, module, *arguments = shlex.split(command)
    assert (python, module) == ("python", "flexmdm_jax.harness")
    run(monkeypatch, *arguments)
    assert "number_words" in capsys.readouterr().out
    [code] = [x.code for x in page_files.blocks("python", [PAGE])]
    # As many times as the command has, so that the program is there.
    code = code.replace("num_times=512", "num_times=128")
    exec(compile(code, str(PAGE), "exec"), {})
    assert float(capsys.readouterr().out) in (0.0, 0.5, 1.0)


def test_the_page_names_every_argument():
    text = PAGE.read_text()
    for name in (*inspect.signature(HarnessModel).parameters, *_ARGUMENTS):
        assert f"`{name}`" in text or name in ("model", "sampling"), name

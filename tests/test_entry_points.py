"""The commands as a user runs them: what they write, and one line for what they refuse."""

import ast
import collections
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tiny
from commands import config_file, kill_after_lines, refuse, run, succeed

from flexmdm_jax.data.tasks import TEXT_TASKS

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a corpus, its dataset and two short runs, all made by the commands."""
    home = tmp_path_factory.mktemp("home")
    (home / "corpus.txt").write_text("\n\n".join(tiny.texts()))
    succeed(
        "prepare",
        f"--source=text:{home}/corpus.txt",
        "--tokenizer=bytes",
        f"--max_length={tiny.LENGTH}",
        "--validation_fraction=0.2",
        f"--out={home}/data",
    )
    values = tiny.config_at(home / "data")
    config_file(home / "flex.py", values)
    config_file(home / "mdm.py", values | {"method": "mdm"})
    for name in ("flex", "mdm"):
        result = succeed("train", f"--config={home}/{name}.py", f"--workdir={home}/{name}")
        (home / f"{name}.said").write_text(result.stderr + result.stdout)
    return home


def test_training_leaves_metrics_and_checkpoints(home):
    lines = [json.loads(line) for line in (home / "flex" / "metrics.jsonl").open()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 4, 6, 8, 10]
    for line in steps:
        total = line["unmasking_loss"] + line["insertion_loss"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
        assert line["tokens_per_second"] > 0
        assert line["model_flops_per_second"] > 0
        assert {"grad_norm", "learning_rate"} <= set(line)
    evaluations = [line for line in lines if "eval/nats_per_token" in line]
    assert [line["step"] for line in evaluations] == [10]
    assert {"eval/length_w1", "eval/length_tv"} <= set(evaluations[0])
    assert list((home / "flex" / "tensorboard").iterdir())
    experiment = json.loads((home / "flex" / "experiment.json").read_text())
    assert experiment["vocabulary"] == {"size": 258, "mask": 256, "end": 257}
    assert experiment["config"]["insertion"] == "linear"


def test_training_says_what_goes_on_and_what_comes_next(home):
    said = (home / "flex.said").read_text()
    assert re.search(r"compiling the step: .*\n[^\0]*compiled the step in [\d.]+ s\n", said)
    assert f"checkpoints: {home}/flex/checkpoints, of which the newest 3 stay\n" in said
    lines = [json.loads(line) for line in (home / "flex" / "metrics.jsonl").open()]
    [nats] = [line["eval/nats_per_token"] for line in lines if "eval/nats_per_token" in line]
    assert f"step 10: held out, nats_per_token {nats:.4g}, " in said
    # A third of each row is text; MDM's rows are full of END.
    [padding] = re.findall(r"warning: (\d+)% of all slots are padding.*data\.packing=True", said)
    fills = [line["fill"] for line in lines if "fill" in line]
    assert 1 - max(fills) <= int(padding) / 100 + 0.005
    assert int(padding) / 100 - 0.005 <= 1 - min(fills)
    assert "padding" not in (home / "mdm.said").read_text()
    assert f"next: python -m flexmdm_jax.sample --workdir={home}/flex\n" in said
    assert f"tensorboard --logdir={home}/flex/tensorboard" in said


def test_samples_hold_text_tokens_and_length(home, tmp_path):
    arguments = [f"--workdir={home}/flex", "--steps=6", "--seed=1"]
    succeed("sample", *arguments, "--num=5", f"--out={tmp_path}/a.jsonl")
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    assert len(records) == 5
    for record in records:
        assert record["length"] == len(record["tokens"])
        assert bytes(record["tokens"]).decode(errors="replace") == record["text"]
        assert isinstance(record["truncated"], bool)
    succeed("sample", *arguments, "--num=3", "--batch_size=2", f"--out={tmp_path}/b.jsonl")
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").open()] == records[:3]


def test_text_is_written_between_prefix_and_suffix(home, tmp_path):
    out = tmp_path / "s.jsonl"
    succeed(
        "sample",
        f"--workdir={home}/flex",
        "--num=4",
        "--steps=6",
        "--prefix=abc",
        "--suffix=cab",
        "--rule=adaptive:confidence=margin,window_size=8",
        f"--out={out}",
    )
    for line in out.open():
        tokens = json.loads(line)["tokens"]
        assert bytes(tokens[:3]) == b"abc"
        assert bytes(tokens[-3:]) == b"cab"


def test_mdm_fills_blocks_after_a_prefix(home, tmp_path):
    out = tmp_path / "s.jsonl"
    succeed(
        "sample",
        f"--workdir={home}/mdm",
        "--num=4",
        "--steps=8",
        "--prefix=ab",
        "--block_length=6",
        f"--out={out}",
    )
    assert all(json.loads(line)["tokens"][:2] == [97, 98] for line in out.open())


def test_evaluation_compares_runs(home, tmp_path):
    result = succeed(
        "evaluate",
        f"--workdir={home}/flex",
        f"--workdir={home}/mdm",
        "--num=16",
        "--steps=6",
        "--num_times=2",
        f"--baseline={home}/mdm",
        f"--out={tmp_path}/results",
    )
    figures = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert set(figures) == {"data", "shuffled", "unigram", "FlexMDM", "MDM"}
    assert figures["shuffled"]["ngram_js_3"] > figures["data"]["ngram_js_3"]
    for label in ("FlexMDM", "MDM"):
        assert figures[label]["perplexity"] > 1
        assert 0 <= figures[label]["length_tv"] <= 1
        assert f"{figures[label]['length_w1']:.3f}" in result.stdout
    assert (tmp_path / "results" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    # The figures of the page, and the texts behind them.
    page = (tmp_path / "results" / "report.html").read_text()
    assert f"{figures['MDM']['nats_per_token']:.3f} ± " in page
    lines = (tmp_path / "results" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert collections.Counter(x["run"] for x in samples) == {"FlexMDM": 16, "MDM": 16}
    means = np.mean([len(x["tokens"]) for x in samples if x["run"] == "MDM"])
    assert figures["MDM"]["length_mean"] == means
    compared = json.loads((tmp_path / "results" / "comparison.json").read_text())
    difference = compared["FlexMDM - MDM: nats_per_token"]["difference"]
    own, other = (figures[label]["nats_per_token"] for label in ("FlexMDM", "MDM"))
    assert difference == pytest.approx(own - other)


def test_samples_of_a_killed_command_are_kept_and_the_rest_is_drawn(home, tmp_path):
    """Killed after some samples, the same command ends with the file of one that was not."""
    arguments = (f"--workdir={home}/flex", "--num=400", "--steps=4", "--batch_size=8")
    partial = tmp_path / "s.jsonl.partial"
    kill_after_lines(10, partial, "sample", *arguments, f"--out={tmp_path}/s.jsonl")
    kept = partial.read_bytes().split(b"\n")[1:-1]
    refuse("steps was 4, is 5", "sample", *arguments, "--steps=5", f"--out={tmp_path}/s.jsonl")
    result = succeed("sample", *arguments, f"--out={tmp_path}/s.jsonl")
    assert f" {len(kept)}/400 " in result.stderr
    succeed("sample", *arguments, f"--out={tmp_path}/straight.jsonl")
    content = (tmp_path / "s.jsonl").read_bytes()
    assert content == (tmp_path / "straight.jsonl").read_bytes()
    assert content.split(b"\n")[: len(kept)] == kept
    assert not partial.exists()


def test_an_interrupted_evaluation_goes_on_behind_the_figures_it_found(home, tmp_path):
    arguments = [f"--workdir={home}/flex", f"--workdir={home}/mdm", "--num=8", "--steps=4"]
    arguments += ["--num_times=2", f"--out={tmp_path}"]
    partial = tmp_path / "evaluation.json.partial"
    kill_after_lines(6, partial, "evaluate", *arguments)
    # What was found is not computed again, so another figure in its place is believed.
    header, *lines = partial.read_text().splitlines()
    found = {label: x for line in lines for label, x in json.loads(line).items()}
    assert "FlexMDM: bounds #0" in found
    nats, errors, tokens = found["FlexMDM: bounds #0"]
    other = {"FlexMDM: bounds #0": [[1000.0 * x for x in nats], errors, tokens]}
    partial.write_text("\n".join([header, json.dumps(found | other)]) + "\n")
    succeed("evaluate", *arguments)
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["FlexMDM"]["nats_per_token"] > 1000
    assert figures["MDM"]["perplexity"] > 1
    assert not partial.exists()
    refuse(r"evaluation\.json exists already; .*--overwrite", "evaluate", *arguments)
    succeed("evaluate", *arguments, "--overwrite")
    again = json.loads((tmp_path / "evaluation.json").read_text())
    assert again["FlexMDM"]["nats_per_token"] < 100
    assert again["MDM"] == figures["MDM"]


# Some in a process that has imported nothing yet; tests here and of launchers so start the others.
@pytest.mark.parametrize(
    ("verb", "prefix"),
    [
        *((verb, ()) for verb in ("prepare", "train", "sample")),
        *((verb, ("env",)) for verb in ("evaluate", "convert", "aot")),
    ],
)
def test_every_command_explains_itself(verb, prefix):
    result = run(verb, "--help", prefix=prefix)
    source = (ROOT / "flexmdm_jax" / f"{verb}.py").read_text()
    assert ast.get_docstring(ast.parse(source)) in result.stdout
    defined = re.findall(r'(?:DEFINE|define)_\w+\(\s*"(\w+)"', source)
    assert all(f"{name}:" in result.stdout for name in defined)
    assert "Traceback" not in result.stderr


def test_training_refuses(home, tmp_path):
    train = ("train", f"--workdir={tmp_path}/w")
    flex = f"--config={home}/flex.py"
    refuse("nowhere.py: no such file", *train, "--config=nowhere.py")
    refuse("model.hiden; did you mean 'hidden_size'", *train, flex, "--config.model.hiden=3")
    refuse("does not split into 3 heads", *train, flex, "--config.model.num_heads=3")
    refuse("unknown schedule 'cosin'; did you mean", *train, flex, "--config.insertion=cosin")
    refuse("make it with: make data/demo", *train, "--config=configs/demo.py", cwd=_bare(tmp_path))
    refuse("invalid literal", *train, flex, "--config.model.num_layers=x")
    refuse("data.workers = 4000: a machine of", *train, flex, "--config.data.workers=4000")
    refuse("unexpected argument 'extra'", *train, flex, "extra")
    refuse("does not take an argument", *train, flex, "--noconfig.model.mark_start=true")
    refuse(
        "unknown attention implementation 'flash'", *train, flex, "--config.model.attention=flash"
    )
    refuse("this program is for cpu", *train, flex, "--config.model.attention=pallas")
    refuse("training ends with step 10", *train, flex, "--profile=8:11")
    other = ("--config=configs/demo.py", "--config.data.path=data/mine")
    advice = "data/mine; make one with python -m flexmdm_jax.prepare"
    refuse(advice, *train, *other, cwd=tmp_path / "bare")
    refuse("did you mean .*/data", *train, flex, f"--config.data.path={home}/dat")
    refuse("rows of 24 slots: .*lower config.training.batch_size", *train, flex, ROWS)
    again = ("train", flex, f"--workdir={home}/flex", "--config.training.num_steps=12")
    refuse("the run goes on after step 10; name later", *again, "--profile=8:10")
    assert not (tmp_path / "w").exists()


ROWS = "--config.training.batch_size=1000000000"


def _bare(tmp_path):
    """A folder with the shipped configs and no data."""
    shutil.copytree(ROOT / "configs", tmp_path / "bare" / "configs")
    return tmp_path / "bare"


def test_training_never_mixes_runs(home, tmp_path):
    before = {path: path.read_bytes() for path in (home / "flex").rglob("*.json*")}
    again = ("train", f"--config={home}/flex.py", f"--workdir={home}/flex")
    refuse("another config .seed was 3, is 4", *again, "--config.seed=4")
    succeed(
        "prepare",
        f"--source=text:{home}/corpus.txt",
        "--tokenizer=sentencepiece:300",
        f"--max_length={tiny.LENGTH}",
        f"--out={tmp_path}/other",
    )
    refuse("but the checkpoint was trained with", *again, f"--config.data.path={tmp_path}/other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    refuse(
        "holds files but no run",
        "train",
        f"--config={home}/flex.py",
        f"--workdir={tmp_path}/mine",
    )
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_workdir_that_cannot_be_written_is_named(home, tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file" / "w", "/proc/w"):
        refuse(
            f"workdir {workdir} cannot be written",
            "train",
            f"--config={home}/flex.py",
            f"--workdir={workdir}",
        )


HUGE = ("--num=1000000000", "--batch_size=1000000000")


def test_sampling_refuses(home, tmp_path):
    (tmp_path / "old.jsonl").write_text("precious")
    sample = ("sample", f"--workdir={home}/flex", f"--out={tmp_path}/new.jsonl")
    refuse("--num=0: must be at least 1", *sample, "--num=0")
    refuse("--steps=-1: must be at least 0", *sample, "--steps=-1")
    refuse("--temperature=-1: must be at least 0", *sample, "--temperature=-1")
    refuse("--temperature=inf: must be a finite number", *sample, "--temperature=inf")
    refuse("--seed=4294967296", *sample, "--seed=4294967296")
    refuse("--print=-4", *sample, "--print=-4")
    refuse("/proc/x cannot be written", "sample", f"--workdir={home}/flex", "--out=/proc/x")
    refuse("unknown rule 'adaptiv'; did you mean 'adaptive'", *sample, "--rule=adaptiv")
    refuse("unknown grid 'sinus'; did you mean 'sine'", *sample, "--steps=4", "--grid=sinus")
    refuse("takes no grid 'sine'", *sample, "--grid=sine")
    refuse("MDM only", *sample, "--block_length=4", "--steps=4")
    refuse("24 generated tokens do not fit", *sample, "--length=24")
    refuse("leave no room", *sample, "--prefix=" + "a" * 30)
    refuse("no run in /nowhere", "sample", "--workdir=/nowhere", f"--out={tmp_path}/new.jsonl")
    refuse("exists already", "sample", f"--workdir={home}/flex", f"--out={tmp_path}/old.jsonl")
    refuse("flex is a DiT and has no base", *sample, f"--base={home}/data")
    mdm = ("sample", f"--workdir={home}/mdm", sample[2])
    refuse("MDM inserts nothing", *mdm, "--insertions=poisson")
    refuse("'exact_gaps': the run's network gives mean", *sample, "--insertions=exact_gaps")
    refuse("did you mean .*/flex", "sample", f"--workdir={home}/flx", sample[2])
    refuse("rows of 24 slots: .* GB.*; lower --batch_size", *sample, *HUGE)
    refuse("lengths are fixed", *mdm, "--suffix=a")
    blocks = ("--prefix=abc", "--block_length=7", "--steps=2")
    refuse("steps = 2 cannot fill 3 blocks of 7", *mdm, *blocks)
    assert not (tmp_path / "new.jsonl").exists()
    assert (tmp_path / "old.jsonl").read_text() == "precious"


def test_preparation_refuses(home, tmp_path):
    (tmp_path / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n\n")
    prepare = ("prepare", "--tokenizer=bytes", f"--out={tmp_path}/out")
    refuse("latin.txt: byte 1 is not UTF-8", *prepare, f"--source=text:{tmp_path}/latin.txt")
    refuse("split empty", *prepare, f"--source=text:{tmp_path}/empty.txt")
    refuse("no file matches", *prepare, f"--source=text:{tmp_path}/nothing/*")
    refuse("--max_length=0", *prepare, "--source=stdlib", "--max_length=0")
    refuse("--workers = 4000: a machine of", *prepare, "--source=stdlib", "--workers=4000")
    refuse("needs data: gsm8k:data=…", *prepare, "--source=gsm8k")
    refuse(
        "--skip_bad: a task takes arguments behind its name instead: size, .*num_subgoals",
        *("prepare", "--source=maze:size=9", "--skip_bad", prepare[2]),
    )
    refuse("--tokenizer: a task takes", *prepare, "--source=brackets")
    refuse("nothing follows stdlib", *prepare, "--source=stdlib:all")
    refuse("unknown --source 'mazes'; did you mean 'maze'", *prepare, "--source=mazes:size=9")
    for out in ("/proc/x", f"{tmp_path}/latin.txt/x"):
        refuse(f"{out} cannot be written", "prepare", "--source=stdlib", f"--out={out}")
    notes = f"--tokenizer=sentencepiece:{tmp_path}/empty.txt"
    refuse("empty.txt is no SentencePiece model", "prepare", "--source=stdlib", notes, prepare[2])
    refuse("no prepared dataset in", "prepare", f"--inspect={tmp_path}/nowhere")
    refuse("--source must have a value", *prepare)
    refuse("exists already", *prepare[:2], f"--out={home}/data", "--source=stdlib")
    assert not (tmp_path / "out").exists()


TASKS_WITHOUT_FILES = {"gsm8k": "gsm8k:data={}", "infilling": "infilling:source=jsonl:{}/x"}


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_missing_files_of_a_task_are_not_blamed_on_the_tokenizer(tmp_path, task):
    source = f"--source={TASKS_WITHOUT_FILES[task].format(tmp_path / 'nowhere')}"
    for tokenizer in ("bytes", "sentencepiece:400", "sentencepiece:/no", "gpt2", "hf:/no"):
        out = f"--out={tmp_path}/out"
        refuse("no file matches", "prepare", source, f"--tokenizer={tokenizer}", out)
    assert not any(tmp_path.iterdir())


def test_a_task_trains_its_tokenizer_and_says_what_it_counted(tmp_path):
    """Its folder has a comma in its name."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    for name in ("train", "test"):
        lines = (
            json.dumps(
                {"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"}
            )
            for n in range(50)
        )
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    for source, counted in (
        (f"gsm8k:data={folder},max_length=99", "100 examples, 100 texts"),
        (f"infilling:source=jsonl:{folder}/*.jsonl#question,max_length=99", "100 documents"),
    ):
        out = tmp_path / source.partition(":")[0]
        arguments = (f"--source={source}", "--tokenizer=sentencepiece:300", f"--out={out}")
        result = succeed("prepare", *arguments)
        assert counted in result.stdout
        assert "checked texts come back as they were" in result.stdout
        assert counted in succeed("prepare", f"--inspect={out}", "--print=0").stdout


def test_a_dataset_is_inspected(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "d")
    result = succeed("prepare", f"--inspect={tmp_path}/d", "--print=2")
    assert result.stdout.count("--- training example") == 2
    assert re.search(r"train: \d+ sequences, [\d,]+ tokens in 1 shards", result.stdout)
    assert (tmp_path / "d" / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_a_terminal_that_lacks_a_character_shows_its_number(home, tmp_path):
    documents = [f"déjà vu {number}" for number in range(40)]
    tiny.write_dataset(tmp_path / "d", documents)
    narrow = ("env", "PYTHONIOENCODING=ascii")
    assert r"d\xe9j\xe0 vu" in succeed("prepare", f"--inspect={tmp_path}/d", prefix=narrow).stdout
    arguments = (f"--workdir={home}/flex", "--num=4", "--steps=4", "--print=4", "--temperature=9")
    out = succeed("sample", *arguments, f"--out={tmp_path}/s.jsonl", prefix=narrow).stdout
    assert r"\ufffd" in out
    assert "\ufffd" in (tmp_path / "s.jsonl").read_text()


# Runs a command whose output nobody reads, or with no output at all; ends as the command does.
NOBODY_READS = ("bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash")
CLOSED = ("bash", "-c", '"$@" >&-', "bash")


@pytest.mark.parametrize(("prefix", "status"), [(NOBODY_READS, 141), (CLOSED, 0)])
def test_nobody_has_to_read_what_is_printed(home, tmp_path, prefix, status):
    shutil.copytree(home / "data", tmp_path / "d")
    out = tmp_path / "s.jsonl"
    sample = ("sample", f"--workdir={home}/flex", "--num=2", "--steps=2", "--print=2")
    for command in (("prepare", f"--inspect={tmp_path}/d"), (*sample, f"--out={out}")):
        result = run(*command, prefix=prefix)
        assert result.returncode == status, result.stderr
        assert not re.search("Traceback|Exception|Broken|error:", result.stderr)
    assert len(out.read_text().splitlines()) == 2, "what is written is there as a whole"


@pytest.mark.parametrize("platform", ["cuda", "nosuch"])
def test_a_platform_that_is_not_there_is_named(home, tmp_path, platform):
    prefix = ("env", f"JAX_PLATFORMS={platform}")
    out = f"--out={tmp_path}/s"
    refuse(f"JAX_PLATFORMS={platform}: ", "sample", f"--workdir={home}/flex", out, prefix=prefix)


def test_output_that_cannot_be_written_is_one_line(home, tmp_path):
    shutil.copytree(home / "data", tmp_path / "d")
    full = ("bash", "-c", '"$@" > /dev/full', "bash")
    result = run("prepare", f"--inspect={tmp_path}/d", prefix=full)
    assert result.returncode == 2
    assert [line[:6] for line in result.stderr.splitlines()].count("error:") == 1
    assert "Traceback" not in result.stderr


# Lets no file grow beyond 30 kB: what a full disk does, without filling one.
SMALL_FILES_ONLY = ("prlimit", "--fsize=30000")


def test_a_full_disk_is_one_line_and_loses_nothing(home, tmp_path):
    full = {"prefix": SMALL_FILES_ONLY}
    refuse("a file grew larger", "prepare", "--source=stdlib", f"--out={tmp_path}/d", **full)
    assert not list(tmp_path.iterdir())
    workdir = tmp_path / "w"
    shutil.copytree(home / "flex", workdir)
    longer = ("train", f"--config={home}/flex.py", f"--workdir={workdir}")
    refuse("a file grew larger", *longer, "--config.training.num_steps=15", **full)
    again = succeed(*longer, "--config.training.num_steps=15")
    assert "taking the run up after step 10" in again.stderr
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    assert steps.count(12) == 2, "taken up again after step 10"


def test_a_run_without_a_checkpoint_is_named(home, tmp_path):
    shutil.copytree(home / "flex", tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "checkpoints")
    out = f"--out={tmp_path}/s.jsonl"
    refuse("no checkpoint in .* yet", "sample", f"--workdir={tmp_path}/w", out)


def test_a_damaged_checkpoint_is_reported_and_passed_over(home, tmp_path):
    shutil.copytree(home / "flex", tmp_path / "w")
    for file in (tmp_path / "w" / "checkpoints" / "10" / "ema").rglob("d/*"):
        file.unlink()
    arguments = [f"--workdir={tmp_path}/w", "--num=2", "--steps=2", f"--out={tmp_path}/s.jsonl"]
    result = succeed("sample", *arguments)
    assert "checkpoint 10 in" in result.stderr
    assert "unreadable" in result.stderr
    assert "2 samples after 5 training steps" in result.stdout


def test_evaluation_refuses(home):
    refuse("--num=0", "evaluate", f"--workdir={home}/flex", "--num=0")
    refuse("no prepared dataset", "evaluate", f"--workdir={home}/flex", "--data=/nowhere")
    refuse("cannot be written", "evaluate", f"--workdir={home}/flex", "--out=/proc/x")
    again = f"--workdir={home}/./flex"
    refuse("/flex is given twice", "evaluate", f"--workdir={home}/flex", again)
    refuse("flex is a DiT", "evaluate", f"--workdir={home}/flex", f"--base={home}/data")
    refuse("MDM inserts", "evaluate", f"--workdir={home}/mdm", "--insertions=binomial")
    exact = "--insertions=exact_gaps"
    refuse("choose poisson or binomial", "evaluate", f"--workdir={home}/flex", exact)
    refuse("did you mean .*/data", "evaluate", f"--workdir={home}/flex", f"--data={home}/dta")


def test_a_changed_vocabulary_is_noticed(home, tmp_path):
    shutil.copytree(home / "flex", tmp_path / "w")
    path = tmp_path / "w" / "experiment.json"
    values = json.loads(path.read_text())
    values["vocabulary"]["mask"] = 300
    path.write_text(json.dumps(values))
    refuse("mask = 300 lies outside the vocabulary", "sample", f"--workdir={tmp_path}/w")
    path.write_text("{}")
    refuse("experiment.json: no field 'config'", "sample", f"--workdir={tmp_path}/w")
    path.write_text("{")
    refuse("experiment.json is not JSON", "sample", f"--workdir={tmp_path}/w")

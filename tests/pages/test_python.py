"""The Python in the pages runs as printed, with an untrained model where a trained one is meant."""

import ast
import functools
import re

import pytest
from page_files import FILES, ROOT, blocks
from untrained import untrained_model

from flexmdm_jax import conformance
from flexmdm_jax import model as models
from flexmdm_jax.config import read_config
from flexmdm_jax.sampling import SamplerConfig, generate

# Pages whose Python other tests run.
ELSEWHERE = {
    "README.md": ("tests/test_readme.py", "tests/test_generation_page.py"),
    "docs/generation.md": ("tests/test_generation_page.py",),
    "docs/harness.md": ("tests/evaluation/test_harness.py",),
    "docs/serving.md": ("tests/serving/test_docs.py",),
}
# What needs more than there is here; its imports are tried.
NOT_RUN = {"docs/smollm2.md": "reads a model of 93 MB that `make smollm2` fetches"}
# A part of a config, and configs, which have tests of their own below.
PARTS = ("docs/data.md", "docs/config.md")


def pages():
    files = {block.file for block in blocks("python")}
    return sorted(files - set(ELSEWHERE) - set(NOT_RUN) - set(PARTS))


@pytest.fixture(scope="module")
def model(tiny_dataset):
    return untrained_model(tiny_dataset, "flexmdm", 64)


def exact_sampler(keys, denoiser, canvas, process):
    found = generate(keys, denoiser, canvas, SamplerConfig(exact=True), process)
    return found.tokens, found.lengths, found.calls


@pytest.fixture
def small(monkeypatch, tmp_path, model):
    """Gives the names that examples take for granted, and what makes them quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load", lambda workdir: model)
    few = functools.partial(conformance.judge, num_samples=100)
    all_of_few = lambda sample: [few(sample, conformance.problems()["short_words"])]  # noqa: E731
    monkeypatch.setattr(conformance, "judge", few)
    monkeypatch.setattr(conformance, "judge_all", all_of_few)
    return {"my_sampler": exact_sampler}


@pytest.mark.parametrize("page", pages())
@pytest.mark.usefixtures("unchecked")
def test_examples_run_one_after_the_other(page, small, capsys):
    names = dict(small)
    for block in blocks("python", [ROOT / page]):
        code = re.sub(r"^STEPS = [\d_]+$", "STEPS = 20", block.code, flags=re.MULTILINE)
        code = code.replace("examples(20_000)", "examples(200)")
        exec(compile(code, str(block), "exec"), names)
    assert capsys.readouterr().out


def test_the_part_of_a_config_is_sound():
    [block] = blocks("python", [ROOT / "docs" / "data.md"])
    values = ast.literal_eval(f"{{{block.code}}}")
    config = read_config(
        {
            "method": "flexmdm",
            "model": {"hidden_size": 8, "num_layers": 1, "num_heads": 2},
            "optimizer": {"learning_rate": 0.1},
            **values,
            "training": {"num_steps": 1, **values["training"]},
        }
    )
    assert config.data.segments == values["data"]["max_segments"]


def test_configs_are_sound(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = []
    for block in blocks("python", [ROOT / "docs" / "config.md"]):
        names = {}
        exec(compile(block.code, str(block), "exec"), names)
        found.append(read_config(names["get_config"]()))
    whole, varied = found
    assert whole.model.hidden_size == 256
    assert (varied.model.num_layers, varied.data.packing) == (6, True)


@pytest.mark.parametrize("page", NOT_RUN)
def test_what_is_not_run_imports_what_is_there(page):
    for block in blocks("python", [ROOT / page]):
        tree = ast.parse(block.code)
        imports = [x for x in tree.body if isinstance(x, ast.Import | ast.ImportFrom)]
        assert imports
        exec(compile(ast.Module(imports, []), str(block), "exec"), {})


def test_no_page_is_left_out():
    for page, tests in ELSEWHERE.items():
        for test in tests:
            assert page.rpartition("/")[2] in (ROOT / test).read_text()
    named = {block.file for block in blocks("python")}
    assert {*ELSEWHERE, *NOT_RUN, *PARTS} <= named


def test_every_block_says_what_it_is():
    """A language that no test knows would be a block that nothing runs."""
    # The diffs are tests/test_contributing.py's.
    known = {"", "sh", "python", "json", "diff"}
    languages = {x for path in FILES for x in re.findall(r"^ *```(\w+)", path.read_text(), re.M)}
    assert languages <= known

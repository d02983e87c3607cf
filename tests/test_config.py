"""Configs: every shipped one is sound, and what is wrong in one is named."""

import copy
import pathlib

import pytest
import tiny

from flexmdm_jax.config import (
    CHANGEABLE,
    changed_fields,
    config_to_dict,
    load_config_file,
    read_config,
)
from flexmdm_jax.data.tasks import TASKS, Gsm8kConfig
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import parse_strategy
from flexmdm_jax.process import Process
from flexmdm_jax.sampling import RULES, Adaptive
from flexmdm_jax.schedules import SCHEDULES, Immediate, Linear, Polynomial
from flexmdm_jax.types import Vocabulary

DATA = {"path": "", "max_length": 24, "packing": True}
MODEL = {"hidden_size": 64, "num_layers": 1, "num_heads": 2}
LLADA = {"kind": "llada", "hidden_size": 64, "num_layers": 1, "num_heads": 32}
CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_sound(path):
    config = read_config(load_config_file(str(path)))
    assert read_config(config_to_dict(config)) == config
    assert (config.method == "mdm") == path.stem.endswith("_mdm")
    assert config.data.prepare, "says how to make its data"


def test_the_papers_configs_have_the_papers_figures():
    """Appendix F.1."""
    owt = read_config(load_config_file(str(CONFIGS[0]), "owt.py"))
    model, optimizer, training = owt.model, owt.optimizer, owt.training
    assert (model.hidden_size, model.num_heads, model.num_layers) == (768, 12, 12)
    assert (model.condition_size, model.dropout_rate) == (128, 0.05)
    assert (optimizer.learning_rate, optimizer.weight_decay) == (3e-4, 0.03)
    assert (optimizer.warmup_steps, optimizer.ema_decay) == (2_000, 0.9999)
    assert (owt.data.max_length, training.time_warp) == (1024, 1.0)
    mdm = read_config(load_config_file(str(CONFIGS[0]), "owt_mdm.py"))
    assert (mdm.training.batch_size, mdm.data.packing) == (1024, False)


def _change(values, path, value):
    values = copy.deepcopy(values)
    *groups, name = path.split(".")
    target = values
    for group in groups:
        target = target.setdefault(group, {})
    target[name] = value
    return values


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "clip_norm"])
def test_numbers_are_finite(field, value):
    values = tiny.config_at("nowhere")
    values["optimizer"][field] = value
    with pytest.raises(UserError, match=rf"config\.optimizer\.{field} = .*: expected a finite"):
        read_config(values)
    with pytest.raises(UserError, match="is no float"):
        read_config(tiny.config_at("nowhere") | {"insertion": f"polynomial:power={value}"})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.hiden_size", 3, r"config\.model\.hiden_size; did you mean 'hidden_size'"),
        ("optimiser", {}, r"unknown config field config\.optimiser; did you mean 'optimizer'"),
        ("method", "flexmdn", r"config\.method = 'flexmdn'; did you mean 'flexmdm'"),
        ("insertion", "lineer", "unknown schedule 'lineer'; did you mean 'linear'"),
        ("unmasking", "polynomial:power=0.5", r"power = 0\.5; it must be at least 1"),
        ("unmasking", "polynomial:powr=2", "no argument 'powr'; did you mean 'power'"),
        ("unmasking", "polynomial:power=x", "'x' is no float"),
        ("model.hidden_size", 18, "18 does not split into 2 heads of even size"),
        ("model.hidden_size", 0, "hidden_size = 0; it must be at least 1"),
        ("model.hidden_size", 16.0, "expected int"),
        ("model.dropout_rate", 1.0, r"must lie in \[0, 1\)"),
        ("model.compute_dtype", "float16", "choose one of|did you mean"),
        ("data.max_length", 1, "max_length = 1"),
        ("data.mixture", {"owt": 0.0}, r"mixture\.owt = 0\.0; it must be positive"),
        ("seed", 2**32, r"seed = 4294967296; it must lie in \[0, 4294967295\]"),
        ("data.buckets", (8, 24), r"buckets = \(8, 24\): lengths below max_length"),
        ("data.buckets", (8, "x"), r"config\.data\.buckets = 'x': expected int"),
        ("data.row_length", 48, "row_length is that of packed rows; set packing = True"),
        ("data.max_segments", 4, "max_segments is that of packed rows; set packing = True"),
        ("data", DATA | {"buckets": (8,)}, "packing leaves no room for buckets"),
        ("data", DATA | {"row_length": 20}, "row_length = 20 is shorter than a sequence of max_"),
        ("data", DATA | {"max_segments": 25}, "a row of 24 slots holds at most as many"),
        ("data.row_length", -1, "row_length = -1; it must be at least 0"),
        ("data.workers", -1, "workers = -1"),
        ("data.mixture", {"owt": 1.0}, "mixture names owt; sets has none"),
        ("training.batch_size", 0, "batch_size = 0"),
        ("training.accumulation_steps", 3, "8 does not split into 3"),
        ("training.num_steps", 0, "num_steps = 0"),
        ("training.time_warp", 0.5, "time_warp = 0.5"),
        ("evaluation.num_samples", 0, "num_samples = 0"),
        ("optimizer.learning_rate", 0.0, "must be positive"),
        ("mesh.data", 0, "sizes are positive"),
        ("model", 3, r"config\.model = 3: expected a group"),
        ("model", LLADA | {"mark_start": True}, "mark_start is the DiT's"),
        ("model", LLADA | {"dropout_rate": 0.1}, "dropout_rate is the DiT's"),
        ("model", LLADA | {"gap_head": "distribution"}, "gap_head = 'distribution' is the DiT's"),
        ("model.gap_head", "distributions", "did you mean 'distribution'"),
        ("model.gap_classes", 8, "gap_classes are a distribution's; set gap_head"),
        ("model", MODEL | {"gap_head": "distribution", "gap_classes": 1}, "choose at least 2"),
    ],
)
def test_what_is_wrong_is_named(tiny_config, path, value, message):
    with pytest.raises(UserError, match=message):
        read_config(_change(tiny_config, path, value))


def test_packing_is_for_sequences_whose_length_is_learned(tiny_config):
    packed = _change(tiny_config, "data.packing", True)
    assert (read_config(packed).data.slots, read_config(packed).data.segments) == (tiny.LENGTH, 4)
    with pytest.raises(UserError, match=r"data\.packing: MDM fills every row with END"):
        read_config(packed | {"method": "mdm"})
    with pytest.raises(UserError, match="cuDNN's attention knows one sequence to a row"):
        read_config(_change(packed, "model.attention", "cudnn"))


def test_gaps_have_a_class_for_every_length_unless_told(tiny_config):
    assert read_config(tiny_config).gap_classes == 0
    told = _change(tiny_config, "model.gap_head", "distribution")
    assert read_config(told).gap_classes == tiny.LENGTH + 1
    assert read_config(_change(told, "model.gap_classes", 5)).gap_classes == 5
    with pytest.raises(UserError, match=r"model\.gap_head: MDM inserts nothing and has no gaps"):
        read_config(told | {"method": "mdm"})


def test_a_missing_field_is_named(tiny_config):
    del tiny_config["optimizer"]["learning_rate"]
    with pytest.raises(UserError, match=r"config\.optimizer\.learning_rate is missing"):
        read_config(tiny_config)


def test_mdm_inserts_nothing_whatever_the_schedule(tiny_config):
    config = read_config(tiny_config | {"method": "mdm", "insertion": "cosine"})
    vocabulary = Vocabulary(size=5, mask=1, end=3)
    assert config.process(vocabulary) == Process(vocabulary, Immediate(), Linear())


def test_strategies_are_written_as_text():
    assert parse_strategy("polynomial:power=3", SCHEDULES, "schedule") == Polynomial(3.0)
    task = parse_strategy("gsm8k:data=a,b,,c/d,max_length=9", TASKS, "source")
    assert task == Gsm8kConfig("a,b,,c/d", 9)
    with pytest.raises(UserError, match="has no argument 'maxlength'; did you mean 'max_length'"):
        parse_strategy("gsm8k:data=a,maxlength=9", TASKS, "source")
    with pytest.raises(UserError, match="no argument 'b'"):
        parse_strategy("gsm8k:max_length=9,b", TASKS, "source")
    with pytest.raises(UserError, match="data is given twice"):
        parse_strategy("gsm8k:data=a,data=b", TASKS, "source")
    rule = parse_strategy("adaptive:confidence=margin,window_size=64", RULES, "rule")
    assert rule == Adaptive(confidence="margin", window_size=64)
    with pytest.raises(UserError, match="unknown confidence 'best'"):
        parse_strategy("adaptive:confidence=best", RULES, "rule")


def test_only_harmless_fields_may_change_within_a_run(tiny_config):
    config = read_config(tiny_config)
    assert changed_fields(config, config) == []
    assert set(CHANGEABLE) <= set(_paths(config_to_dict(config)))
    longer = read_config(_change(tiny_config, "training.num_steps", 99))
    assert changed_fields(config, longer) == []
    other = read_config(_change(tiny_config, "optimizer.learning_rate", 0.5))
    assert changed_fields(config, other) == ["optimizer.learning_rate was 0.01, is 0.5"]
    cosine = _change(tiny_config, "optimizer.decay", "cosine")
    longer = read_config(_change(cosine, "training.num_steps", 99))
    assert changed_fields(read_config(cosine), longer) == ["training.num_steps was 10, is 99"]


def _paths(values, prefix=""):
    for name, value in values.items():
        if value and isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name

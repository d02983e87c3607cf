"""--config.path=value: whatever field there is can be set, whether the file has it or not."""

import dataclasses
import pathlib
import typing

import pytest
from absl import flags
from ml_collections import ConfigDict

from flexmdm_jax.config import Config, load_config_file, read_config
from flexmdm_jax.errors import UserError
from flexmdm_jax.fields import flatten
from flexmdm_jax.options import define_config
from flexmdm_jax.overrides import check_overrides, field_type, overridden_paths

ROOT = pathlib.Path(__file__).parents[1]
REQUIRED = {
    "method": "flexmdm",
    "model": {"hidden_size": 16, "num_layers": 2, "num_heads": 2},
    "data": {"path": "data/tiny", "max_length": 24},
    "optimizer": {"learning_rate": 1},
    "training": {"num_steps": 10, "batch_size": 8},
}


def command(*argv):
    """Returns what the flags of a command make of its config."""
    argv = ["train", *argv]
    check_overrides(overridden_paths(argv))
    values = flags.FlagValues()
    holder = define_config("", values, argv)
    assert values(argv) == ["train"]
    return holder.value


@pytest.fixture
def parse(tmp_path):
    """What overrides make of a file whose config is written as Python, or given as a dict."""

    def parse(written, *overrides):
        written = written if isinstance(written, str) else f"ConfigDict({written!r})"
        (tmp_path / "mine.py").write_text(
            "from ml_collections import ConfigDict, FrozenConfigDict\n"
            "from flexmdm_jax.config import load_config_file\n"
            f"def get_config():\n    return {written}\n"
        )
        return command(f"--config={tmp_path}/mine.py", *overrides)

    return parse


def leaves(kind=Config, prefix=""):
    """Yields the paths of all fields that are no groups, with their types."""
    for name, inner in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def example(kind):
    """Returns a text on the command line and the value that it stands for."""
    if typing.get_origin(kind) is typing.Literal:
        return (typing.get_args(kind)[-1],) * 2
    if typing.get_origin(kind) is dict:
        value = typing.get_args(kind)[1](0.25)
        return repr({"a": value}), ConfigDict({"a": value})
    return {
        int: ("-7", -7),
        float: ("2.5e-1", 0.25),
        str: ("a=b, c", "a=b, c"),
        bool: ("true", True),
        tuple[int, ...]: ("(8, 16)", (8, 16)),
    }[kind]


@pytest.mark.parametrize(("path", "kind"), [pytest.param(*leaf, id=leaf[0]) for leaf in leaves()])
@pytest.mark.parametrize("file", [{}, REQUIRED], ids=["empty", "required"])
def test_every_field_can_be_set(parse, file, path, kind):
    text, value = example(kind)
    # As usual with absl, nothing follows a flag that is true.
    apart = [f"--config.{path}"] if kind is bool else [f"--config.{path}", text]
    for overrides in ([f"--config.{path}={text}"], apart):
        config = parse(file, *overrides)
        assert config[path] == value
        assert type(config[path]) is type(value)
    assert field_type(path) == kind


@pytest.mark.parametrize("name", ["brackets", "llada_flexmdm", "owt_mdm"])
def test_a_whole_config_can_be_given_on_the_command_line(parse, name):
    config = read_config(load_config_file(str(ROOT / "configs" / f"{name}.py")))
    overrides = [f"--config.{path}={value}" for path, value in flatten(config).items()]
    assert read_config(parse("ConfigDict()", *overrides)) == config
    assert read_config(parse("{}", *overrides)) == config, "a plain dict will do"


def test_entries_of_a_dict_join_those_of_the_file(parse):
    file = REQUIRED | {
        "data": REQUIRED["data"] | {"sets": {"old": "data/old"}, "mixture": {"old": 0.75}}
    }
    overrides = (
        "--config.data.sets.news=data/news",
        "--config.data.mixture.news=0.25",
        "--config.optimizer.group_learning_rates.bias=1e-4",
    )
    config = read_config(parse(file, *overrides))
    assert config.data.sets == {"old": "data/old", "news": "data/news"}
    assert config.data.mixture == {"old": 0.75, "news": 0.25}
    assert config.optimizer.group_learning_rates == {"bias": 1e-4}


def test_a_dict_or_a_group_can_be_replaced(parse):
    rates = "--config.optimizer.group_learning_rates={'*/lora_?': 1e-4}"
    config = read_config(parse(REQUIRED, rates, "--config.evaluation={'num_steps': 3}"))
    assert config.optimizer.group_learning_rates == {"*/lora_?": 1e-4}
    assert config.evaluation.num_steps == 3


def test_a_tuple_is_one_flag_or_several(parse):
    for texts in (["(8, 16)"], ["8,16"], ["8", "16"]):
        config = parse(REQUIRED, *(f"--config.data.buckets={text}" for text in texts))
        assert read_config(config).data.buckets == (8, 16)


def test_all_else_is_as_the_file_has_it(parse):
    expected = dataclasses.replace(read_config(REQUIRED), seed=3)
    for kind in ("ConfigDict", "FrozenConfigDict", "dict"):
        assert read_config(parse(f"{kind}({REQUIRED!r})", "--config.seed=3")) == expected
    locked = f"ConfigDict({REQUIRED!r}).lock()"
    assert read_config(parse(locked, "--config.seed=3")) == expected


def test_the_type_is_that_of_the_field_not_of_the_files_value(parse):
    assert parse(REQUIRED, "--config.optimizer.learning_rate=0.5").optimizer.learning_rate == 0.5
    file = {"data": {"buckets": [8]}, "training": {"start": None}}
    config = parse(file, "--config.data.buckets=16", "--config.training.start=runs/a")
    assert config.to_dict() == {"data": {"buckets": (16,)}, "training": {"start": "runs/a"}}


def test_references_within_a_file_stay(parse):
    file = (
        "(c := ConfigDict({'training': {'num_steps': 1}}), "
        "c.training.update(evaluate_every=c.training.get_ref('num_steps')))[0]"
    )
    assert parse(file, "--config.training.num_steps=9").training.evaluate_every == 9


@pytest.mark.parametrize("prefix", ["--config.", "-config.", "--noconfig."])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidn_size=3", r"unknown config field config\.model\.hidn_size; did you mean 'hid"),
        ("optimiser.b1=0.5", r"unknown config field config\.optimiser; did you mean 'optimizer'"),
        ("seed.x=3", r"unknown config field config\.seed\.x; it has no fields"),
        ("data.sets.a.b=c", r"unknown config field config\.data\.sets\.a\.b; it has no fields"),
        ("=3", r"unknown config field config\.; choose one of method"),
        ("data.sets.items=a", "'items' cannot be set by itself"),
        ("data.sets.class=a", "'class' cannot be set by itself"),
        ("data.sets._fields=a", "'_fields' cannot be set by itself"),
        (
            "optimizer.group_learning_rates.*/lora_?=1",
            r"config\.optimizer\.group_learning_rates: '\*/lora_\?' cannot be set by itself; set "
            r"the whole, as in --config\.optimizer\.group_learning_rates=\"{'\*/lora_\?': …}\"",
        ),
    ],
)
def test_what_is_no_field_is_named(parse, prefix, override, message):
    with pytest.raises(UserError, match=message):
        parse(REQUIRED, prefix + override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.log_every=x", "training.log_every=x: invalid literal for int"),
        ("optimizer.b1=x", "optimizer.b1=x: could not convert string to float"),
        ("model.mark_start=x", "model.mark_start=x: .*boolean"),
        ("data.mixture.a=x", "data.mixture.a=x: could not convert string to float"),
        ("data.buckets=a b", "data.buckets=.* as tuple"),
        ("mesh=x", "mesh=x: Failed to parse 'x' as a ConfigDict"),
    ],
)
def test_what_does_not_fit_a_field_is_named(parse, override, message):
    with pytest.raises(flags.Error, match=f"flag --config.{message}"):
        parse(REQUIRED, f"--config.{override}")


def test_a_group_and_a_field_in_it_are_not_both_set(parse):
    with pytest.raises(UserError, match=r"--config\.mesh replaces --config\.mesh\.data; give one"):
        parse(REQUIRED, "--config.mesh={}", "--config.mesh.data=1")


def test_a_flagfile_sets_fields_too(parse, tmp_path):
    (tmp_path / "flags").write_text("--config.seed=3\n")
    assert parse(REQUIRED, f"--flagfile={tmp_path}/flags").seed == 3


def test_overrides_come_after_the_file(tmp_path):
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {REQUIRED!r}\n")
    with pytest.raises(flags.Error, match=r"Found --config\.seed=3 in argv before a value"):
        command("--config.seed=3", f"--config={tmp_path}/mine.py")


def test_what_is_wrong_in_a_file_is_named_all_the_same(parse):
    with pytest.raises(UserError, match=r"^config = 3: expected a group of fields"):
        read_config(parse("3"))
    for overrides in ([], ["--config.seed=3"]):
        with pytest.raises(flags.Error, match=r"mine\.py: its get_config\(\) returns nothing"):
            parse("None", *overrides)
    with pytest.raises(flags.Error, match=r"mine\.py: config\.model = 3: expected a group"):
        parse({"model": 3}, "--config.model.num_layers=3")
    with pytest.raises(UserError, match=r"^config field config\.optimizer\.learning_rate is miss"):
        read_config(parse(REQUIRED | {"optimizer": {}}, "--config.optimizer.b1=0.5"))
    with pytest.raises(UserError, match=r"^unknown config field config\.sed; did you mean 'seed'"):
        read_config(parse(REQUIRED | {"sed": 3}, "--config.seed=3"))


def test_what_a_files_python_raises_has_its_place(parse, tmp_path):
    with pytest.raises(flags.Error, match=r"mine\.py, line 4: AttributeError: .*optimiser"):
        parse("ConfigDict({'optimizer': {}}).optimiser")
    with pytest.raises(flags.Error, match=r"mine\.py: SyntaxError: .*line 4"):
        parse("1 +")
    (tmp_path / "base.py").write_text("get_config = 5")
    with pytest.raises(flags.Error, match=r"base\.py: no function get_config\(\)"):
        parse("load_config_file(__file__, 'base.py')")
    (tmp_path / "base.py").write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(flags.Error, match=r"base\.py, line 2: ZeroDivisionError: division by zer"):
        parse("load_config_file(__file__, 'base.py')")


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    # Where the package is installed, configs/ lies in it.
    monkeypatch.setattr("importlib.resources.files", lambda package: ROOT)
    monkeypatch.chdir(tmp_path)
    for argv in (["--config=configs/demo.py"], ["--config", "configs/demo.py"]):
        assert command(*argv).data.path == "data/demo"
    with pytest.raises(flags.Error, match=r"nowhere\.py: no such file; the shipped ones are in"):
        command("--config=nowhere.py")

"""Compiling ahead of time: real programs of a small model, and what cannot be compiled."""

import collections
import dataclasses
import itertools
import json
import math

import jax
import jaxtyping
import numpy as np
import pytest
import tiny
from commands import config_file, refuse, succeed
from experiments import LAYERS, LENGTH, small_experiment
from jax.experimental import topologies

from flexmdm_jax.attention.blocks import TooManyRowsError
from flexmdm_jax.chips import CHIPS, chip_of
from flexmdm_jax.compilation import report as reports
from flexmdm_jax.compilation import workload
from flexmdm_jax.compilation.programs import (
    Compiled,
    Experiment,
    available_memory,
    bytes_per_chip,
)
from flexmdm_jax.compilation.topology import find_topology
from flexmdm_jax.config import MeshConfig, read_config
from flexmdm_jax.data.batches.pipeline import configured_batches
from flexmdm_jax.errors import UserError
from flexmdm_jax.sharding import make_mesh


@pytest.fixture(scope="module", autouse=True)
def unchecked_shapes():
    """JAX lowers with placeholders where arrays will be, which checks of shapes would refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _report(experiment, program="train", topology="v5e-4"):
    return reports.report(experiment, program, find_topology(topology))


@pytest.fixture(scope="module")
def plain():
    return _report(small_experiment(topology="v5e-1"), topology="v5e-1")


@pytest.mark.parametrize("error", [ImportError(), ValueError()])
def test_a_compiler_that_fails_without_a_word_is_one_line(monkeypatch, error):
    def fails(**_):
        raise error

    monkeypatch.setattr(topologies, "get_topology_desc", fails)
    with pytest.raises(UserError, match=type(error).__name__):
        find_topology("v6e:2x4")


def test_operations_do_not_depend_on_how_layers_run(plain):
    """Scanned and unrolled, as a small proof of the count; and what remat adds is seen."""
    unrolled = _report(small_experiment("v5e-1", scan_unroll=LAYERS), topology="v5e-1")
    assert plain.flops == pytest.approx(unrolled.flops, rel=0.005)
    full = _report(small_experiment("v5e-1", remat="full"), topology="v5e-1")
    slots, d = 2 * LENGTH, 128
    # Of each block's forward pass; what only feeds the gate of the MLP need not be redone.
    again = LAYERS * (24 * d * d * slots + 4 * d * 2 * LENGTH**2)
    assert again * 0.6 <= full.flops - plain.flops <= again * 1.05


def test_operations_are_those_of_the_model_and_what_is_known_to_be_repeated(plain):
    """Attention's scores are computed again in the backward pass; the head's logits are not."""
    scores = LAYERS * 2 * 128 * 2 * LENGTH**2
    assert plain.flops == pytest.approx(plain.model_flops + scores, rel=0.02)


def test_weak_scaling_leaves_the_work_of_a_chip_as_it_is(plain):
    four = _report(small_experiment("v5e-4", mesh=MeshConfig(-1, 1, 1)))
    assert four.chips == 4
    assert four.flops == pytest.approx(plain.flops, rel=0.02)
    assert not plain.collectives
    # Gradients are summed: each chip sends less than twice their size.
    sent = sum(moved.bytes for moved in four.collectives.values())
    assert 0 < sent < 2.2 * four.parameters


def test_parameters_are_divided_by_fsdp_and_bytes_are_counted_by_hand():
    whole = small_experiment(mesh=MeshConfig(-1, 1, 1)).state
    numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(whole.params))
    assert bytes_per_chip(whole.params) == 4 * numbers
    parts = small_experiment(mesh=MeshConfig(1, -1, 1)).state
    for name in ("qkv", "out", "mlp_in", "mlp_out"):
        kernel = parts.params["blocks"][name]["kernel"]
        assert math.prod(kernel.sharding.shard_shape(kernel.shape)) * 4 == kernel.size
    assert bytes_per_chip(parts) < 0.5 * bytes_per_chip(whole)


@pytest.mark.parametrize("length", [100, 128, 384, 1024, 1408, 1409])
def test_full_rows_are_visited_whole_and_no_more_than_kernels_are_given(length):
    """Kernels are given rows of whole tiles; a share of these pairs, which is never above 1."""
    rows = np.ones((3, length), np.int32)
    attended = workload._attended(rows, small_experiment("v5e-1"), find_topology("v5e-1"))
    key = 128 if length <= 128 else 256
    queries, keys = -(-length // 128) * 128, -(-length // key) * key
    assert attended == pytest.approx(queries * keys / keys**2)


@pytest.mark.parametrize("packed", [False, True])
def test_the_work_of_a_step_is_counted_on_the_rows_that_training_gets(tiny_dataset, packed):
    values = tiny.config(tiny_dataset)
    if packed:
        values["data"] |= {"packing": True, "row_length": tiny.LENGTH, "max_segments": 4}
    topology, vocabulary = find_topology("v5e-4"), tiny_dataset.vocabulary
    mesh = topology.mesh(MeshConfig(-1, 1, 1))
    experiment = Experiment.of(read_config(values), vocabulary, mesh, 2)
    batches = configured_batches(experiment.config, tiny_dataset, experiment.setup.process)
    counts = collections.Counter()
    for batch in itertools.islice(batches, 8):
        for name in ("tokens", "targets", "segment_ids", "gaps"):
            assert batch[name].shape == (8, tiny.LENGTH), "two rows for each of four chips"
        for row in zip(*(batch[x].tolist() for x in ("segment_ids", "tokens")), strict=True):
            lengths = collections.Counter(segment for segment in row[0] if segment)
            counts["sequences"] += len(lengths)
            counts["pairs"] += sum(n * n for n in lengths.values())
            counts["slots"] += sum(lengths.values())
            slots = zip(*row, strict=True)
            counts["masks"] += sum(bool(s) and x == vocabulary.mask for s, x in slots)
        # Of x₁ each token stands in a slot or is missing in a gap.
        held = zip(batch["segment_ids"].flat, batch["targets"].flat, strict=True)
        counts["tokens"] += sum(bool(s) and x != vocabulary.end for s, x in held)
        counts["tokens"] += int(batch["gaps"].sum())
    found = workload.workload(experiment, tiny_dataset, topology)
    for name, count in counts.items():
        assert getattr(found, name) == count / 8, name
    assert found.fill == pytest.approx(found.slots / (8 * tiny.LENGTH))
    # Two short rows are less than the least that a matrix unit takes.
    assert found.decoded == 1


def test_the_real_sampler_compiles_with_all_its_steps():
    sampling = _report(small_experiment("v5e-1"), "sample", topology="v5e-1")
    assert sampling.fits
    assert sampling.optimizer == 0
    # Every step runs the network once, and the head on chosen slots.
    assert sampling.flops == pytest.approx(sampling.model_flops, rel=0.1)


def _search(fixed, refused_unseen):
    """Returns what is found with a compiler for which a row takes 0.3 GiB of 16, and every try."""
    tried = {}

    def compile_rows(rows):
        needed = fixed + 0.3 * rows
        tried[rows] = fits = needed <= 16 and rows < refused_unseen
        known = Compiled(fits, int(needed * 2**30), None, None if fits else 16 << 30, "")
        return known if rows < refused_unseen else None

    return reports.largest(compile_rows, 2048)[0], tried


@pytest.mark.parametrize("refused_unseen", [4096, 2000])
@pytest.mark.parametrize("fixed", [0.0, 2.0, 9.5])
def test_the_search_finds_the_largest_batch_and_seldom_compiles_one_that_fits(
    fixed, refused_unseen
):
    rows, tried = _search(fixed, refused_unseen)
    step = 2 ** max(0, rows.bit_length() - 4)
    assert fixed + 0.3 * rows <= 16 < fixed + 0.3 * (rows + step)
    assert sum(tried.values()) <= 2, "what fits takes minutes to compile"
    assert len(tried) <= 10


@pytest.mark.parametrize("limit", [1, 9, 26])
def test_the_search_finds_a_limit_that_is_not_memory(limit):
    rows, tried = _search(0.0, limit + 1)
    assert rows == limit
    assert sum(tried.values()) == 1


def test_more_rows_than_attention_can_list_are_an_error_and_no_find(monkeypatch):
    def compile_program(rows, program, memory):
        if rows > 12:
            raise TooManyRowsError("the list of tiles is too long")
        return Compiled(True, 1, 1, None, "")

    monkeypatch.setattr(reports, "compile_program", compile_program)
    monkeypatch.setattr(reports, "_report", lambda rows, *_: rows)
    assert reports.search(lambda rows: rows, "train", find_topology("v5e-4")) == 12
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"train, 65536 rows per chip: .* fewer rows per device"):
        _report(small_experiment("v5e-4", rows=65536))


def test_a_model_that_never_fits_is_an_error(monkeypatch):
    refused = Compiled(False, 20 << 30, None, 16 << 30, "")
    monkeypatch.setattr(reports, "compile_program", lambda *_: refused)
    with pytest.raises(UserError, match="not even one row of train fits a chip of v5e-4"):
        reports.search(lambda rows: rows, "train", find_topology("v5e-4"))


def test_what_does_not_fit_is_reported_with_what_is_missing():
    huge = small_experiment("v5e-4", rows=4096, hidden_size=2048, num_layers=8)
    figures = _report(huge)
    assert not figures.fits
    assert figures.temporaries > figures.available
    assert "GiB too many" in "\n".join(figures.lines())


@pytest.mark.parametrize(
    ("name", "devices", "kind"),
    [("v5e-16", 16, "v5e"), ("v5p-16", 8, "v5p"), ("v4-8", 4, "v4"), ("v6e:2x4", 8, "v6e")],
)
def test_topologies_are_those_of_cloud_tpu(name, devices, kind):
    topology = find_topology(name)
    assert len(topology.devices) == devices
    assert topology.chip == CHIPS[kind]
    assert chip_of(topology.devices[0].device_kind) == CHIPS[kind]
    assert 0.9 * topology.chip.hbm < available_memory(topology) < 1.02 * topology.chip.hbm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5x-4", "unknown topology 'v5x-4'; write v5e-16"),
        ("v5e-7", "v5e comes as v5e-4, v5e-8"),
        ("v5e:3x5", "topology 'v5e:3x5': .* not divisible"),
        ("16", "unknown topology '16'"),
        (
            "h900-8",
            "unknown topology 'h900-8'; .* with one of a100, h100, h200, b200",
        ),
        ("h100-3", r"a host has h100-1, h100-2, h100-4, h100-8; write 2\*h100-8 for two hosts"),
        ("h100:2x4", "unknown topology 'h100:2x4'"),
        ("0*h100-8", r"unknown topology '0\*h100-8'"),
    ],
)
def test_unknown_topologies_are_named(name, message):
    with pytest.raises(UserError, match=message):
        find_topology(name)


def test_only_data_crosses_between_slices():
    devices = find_topology("2*v5e-4").devices
    mesh = make_mesh(MeshConfig(data=4, fsdp=2), devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert (slices == np.asarray([0, 0, 1, 1])[:, None, None]).all()
    with pytest.raises(UserError, match="data = 1 does not split over 2 slices"):
        make_mesh(MeshConfig(data=1, fsdp=8), devices)


def test_a_named_attention_is_that_of_the_devices_compiled_for():
    """Initialisation is traced here, on a CPU, which runs no kernel of theirs."""
    small_experiment("v5e-1", attention="pallas")
    small_experiment("h100-1", attention="cudnn")
    with pytest.raises(UserError, match="'cudnn' runs on gpu only and this program is for tpu"):
        small_experiment("v5e-1", attention="cudnn")


def test_the_command_writes_what_it_prints(tmp_path):
    values = tiny.config_at(tmp_path / "nowhere")
    values["data"]["max_length"] = 128
    config = f"--config={config_file(tmp_path / 'c.py', values)}"
    aot = ("aot", config, "--topology=v5e-4", "--programs=train", "--vocabulary_size=256")
    out = tmp_path / "figures.json"
    printed = succeed(*aot, "--per_device_batch=1", f"--json={out}").stdout
    [figures] = json.loads(out.read_text())
    assert set(figures) == {field.name for field in dataclasses.fields(reports.Report)}
    assert f"{figures['flops'] / 1e12:.3f}" in printed
    assert figures["mesh"] == [4, 1, 1]
    refuse("unknown topology 'v5x-4'", "aot", config, "--topology=v5x-4")
    refuse("8 rows do not split", "aot", config, "--topology=v5e-16")
    # A vocabulary is found for every kind of network before rows are counted.
    values["model"]["kind"] = "xlm"
    config = f"--config={config_file(tmp_path / 'xlm.py', values)}"
    refuse("8 rows do not split", "aot", config, "--topology=v5e-16")

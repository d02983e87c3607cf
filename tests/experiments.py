"""An experiment small enough to be compiled in a test, for chips that are not there."""

import tiny

from flexmdm_jax.compilation.programs import Experiment
from flexmdm_jax.compilation.topology import find_topology
from flexmdm_jax.config import MeshConfig, read_config
from flexmdm_jax.types import Vocabulary

LENGTH, LAYERS = 128, 2


def small_experiment(
    topology="v5e-4",
    rows=2,
    mesh=MeshConfig(1, -1, 1),  # noqa: B008
    packed=False,
    **model,
):
    values = tiny.config_at("nowhere")
    values["model"] |= {
        "hidden_size": 128,
        "num_layers": LAYERS,
        "dropout_rate": 0.0,
        "compute_dtype": "bfloat16",
    } | model
    values["data"]["max_length"] = LENGTH
    if packed:
        values["data"] |= {"packing": True, "row_length": LENGTH, "max_segments": 4}
    mesh = find_topology(topology).mesh(mesh)
    return Experiment.of(read_config(values), Vocabulary(512, 510, 511), mesh, rows)

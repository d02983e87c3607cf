"""Trainings in this process that share what they trace and compile.

A run that is taken up compiles what it compiled before, and takes longer for it than for its steps.
Those of other tests, and of commands in processes of their own, compile anew like a user's.
"""

import contextlib
import dataclasses

import pytest

from flexmdm_jax.config import config_to_dict
from flexmdm_jax.files import json_text
from flexmdm_jax.training import loop


def _without_steps(config):
    """Returns a config as JSON, without the number of steps where nothing decays with it."""
    if config.optimizer.decay == "constant":
        training = dataclasses.replace(config.training, num_steps=1)
        config = dataclasses.replace(config, training=training)
    return json_text(config_to_dict(config))


@contextlib.contextmanager
def shared():
    """While it lasts, trainings of the same config share a program, however long they are.

    test_step looks at what a constant learning rate makes of the number of steps.
    """
    known = {}

    def remember(name, key):
        make = getattr(loop, name)

        def remembered(*args):
            where = (name, *key(*args))
            if where not in known:
                known[where] = make(*args)
            return known[where]

        patch.setattr(loop, name, remembered)

    with pytest.MonkeyPatch.context() as patch:
        remember(
            "make_optimizer",
            lambda config, num_steps: (
                repr(config),
                config.decay == "constant" or num_steps,
            ),
        )
        remember("init_state", lambda setup, optimizer, seed: (setup, optimizer, seed))
        remember("sharded_shapes", lambda make_state, shardings: (make_state,))
        # The other arguments follow from the config and the setup.
        remember(
            "make_train_step",
            lambda config, setup, optimizer, shardings, expected: (
                _without_steps(config),
                setup,
                optimizer,
                expected,
            ),
        )
        yield

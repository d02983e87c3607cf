"""Runs of the planning task compared: success by calls of the network, and pictures of it."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.storage.records import Dataset
from flexmdm_jax.evaluation.curves import success_curves
from flexmdm_jax.evaluation.intervals import success_interval
from flexmdm_jax.evaluation.maze import Maze, held_out_prompts, path_of, prompt_start
from flexmdm_jax.evaluation.maze_pictures import draw_path, draw_states
from flexmdm_jax.evaluation.request import Report, Request, Table, announced
from flexmdm_jax.evaluation.suite import held_out_lengths
from flexmdm_jax.generation.engine import Completions
from flexmdm_jax.generation.starts import Start
from flexmdm_jax.model import Model
from flexmdm_jax.partial import Figures
from flexmdm_jax.sampling import SamplerConfig

COLUMNS = {
    "success": "success",
    "success_low": "95% low",
    "success_high": "95% high",
    "valid": "all free",
    "connected": "connected",
    "visits": "in order",
    "arrives": "arrives",
    "cells": "cells",
    "calls": "calls",
    "truncated": "truncated",
}


def judge(maze: Maze, prompts: np.ndarray, solutions: Completions) -> dict[str, float]:
    """Returns the share of prompts solved, with its interval, and why others are not.

    Criterion 1 is `valid`; the two parts of criterion 2, neighbouring cells and subgoals in order,
    are `connected` and `visits`. `arrives` is the share that ends at the last subgoal, `cells` the
    mean length: whether paths stop too early.
    """
    pairs = list(zip(solutions.tokens, prompts, strict=True))
    solved = [maze.is_solution(path, subgoals) for path, subgoals in pairs]
    figures = {
        "valid": [maze.is_valid(path) for path, _ in pairs],
        "connected": [maze.is_connected(path) for path, _ in pairs],
        "visits": [maze.visits(path, subgoals) for path, subgoals in pairs],
        "arrives": [maze.arrives(path, subgoals) for path, subgoals in pairs],
        "cells": [len(path) for path, _ in pairs],
    }
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    return success_interval(solved) | means | solutions.figures()


def evaluate_maze(
    models: Mapping[str, Model], dataset: Dataset, request: Request, figures: Figures
) -> Report:
    """Returns success on held-out prompts for every model and way of sampling, and pictures.

    The first row is the held-out paths themselves: how long they are. The pictures show the first
    model's way through its first prompt, sampled as it did best.
    """
    maze = Maze.of(dataset.task)
    prompts = held_out_prompts(dataset, request.num, request.seed)
    pictured = next(iter(models.values()))
    rows = {"data": {"cells": float(np.mean(held_out_lengths(dataset)))}}
    curves, successes = {}, {}
    for label, model in announced(models):
        for way in request.ways(model.setup.process, model.max_length):
            name = f"{label}, {way.name}"
            found = figures.of(name, _success, model, maze, prompts, way.sampler, request)
            rows[name] = found
            curves.setdefault(f"{label}, {way.rule}", []).append(found)
            if model is pictured:
                successes[way.sampler] = found["success"]
    best = max(successes, key=successes.get)
    pictures = _pictures(pictured, maze, prompts, best)
    return Report(rows, [Table("", COLUMNS)], {"success.png": success_curves(curves)} | pictures)


def _success(
    model: Model, maze: Maze, prompts: np.ndarray, sampler: SamplerConfig, request: Request
) -> dict[str, float]:
    starts = [_start(prompt, maze, model) for prompt in prompts]
    rows = model.complete(starts, sampler, batch_size=request.batch_size, seed=request.seed)
    paths = [path_of(row, maze, model.setup.process) for row in rows.tokens]
    return judge(maze, prompts, dataclasses.replace(rows, tokens=paths))


def _start(prompt: Int[np.ndarray, "k"], maze: Maze, model: Model) -> Start:
    process = model.setup.process
    return prompt_start(prompt, model.max_length, process, separator=maze.separator)


def _pictures(model: Model, maze: Maze, prompts, sampler: SamplerConfig) -> dict[str, bytes]:
    # The first prompt's row is the same alone.
    frames, row = model.watch(_start(prompts[0], maze, model), sampler)
    process = model.setup.process
    pictures = {"path.png": draw_path(maze, prompts[0], path_of(row.tokens, maze, process))}
    if process.inserts:
        states = [frame.tokens for frame in frames[1:]]
        pictures["states.png"] = draw_states(maze, prompts[0], states, process.vocabulary)
    return pictures

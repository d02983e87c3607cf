"""The same preparation as an Apache Beam pipeline."""

import json

import tiny

from flexmdm_jax.data.preparation.runners import beam, processes
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset


def test_beam_writes_what_one_process_writes(tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in tiny.texts())
    (tmp_path / "corpus.jsonl").write_text(lines)
    plan = Plan(f"jsonl:{tmp_path}/corpus.jsonl", "bytes", max_length=16, unit_bytes=2000)
    written = []
    for name, runner in (("beam", beam(["--runner=DirectRunner"])), ("process", processes(1))):
        directory = prepare_dataset(tmp_path / name, plan, runner).directory
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        written.append({path.relative_to(directory): path.read_bytes() for path in files})
    assert len(written[0]) > 8
    assert written[0] == written[1]

"""Throughput and memory of preparation beside plain tiktoken; python -m benchmarks.data_preparation

Reads the OpenWebText excerpts of the folder FLEXMDM_DATA_DIR and GPT-2's two files of
--tokenizer_dir. Times are CPU seconds of all threads, so that other work on the machine does not
count.
"""

import argparse
import gzip
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.memory import peak_megabytes
from flexmdm_jax.data.preparation.runners import processes
from flexmdm_jax.data.preparation.units import Plan, prepare_dataset
from flexmdm_jax.data.sources.corpora import read_documents
from flexmdm_jax.data.tokenizers import make_tokenizer

EXCERPTS = "openwebtext_excerpts/owt_1000.jsonl.gz"


def excerpts() -> pathlib.Path:
    """Returns the file of the excerpts, which may not be there."""
    return pathlib.Path(os.environ.get("FLEXMDM_DATA_DIR", ""), EXCERPTS)


def write_corpus(path: pathlib.Path, copies: int) -> float:
    """Writes the excerpts so many times over and returns the megabytes of their text."""
    lines = gzip.decompress(excerpts().read_bytes())
    with path.open("wb") as file:
        for _ in range(copies):
            file.write(lines)
    texts = (json.loads(line)["text"] for line in lines.splitlines())
    return copies * sum(len(text.encode()) for text in texts) / 1e6


def prepare(corpus: str, out: str, tokenizer_dir: str) -> None:
    plan = Plan(f"jsonl:{corpus}", "gpt2")
    prepare_dataset(
        pathlib.Path(out), plan, processes(1), tokenizer_dir=pathlib.Path(tokenizer_dir)
    )


def cpu_seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_memory(tokenizer_dir: str, corpus: str, out: str) -> str:
    """Prepares in a process of its own and returns the most memory it has held."""
    command = [sys.executable, "-m", "benchmarks.data_preparation", "--only", corpus, out]
    command += ["--tokenizer_dir", tokenizer_dir]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer_dir", required=True)
    parser.add_argument("--only", nargs=2, metavar=("CORPUS", "OUT"), help="print the peak memory")
    arguments = parser.parse_args()
    if arguments.only:
        prepare(*arguments.only, arguments.tokenizer_dir)
        print(f"{peak_megabytes():.0f} MB")
        return
    if not excerpts().exists():
        parser.error("FLEXMDM_DATA_DIR does not name the folder that holds " + EXCERPTS)
    with tempfile.TemporaryDirectory() as folder:
        where = pathlib.Path(folder)
        few, many = (write_corpus(where / f"{copies}.jsonl", copies) for copies in (2, 22))
        tokenizer = make_tokenizer("gpt2", [], pathlib.Path(arguments.tokenizer_dir))
        texts = list(read_documents(f"jsonl:{where}/22.jsonl"))
        plain = cpu_seconds(lambda: [tokenizer.encode(text) for text in texts])
        # The difference of two runs: loading the tokenizer costs the same in both.
        start, whole = (
            cpu_seconds(
                lambda copies=copies: prepare(
                    f"{where}/{copies}.jsonl", f"{where}/d{copies}", arguments.tokenizer_dir
                )
            )
            for copies in (2, 22)
        )
        encoding, preparing = many / plain, (many - few) / (whole - start)
        print(f"tiktoken, documents: {encoding:.1f} MB per CPU second")
        print(f"preparation: {preparing:.1f} MB per CPU second, {preparing / encoding:.2f} of that")
        for copies in (4, 40):
            size = write_corpus(where / "c.jsonl", copies)
            peak = peak_memory(arguments.tokenizer_dir, f"{where}/c.jsonl", f"{where}/{copies}")
            print(f"peak memory, {size:.0f} MB of text: {peak}")


if __name__ == "__main__":
    main()

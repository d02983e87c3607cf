"""The launch scripts, with recording stand-ins for what they call; nothing leaves the machine."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
POD = {"PROJECT": "proj", "ZONE": "us-west4-a", "BUCKET": "buck"}
WHERE = ["--project=proj", "--zone=us-west4-a"]
RECORD = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
stdin = "" if sys.stdin.isatty() else sys.stdin.read()
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps([[name, *sys.argv[1:]], stdin]) + "\\n")
answers = folder / (name + ".answers")
if answers.exists():
    first, *rest = answers.read_text().splitlines() or ["0"]
    answers.write_text("\\n".join(rest))
    status, _, text = first.partition(" ")
    print(text)
    sys.exit(int(status))
"""


class Shell:
    """Runs scripts with only stand-ins and the system's basic tools on PATH."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol"):
            path = self.bin / name
            path.write_text(RECORD.format(python=sys.executable, folder=str(folder)))
            path.chmod(0o755)

    def run(self, script, *arguments, status=0, **environment):
        path = os.pathsep.join([str(self.bin), "/usr/bin", "/bin"])
        result = subprocess.run(
            [LAUNCH / script, *arguments],
            env={"PATH": path, "HOME": str(self.folder)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert result.returncode == status, result.stderr
        return result

    def calls(self):
        """What was called since the last time, as (argv, stdin)."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [tuple(json.loads(line)) for line in lines]

    def answer(self, name, *lines):
        """Sets what a stand-in says, call by call: an exit status, then text."""
        (self.folder / f"{name}.answers").write_text("\n".join(lines))


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    command = [pathlib.Path(sys.executable).with_name("shellcheck"), "-x", "-P", "SCRIPTDIR"]
    result = subprocess.run([*command, script], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_slice_is_asked_for_through_queued_resources(shell):
    shell.run("tpu_pod.sh", "create", "run1", **POD, SPOT="1")
    [(call, _)] = shell.calls()
    assert call == [
        *("gcloud", "compute", "tpus", "queued-resources", "create", "run1"),
        *WHERE,
        "--node-id=run1",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    ]


def test_every_worker_installs_and_runs(shell):
    flags = ["--config=configs/owt.py", "--config.data.path=bucket/data/it's"]
    shell.run("tpu_pod.sh", "install", "run1", **POD)
    shell.run("tpu_pod.sh", "train", "run1", *flags, **POD)
    copy, install, train = (call for call, _ in shell.calls())
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    assert copy[:5] == [*vm, "scp"]
    assert copy[6:] == ["run1:flexmdm_jax.tar.gz", *WHERE, "--worker=all"]
    for call in (install, train):
        assert call[:-1] == [*vm, "ssh", "run1", *WHERE, "--worker=all"]
        assert "gcsfuse --implicit-dirs buck bucket" in call[-1]
    # What the worker's shell makes of the command is what was asked for.
    line = next(line for line in train[-1].splitlines() if "flexmdm_jax.train" in line)
    words = shlex.split(line.partition(" 2>&1")[0])
    assert words[:4] == ["env/bin/python", "-m", "flexmdm_jax.train", "--multihost"]
    assert words[-3:] == ["--workdir=bucket/runs/run1", *flags]


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_every_worker_takes_part_in_what_is_done_with_a_run(shell, verb):
    shell.run("tpu_pod.sh", verb, "run1", "--steps=64", "--rule=a b", **POD)
    [(call, _)] = shell.calls()
    assert call[4:-1] == ["ssh", "run1", *WHERE, "--worker=all"]
    words = shlex.split(call[-1].splitlines()[-1])
    expected = ["env/bin/python", "-m", f"flexmdm_jax.{verb}", "--multihost"]
    assert words == [*expected, "--workdir=bucket/runs/run1", "--steps=64", "--rule=a b"]


WORKER = """
#!/bin/bash
n=$(cat count); echo $((n + 1)) > count
case $n in
  0) echo 'told to stop: all is saved'; exit 0 ;;
  1) exit 1 ;;
  *) exit {last} ;;
esac
"""


@pytest.mark.parametrize("last", [0, 2])
def test_a_worker_goes_on_until_the_run_is_through(shell, tmp_path, last):
    """The remote command itself, run here: a stop and a crash are followed by a restart."""
    shell.run("tpu_pod.sh", "train", "run1", **POD)
    [(call, _)] = shell.calls()
    command = call[-1].partition("=")[2]
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(WORKER.strip().format(last=last))
    python.chmod(0o755)
    (tmp_path / "count").write_text("0")
    # No waiting between the turns, and the bucket is there.
    command = f"sleep() {{ :; }}; mountpoint() {{ :; }}\n{command}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == last, result.stderr
    assert (tmp_path / "count").read_text().strip() == "3"


def test_a_preempted_slice_is_asked_for_again(shell):
    """The states Cloud TPU goes through, one answer a call of gcloud."""
    lost = ["0 ABSENT", "0", "0 ACTIVE", "0", "0", "255", "0 SUSPENDED", "0"]
    again = ["0 ABSENT", "0", "0 PROVISIONING", "0 ACTIVE", "0", "0", "0"]
    shell.answer("gcloud", *lost, *again)
    shell.run("tpu_pod.sh", "all", "run1", **POD, POLL="0")
    verbs = {"describe", "create", "delete", "scp", "ssh"}
    calls = [next(word for word in call if word in verbs) for call, _ in shell.calls()]
    assert calls == [
        *("describe", "create", "describe", "scp", "ssh", "ssh", "describe", "delete"),
        *("describe", "create", "describe", "describe", "scp", "ssh", "ssh"),
    ]


@pytest.mark.parametrize("command", ["create", "status", "delete", "logs"])
def test_a_dry_run_prints_the_call_that_would_be_made(shell, command):
    printed = shell.run("tpu_pod.sh", "--dry_run", command, "run1", **POD).stdout
    assert not shell.calls()
    shell.run("tpu_pod.sh", command, "run1", **POD)
    [(call, _)] = shell.calls()
    assert shlex.split(printed) == call


def _manifest(text):
    """Returns the JobSet's pod specification; the manifest's YAML, read by its indentation."""
    return {
        key.strip(" -"): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if value
    }


def test_a_jobset_is_applied(shell):
    gke = {"BUCKET": "buck", "IMAGE": "gcr.io/proj/flexmdm:1", "HOSTS": "8", "TPU_TOPOLOGY": "4x8"}
    flags = ["--config=configs/owt.py", "--config.seed=4"]
    printed = shell.run("gke.sh", "--dry_run", "create", "run-1", *flags, **gke).stdout
    assert not shell.calls()
    shell.run("gke.sh", "create", "run-1", *flags, **gke)
    [(call, manifest)] = shell.calls()
    assert call == ["kubectl", "apply", "-f", "-"]
    assert manifest == printed
    values = _manifest(manifest)
    assert values["parallelism"] == values["completions"] == "8"
    assert values["cloud.google.com/gke-tpu-topology"] == "4x8"
    assert values["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    assert values["bucketName"] == "buck"
    assert values["image"] == "gcr.io/proj/flexmdm:1"
    assert "${" not in manifest
    command = next(line for line in manifest.splitlines() if "flexmdm_jax.train" in line)
    assert shlex.split(command)[-4:] == ["--workdir=/bucket/runs/run-1", *flags, "&"]


def test_slurm_gets_the_script_and_its_flags(shell):
    runs = {"RUNS": "/shared/runs"}
    script = LAUNCH / "slurm_gpu.sbatch"
    printed = shell.run(script.name, "--dry_run", "run1", "--config=configs/owt.py", **runs).stdout
    assert not shell.calls()
    shell.run(script.name, "run1", "--config=configs/owt.py", **runs)
    [(call, _)] = shell.calls()
    assert call == ["sbatch", "--export=ALL", str(script), "run1", "--config=configs/owt.py"]
    first, second = printed.splitlines()
    assert shlex.split(first) == call
    job = runs | {"SLURM_JOB_ID": "7"}
    shell.run(script.name, "run1", "--config=configs/owt.py", **job)
    [(call, _)] = shell.calls()
    assert call == shlex.split(second)
    assert call[:2] == ["srun", "--kill-on-bad-exit=1"]
    assert "--workdir=/shared/runs/run1" in call


def test_a_slurm_job_that_crashes_is_queued_again_and_bad_input_is_not(shell):
    job = {"RUNS": "/shared/runs", "SLURM_JOB_ID": "7"}
    shell.answer("srun", "137")
    shell.run("slurm_gpu.sbatch", "run1", **job)
    assert [call for call, _ in shell.calls()][1:] == [["scontrol", "requeue", "7"]]
    shell.answer("srun", "2")
    shell.run("slurm_gpu.sbatch", "run1", **job, status=2)
    assert len(shell.calls()) == 1


def test_local_processes_know_each_other(shell):
    arguments = ("--dry_run", "3", "--config=c.py", "--workdir=a b")
    printed = shell.run("local_multiprocess.sh", *arguments, PORT="99").stdout
    commands = [shlex.split(line) for line in printed.splitlines()]
    common = ["python3", "-m", "flexmdm_jax.train", "--config=c.py", "--workdir=a b"]
    where = ["--coordinator=127.0.0.1:99", "--num_processes=3"]
    assert commands == [[*common, *where, f"--process_id={number}"] for number in range(3)]


WORKERS = """#!/bin/bash
# Process 0 ends at once, process 1 when process 0 has, or else never.
folder=$(dirname "$0")
case "$*" in
  *--process_id=0*) echo > "$folder/done"; exit {first} ;;
  *) until [ -e "$folder/done" ]; do :; done; [ {first} = 0 ] && exit {second}; exec sleep 1000 ;;
esac
"""


@pytest.mark.parametrize(
    ("first", "second", "status", "restarts"),
    [(0, 0, 0, 0), (2, 0, 2, 0), (0, 2, 2, 0), (137, 0, 2, 1), (0, 1, 2, 1)],
)
def test_local_processes_end_together(shell, tmp_path, first, second, status, restarts):
    """Through, refused, killed: restarted once as allowed, unless there is no use."""
    worker = tmp_path / "worker"
    worker.write_text(WORKERS.format(first=first, second=second))
    worker.chmod(0o755)
    environment = {"PYTHON": str(worker), "MAX_RESTARTS": "1"}
    result = shell.run("local_multiprocess.sh", "2", status=status, **environment)
    assert result.stderr.count("all start again") == restarts


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("tpu_pod.sh", ["create", "x"], {"ZONE": "z", "BUCKET": "b"}, "$PROJECT is not set"),
        ("tpu_pod.sh", ["create", "x"], {"ZONE": "z", "PROJECT": "p"}, "$BUCKET is not set"),
        ("tpu_pod.sh", ["creat", "x"], POD, "unknown command creat"),
        ("gke.sh", ["create", "x"], {"BUCKET": "b"}, "$IMAGE is not set"),
        ("gke.sh", ["create", "X_"], {}, "lower case"),
        ("slurm_gpu.sbatch", ["x"], {}, "$RUNS is not set"),
        ("local_multiprocess.sh", ["none"], {}, "usage"),
    ],
)
def test_what_is_missing_is_said_in_a_line(shell, script, arguments, environment, message):
    result = shell.run(script, *arguments, status=2, **environment)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not shell.calls()

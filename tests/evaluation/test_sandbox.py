"""Programs that mean harm: each must be contained, reported for what it is, and leave nothing."""

import contextlib
import itertools
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

from flexmdm_jax.errors import UserError
from flexmdm_jax.evaluation import sandbox as sandboxes
from flexmdm_jax.evaluation.sandbox import Limits, Program, Sandbox, Verdict

ROOT = pathlib.Path(__file__).parents[2]
TEST = "def check(f):\n    assert f(1) == 2\n    assert f(2) == 3\n"
# Told to every process of the sandbox, and found in its command line as long as it lives.
MARK = 77.125


def _protections():
    try:
        return sandboxes.protections()
    except UserError:
        return ()


ON = _protections()
NAMESPACES, SECCOMP = "namespaces", "seccomp"
pytestmark = pytest.mark.skipif(not ON, reason="no program can be run on this system")


def needs(*names):
    missing = [name for name in names if name not in ON]
    return pytest.mark.skipif(bool(missing), reason=f"the sandbox lacks {missing} here")


def run(source, test=TEST, *, without=(), wall_seconds=MARK, **limits):
    missing = tuple(name for name in sandboxes.OPTIONAL if name not in ON)
    limits = Limits(wall_seconds=wall_seconds, **limits)
    sandbox = Sandbox(limits, tuple(dict.fromkeys((*missing, *without))))
    return sandbox.run(Program(source, test, "f"))


def processes(mark):
    """Returns the ids of the sandbox's processes that a number was told to."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(mark).encode() in path.read_bytes() and b"confinement" in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    """After every program there are no processes and no folders that were not there before."""
    pattern = f"{tempfile.gettempdir()}/flexmdm-program-*"
    yield
    assert processes(MARK) == []
    assert list(pathlib.Path("/").glob(pattern.lstrip("/"))) == []


def test_a_right_program_passes_and_a_wrong_one_says_where_it_fails():
    assert run("def f(x): return x + 1").passed
    verdict = run("def f(x): return 2")
    assert verdict == Verdict("failed", "AssertionError: assert f(2) == 3", verdict.seconds)
    assert verdict.seconds > 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x): return x +", "SyntaxError: invalid syntax"),
        ("def f(x): return y", "NameError: name 'y' is not defined"),
        ("def g(x): return x + 1", "the program defines no f"),
        ("f = 3", "the program defines no f"),
        ("def f(x): raise KeyError('a')\n", "KeyError"),
        ("class E(Exception): pass\ndef f(x): raise E('x\\ny')", "RuntimeError: E: x$"),
        ("def f(x): return f(x)", "RecursionError"),
        ("def f(x): return x\0", "null bytes"),
        ("def f(x): return '\ud800'", "surrogates not allowed"),
        ("", "the program defines no f"),
        ("import os\nos.mkfifo('test')\ndef f(x): pass", r"AssertionError: assert f\(1\) == 2"),
    ],
)
def test_programs_that_fail_say_why(source, reason):
    verdict = run(source)
    assert verdict.outcome == "failed"
    assert re.search(reason, verdict.reason)
    assert "\n" not in verdict.reason


def test_a_test_may_call_other_functions_and_get_what_they_raise():
    source = (
        "def f(x):\n    if x > 1: raise ValueError('large')\n    return [x]\ndef g(x): return -x"
    )
    test = """
def check(f):
    assert f(g(-1)) == [1]
    try:
        f(2)
    except ValueError as error:
        assert str(error) == 'large'
    else:
        assert False
"""
    assert run(source, test).passed


# Ways to end without having done what is asked.
@pytest.mark.parametrize(
    ("source", "outcome", "reason"),
    [
        ("import os\nos._exit(0)", "crashed", "ended its process with status 0"),
        ("import os\ndef f(x): os._exit(0)", "crashed", "ended its process with status 0"),
        ("import os\ndef f(x): os.kill(os.getpid(), 9)", "crashed", "killed by signal 9"),
        ("import os\ndef f(x): os.kill(os.getpid(), 40)", "crashed", "killed by signal 40"),
        ("import sys\nsys.exit(0)", "failed", "SystemExit: 0"),
        ("def f(x): raise SystemExit", "failed", "SystemExit"),
        ("def f(x): raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
        ("import ctypes\ndef f(x): return ctypes.string_at(0)", "crashed", "killed by signal 11"),
        ("def f(x): return bytearray(1 << 31)", "failed", "MemoryError"),
        ("def f(x): return 'x' * (17 << 20)", "crashed", "an answer in no known form"),
    ],
)
def test_ending_early_is_not_passing(source, outcome, reason):
    verdict = run(source)
    assert verdict.outcome == outcome
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("source", "limits", "reason"),
    [
        ("def f(x):\n    while True: print('x' * 9999)", {"cpu_seconds": 1}, "1 s of computing"),
        ("import time\ndef f(x): time.sleep(1e6)", {"wall_seconds": 0.5}, "not done after 0.5 s"),
        ("import os, time\nos.closerange(0, 99)\ntime.sleep(1e6)", {"wall_seconds": 0.5}, "0.5 s"),
    ],
)
def test_what_does_not_end_is_ended(source, limits, reason):
    verdict = run(source, **limits)
    assert verdict.outcome == "timed out"
    assert reason in verdict.reason
    assert processes(limits.get("wall_seconds", MARK)) == []


# Ways to be taken for right. All of them know what they would have to say.
@pytest.mark.parametrize(
    "source",
    [
        "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(x): return Yes(7)",
        "import builtins\nbuiltins.AssertionError = int\ndef f(x): return 7",
        "import sys, types\nfor m in list(sys.modules.values()):\n"
        "    if 'confinement' in getattr(m, '__name__', ''):\n"
        "        m.judge = lambda *a, **k: ('passed', '')\ndef f(x): return 7",
        "import os\ndef f(x):\n    for fd in range(99):\n        try:\n"
        '            os.write(fd, b\'{"outcome": "passed", "reason": ""}\\n\')\n'
        "        except OSError: pass\n    return 7",
        "import os\ndef f(x):\n    for fd in range(99):\n        try:\n"
        '            os.write(fd, b\'{"value": {"evil": []}}\\n\')\n'
        "        except OSError: pass\n    return 7",
        "import os\nfor fd in range(99):\n    try:\n"
        '        os.write(fd, b\'{"value": ["f", "check", "__builtins__"]}\\n\')\n'
        "    except OSError: pass\ndef f(x): return 7",
        "def check(f): pass\ndef f(x): return 7",
    ],
    ids=itertools.count(),
)
def test_verdicts_cannot_be_forged(source):
    assert run(source).outcome in ("failed", "crashed")


def test_names_of_built_in_functions_stay_the_tests_own():
    test = "def check(f):\n    assert abs(f(1) - 2) < 1e-6\n"
    assert not run("def abs(x): return 0\ndef f(x): return 7", test).passed


def test_a_test_that_catches_everything_does_not_pass_over_an_end():
    test = "def check(f):\n    try:\n        f(1)\n    except BaseException:\n        pass\n"
    assert run("def f(x): raise ValueError", test).passed
    assert run("import os\ndef f(x): os._exit(0)", test).outcome == "crashed"


def test_the_program_finds_nothing_of_the_test():
    source = """
import gc, os, sys

def f(secret):
    seen = [sys.argv, dict(os.environ), sys.stdin and sys.stdin.read()]
    frame = sys._getframe()
    while frame:
        seen += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    seen += [x for x in gc.get_objects() if isinstance(x, (str, bytes, dict, list, tuple))]
    # What is asked for is itself in memory, written the other way round.
    return any(secret[::-1] in repr(x) for x in seen)
"""
    hidden = "you-shall-not-find-by"
    test = f"def check(f):\n    assert f({hidden[::-1]!r}) is False\n    {hidden!r}\n"
    assert run(source, test, cpu_seconds=20).passed
    assert run(source.replace("[::-1]", ""), test, cpu_seconds=20).outcome == "failed"


@needs(NAMESPACES)
def test_the_view_from_inside_is_empty(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    source = """
import os, sys
def f(x):
    ids = {os.getuid(), os.geteuid(), os.getgid(), os.getegid()}
    return [ids, os.listdir("."), os.path.exists("/proc"), os.path.exists("/home"),
            os.path.exists("/etc/passwd"), "SOME_TOKEN" in os.environ, os.getpid() < 5]
"""
    test = "def check(f): assert f(1) == [{65534}, [], False, False, False, False, True], f(1)"
    verdict = run(source, test)
    assert verdict.passed, verdict


@pytest.fixture
def canary():
    """A file that no program may see, read, write or remove, though anybody may."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="canary-"))
    folder.chmod(0o777)
    file = folder / "file"
    file.write_text("alive")
    file.chmod(0o666)
    yield file
    assert file.read_text() == "alive"
    assert list(folder.iterdir()) == [file]
    shutil.rmtree(folder)


@needs(NAMESPACES)
@pytest.mark.parametrize("without", [(), (SECCOMP,)])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x): return open({file!r}).read()", "FileNotFoundError"),
        ("import os\ndef f(x): os.remove({file!r})", "FileNotFoundError"),
        ("import shutil\ndef f(x): shutil.rmtree({folder!r})", "FileNotFoundError"),
        ("import os\ndef f(x): os.symlink({file!r}, 'l'); open('l')", "FileNotFoundError"),
        ("import os\ndef f(x): os.link({file!r}, 'l')", "FileNotFoundError"),
        ("def f(x): open('../outside', 'w')", "Read-only file system"),
        ("import os\ndef f(x): open(os.__file__, 'a')", "Read-only|Permission"),
        ("import os\ndef f(x): os.unlink(os.__file__)", "Read-only|Permission"),
        ("import os\ndef f(x): os.chroot('.')", "not permitted"),
        ("import os\ndef f(x): os.setuid(0)", "not permitted|Invalid"),
        ("def f(x): open('x', 'wb').write(bytes(99 << 20))", "too large|No space"),
        (
            "def f(x):\n    for n in range(9): open(str(n), 'wb').write(bytes(4 << 20))",
            "No space left",
        ),
        ("def f(x):\n    for n in range(9999): open(str(n), 'wb').close()", "No space left"),
        ("def f(x): return [open(str(n), 'w') for n in range(99)]", "Too many open files"),
        (
            "import resource as r\ndef f(x): r.setrlimit(r.RLIMIT_AS, (-1, -1))",
            "not allowed to raise",
        ),
        ("import os\ndef f(x): os.kill({pid}, 15)", "No such process|ProcessLookupError"),
    ],
)
def test_what_is_outside_is_out_of_reach(canary, source, reason, without):
    told = {"file": str(canary), "folder": str(canary.parent), "pid": os.getpid()}
    for name, value in told.items():
        source = source.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", str(value))
    verdict = run(source, without=without)
    assert verdict.outcome == "failed"
    assert re.search(reason, verdict.reason)


@needs(NAMESPACES)
@pytest.mark.parametrize("without", [(), (SECCOMP,)])
def test_signals_reach_nobody(without):
    source = """
import os, signal
def f(x):
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGSTOP):
        os.kill(os.getppid(), number)
        try: os.kill(-1, number)
        except ProcessLookupError: pass
    return x + 1
"""
    assert run(source, without=without).passed


FORKS = """
import os
def f(x):
    while True:
        os.fork()
"""
THREADS = """
import threading, time
def f(x):
    while True:
        threading.Thread(target=time.sleep, args=(1e6,)).start()
"""
EXECUTES = """
import os, sys
def f(x): os.execv("/proc/self/exe", ["x"])
"""


@pytest.mark.parametrize(
    ("source", "without", "reason"),
    [
        pytest.param(FORKS, (), "not permitted", marks=needs(SECCOMP)),
        pytest.param(FORKS, (SECCOMP,), "temporarily unavailable", marks=needs(NAMESPACES)),
        pytest.param(THREADS, (), "can't start new thread", marks=needs(SECCOMP)),
        pytest.param(THREADS, (SECCOMP,), "can't start new thread", marks=needs(NAMESPACES)),
        pytest.param(EXECUTES, (), "not permitted", marks=needs(SECCOMP)),
    ],
)
def test_a_program_stays_one_process(source, without, reason):
    verdict = run(source, without=without)
    assert verdict.outcome == "failed"
    assert reason in verdict.reason


@pytest.fixture
def listening():
    """An abstract Unix socket, which has no file that could be hidden, and a port."""
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as port:
        unix.bind(f"\0flexmdm-{os.getpid()}")
        port.bind(("127.0.0.1", 0))
        for one in (unix, port):
            one.listen()
            one.setblocking(False)
        yield unix, port
        for one in (unix, port):
            with pytest.raises(BlockingIOError):
                one.accept()


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        pytest.param((), "not permitted", marks=needs(SECCOMP)),
        pytest.param((SECCOMP,), "refused|unreachable", marks=needs(NAMESPACES)),
        pytest.param((NAMESPACES,), "not permitted", marks=needs(SECCOMP)),
    ],
)
def test_no_socket_is_reached(listening, without, reason):
    unix, port = listening
    for family, address in (("AF_UNIX", unix.getsockname()), ("AF_INET", port.getsockname())):
        # Python's own modules, which root's may be out of reach of others, are not needed for it.
        source = f"import _socket\ndef f(x): _socket.socket(_socket.{family}).connect({address!r})"
        verdict = run(source, without=without)
        assert verdict.outcome == "failed"
        if not (NAMESPACES in without and "No module" in verdict.reason):
            assert re.search(reason, verdict.reason)


PEEKS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(x):
    attached = libc.ptrace(16, 1, 0, 0)
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
    return [attached, libc.process_vm_readv(1, local, 1, remote, 1, 0)]
"""


@needs(NAMESPACES)
@pytest.mark.parametrize("without", [(), (SECCOMP,)])
def test_the_process_of_the_test_cannot_be_looked_into(without):
    # Where it fails is where the program's own memory has a buffer: a fork has the same layout.
    test = "def check(f): assert f(1) == [-1, -1], f(1)"
    verdict = run(PEEKS, test, without=without)
    assert verdict.passed, verdict


def test_programs_end_with_who_runs_them():
    mark = 99.625
    start = (
        "from flexmdm_jax.evaluation.sandbox import *; "
        f"Sandbox(Limits(wall_seconds={mark}), {tuple(set(sandboxes.OPTIONAL) - set(ON))}).run("
        "Program('import time\\ndef f(x): time.sleep(1e6)', 'def check(f): f(1)', 'f'))"
    )
    runner = subprocess.Popen([sys.executable, "-c", start], env={"PYTHONPATH": str(ROOT)})
    while len(processes(mark)) < 3:
        with pytest.raises(subprocess.TimeoutExpired):
            runner.wait(timeout=0.01)
    runner.kill()
    runner.wait()
    while processes(mark):
        pass


def test_verdicts_keep_the_order_of_their_programs():
    numbers = [1, 7, 1, None, 7, 1]
    jobs = [
        (place, None if n is None else Program(f"def f(x): return x + {n}", TEST, "f"))
        for place, n in enumerate(numbers)
    ]
    missing = tuple(name for name in sandboxes.OPTIONAL if name not in ON)
    found = list(Sandbox(without=missing).run_all(jobs, workers=2))
    assert [place for place, _ in found] == list(range(6))
    passed = [None if verdict is None else verdict.passed for _, verdict in found]
    assert passed == [True, False, True, None, False, True]


def test_a_sandbox_that_fails_itself_is_no_verdict(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the sandbox failed"):
        Sandbox().run(Program("def f(x): return x + 1", TEST, "f"))
    with pytest.raises(UserError, match="no program can be run here: the sandbox failed"):
        Sandbox.open()


def _lacking(*names):
    def answer(self, program):
        missing = [name for name in names if name not in self.without]
        if missing:
            return {"missing": missing[0], "reason": "not here"}
        return {"outcome": "passed", "reason": "", "seconds": 0.1}

    return answer


def test_what_a_system_lacks_is_refused_unless_it_is_accepted(monkeypatch):
    monkeypatch.setattr(Sandbox, "_answer", _lacking(NAMESPACES, SECCOMP))
    with pytest.raises(
        UserError, match=r"lacks namespaces here \(not here\).*--allow_missing=name"
    ):
        Sandbox.open()
    with pytest.raises(UserError, match="lacks seccomp here"):
        Sandbox.open(allow_missing=[NAMESPACES])
    with pytest.raises(UserError, match="no protection is called 'all'"):
        Sandbox.open(allow_missing=["all"])
    sandbox = Sandbox.open(allow_missing=[NAMESPACES, SECCOMP])
    assert set(sandbox.without) == {NAMESPACES, SECCOMP}
    assert sandbox.protections == sandboxes.ALWAYS == sandboxes.protections()
    with pytest.raises(RuntimeError, match="lost namespaces"):
        Sandbox().run(Program("", "", "f"))


def _reachable_python():
    """Returns a Python that another user can start, and how to be one, if root runs the tests."""
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    if os.geteuid() or not shutil.which("setpriv"):
        return None
    for python in (sys.executable, "/usr/bin/python3"):
        asks = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True); "
            "sys.exit(sys.version_info < (3, 11))"
        )
        if subprocess.run([*become, python, "-c", asks], capture_output=True).returncode == 0:
            return [*become, python]
    return None


# What another user runs.
AS_ANOTHER = """
import os, sys
sys.dont_write_bytecode = True
from flexmdm_jax.evaluation.sandbox import Program, Sandbox
sandbox = Sandbox.open()
print(os.getuid(), *sandbox.protections[:2])
looks = "import os\\ndef f(x): return [os.getuid(), os.listdir('.'), os.path.exists('/proc')]"
test = "def check(f): assert f(1) == [65534, [], False], f(1)"
print(sandbox.run(Program(looks, test, "f")).outcome)
print(sandbox.run(Program("import os\\ndef f(x): os.fork()", test, "f")).outcome)
"""


@needs(NAMESPACES, SECCOMP)
@pytest.mark.skipif(_reachable_python() is None, reason="no Python that another user can start")
def test_ordinary_users_are_held_back_alike():
    with tempfile.TemporaryDirectory() as copy:
        package = pathlib.Path(copy, "flexmdm_jax")
        shutil.copytree(ROOT / "flexmdm_jax" / "evaluation", package / "evaluation")
        for name in ("__init__.py", "errors.py"):
            shutil.copy(ROOT / "flexmdm_jax" / name, package / name)
        os.chmod(copy, 0o755)
        result = subprocess.run(
            [*_reachable_python(), "-c", AS_ANOTHER],
            env={"PYTHONPATH": copy},
            cwd="/",
            capture_output=True,
            text=True,
        )
    expected = ["12345", NAMESPACES, SECCOMP, "passed", "failed"]
    assert result.stdout.split() == expected, result.stderr

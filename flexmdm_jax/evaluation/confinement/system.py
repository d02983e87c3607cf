"""The calls of Linux that shut a process in, through the C library that Python already holds."""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Mapping

# Whom a program runs as, inside; outside it is this one too where root starts it.
NOBODY = 65534
# Where the view from inside is put together, unseen by others, and its only writable folder.
_ROOT, _FOLDER = "/tmp", "/work"
# What Python's extension modules may be linked to.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/etc/ld.so.cache")

_libc = ctypes.CDLL(None, use_errno=True)

_NEW_MOUNTS, _NEW_HOST_NAME, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USERS, _NEW_PROCESSES, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_NO_SUID, _NO_DEVICES, _NO_EXECUTION = 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2
_HERE, _ALL_BELOW, _READ_ONLY = -100, 0x8000, 1
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_DIE_WITH_PARENT, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITIES_3 = 0x20080522


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, *values: object) -> None:
    """Sets something of this process.

    Raises:
      OSError: If the kernel will not.
    """
    arguments = [ctypes.c_ulong(x) if isinstance(x, int) else x for x in values]
    padding = [ctypes.c_ulong(0)] * (4 - len(arguments))
    _checked(_libc.prctl(option, *arguments, *padding), f"prctl {option}")


def die_with_parent() -> None:
    """Has this process killed when the one that forked it ends."""
    prctl(_DIE_WITH_PARENT, int(signal.SIGKILL))


def no_new_privileges() -> None:
    """Makes set-user-id programs ordinary ones, for this process and all of its children."""
    prctl(_NO_NEW_PRIVILEGES, 1)


def untraceable() -> None:
    """Lets no other process of the same user look into this one."""
    prctl(_DUMPABLE, 0)


def leave_groups() -> None:
    """Takes root out of its groups, which it would keep as another user."""
    if os.geteuid() == 0:
        os.setgroups([])


def enter_namespaces() -> None:
    """Moves into namespaces of users, mounts, networks, IPC and names; children into a new one of
    processes, where the first is process 1, whose end is the end of all.

    Who root is outside stays root inside until drop_user(); an ordinary user is NOBODY at once.

    Raises:
      OSError: If the system does not allow it.
    """
    leave_groups()
    go, done = _map_users_from_outside()
    ours = _NEW_USERS | _NEW_MOUNTS | _NEW_PROCESSES | _NEW_NETWORK | _NEW_IPC | _NEW_HOST_NAME
    try:
        _checked(_libc.unshare(ours), "unshare")
        os.write(go, b"x")
    finally:
        os.close(go)
        _, status = os.waitpid(done, 0)
    if status:
        raise OSError("user ids cannot be mapped")


def _map_users_from_outside() -> tuple[int, int]:
    """Returns (where a byte starts it, the process) that maps the ids of this process's namespace.

    Only a process that stays outside may give root a second id.
    """
    pid, user, group = os.getpid(), os.geteuid(), os.getegid()
    waits, go = os.pipe()
    mapper = os.fork()
    if mapper:
        os.close(waits)
        return go, mapper
    status = 1
    try:
        os.close(go)
        if os.read(waits, 1):
            _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/gid_map", _id_map(group, user == 0))
            _write(f"/proc/{pid}/uid_map", _id_map(user, user == 0))
            status = 0
    finally:
        os._exit(status)


def _id_map(outside: int, is_root: bool) -> str:
    return f"0 {outside} 1\n{NOBODY} {NOBODY} 1\n" if is_root else f"{NOBODY} {outside} 1\n"


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enter_empty_root(folder_bytes: int) -> None:
    """Leaves this process a read-only view of Python and its libraries, and one folder to write.

    There are no devices and no /proc. The folder lies in memory and is gone with the process.

    Args:
      folder_bytes: What the folder may hold.

    Raises:
      OSError: If the system does not allow it.
    """
    os.umask(0o022)
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    shown: list[str] = []
    for path in (sys.base_prefix, sys.base_exec_prefix, *_LIBRARIES):
        if not any(path == other or path.startswith(f"{other}/") for other in shown):
            shown += [path] if _show(path) else []
    os.mkdir(_ROOT + _FOLDER)
    attributes = struct.pack("QQQQ", _READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    _syscall(_MOUNT_SETATTR, _HERE, _ROOT.encode(), _ALL_BELOW, attributes, len(attributes))
    _mount(
        "tmpfs",
        _ROOT + _FOLDER,
        "tmpfs",
        _NO_SUID | _NO_DEVICES | _NO_EXECUTION,
        f"size={folder_bytes},nr_inodes=1000,mode=700,uid={NOBODY},gid={NOBODY}",
    )
    os.chdir(_ROOT)
    # The old root comes to lie on the new one, and is taken away: no folder is needed for it.
    _syscall(_PIVOT_ROOT[platform.machine()], b".", b".")
    _checked(_libc.umount2(b".", _DETACH), "umount")
    os.chdir(_FOLDER)


def _show(path: str) -> bool:
    """Returns whether there is something at a path, after showing it inside."""
    inside = _ROOT + path
    if not os.path.exists(path):
        return False
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return True
    if os.path.isdir(path):
        os.makedirs(inside, exist_ok=True)
    else:
        _write(inside, "")
    _mount(path, inside, None, _BIND | _RECURSIVE)
    return True


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    names = [None if name is None else name.encode() for name in (source, target, kind)]
    result = _libc.mount(*names, ctypes.c_ulong(flags), data.encode())
    _checked(result, f"mount {target}")


def _syscall(number: int, *values: object) -> None:
    arguments = [ctypes.c_long(x) if isinstance(x, int) else x for x in values]
    _checked(_libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def drop_user() -> None:
    """Makes root NOBODY, and leaves nobody a capability.

    Raises:
      OSError: If the system does not allow it.
    """
    if os.geteuid() == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    _checked(_libc.capset(header, none), "capset")


def limit(limits: Mapping[str, int]) -> None:
    """Limits this process, which can then start no other.

    Args:
      limits: cpu_seconds, memory_bytes and folder_bytes.
    """
    seconds = limits["cpu_seconds"]
    for kind, most, more in (
        # Whoever outlives the signal of the first is killed at the second.
        (resource.RLIMIT_CPU, seconds, 1),
        (resource.RLIMIT_AS, limits["memory_bytes"], 0),
        (resource.RLIMIT_FSIZE, limits["folder_bytes"], 0),
        (resource.RLIMIT_NOFILE, 64, 0),
        (resource.RLIMIT_NPROC, 1, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(kind)
        given = hard if hard != resource.RLIM_INFINITY else most + more
        resource.setrlimit(kind, (min(most, given), min(most + more, given)))

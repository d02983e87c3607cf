"""A filter of system calls: what no solution of a programming task needs is refused with EPERM.

Namespaces hide what is outside, this keeps a program from the parts of the kernel that they are
made of, and from what they do not cover (vsock, the memory of memfd and System V). It lists what
is refused, not what is allowed, since the second list would change with every libc.
"""

import ctypes
import errno
import platform
import struct

from flexmdm_jax.evaluation.confinement.system import prctl

# Numbers on x86-64 and on aarch64; None where an architecture has no such call.
REFUSED: dict[str, tuple[int | None, int]] = {
    # Other processes and programs; threads as well.
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    # What other processes hold.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    # Networks, those of the machine's host included.
    "socket": (41, 198),
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # Memory that no limit counts.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Large or privileged parts of the kernel.
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "personality": (135, 92),
}
# Name of the machine -> (its AUDIT_ARCH, its column above).
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# Numbers from here on are x86-64's calls once more, with pointers of 32 bits.
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
_SET_SECCOMP, _MODE_FILTER = 22, 2


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """Returns the filter as instructions (code, steps if true, steps if false, operand).

    Raises:
      OSError: If the numbers of a machine's calls are not known here.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no numbers of system calls for {machine}")
    architecture, column = _ARCHITECTURES[machine]
    numbers = [row[column] for row in REFUSED.values() if row[column] is not None]
    last = len(numbers)
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, last + 1, 0, _X32),
        *((_EQUAL, last - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]


def install() -> None:
    """Filters this process's calls from now on; no_new_privileges() comes first.

    Raises:
      OSError: If the kernel or the machine has no such filters.
    """
    instructions = program(platform.machine())
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(packed, len(packed))
    described = struct.pack("HP", len(instructions), ctypes.addressof(code))
    prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(described, len(described)))

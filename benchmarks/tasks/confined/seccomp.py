"""System calls that a program does not get: a seccomp filter, written in BPF.

Numbers of x86-64 and ARM64 are known. From 424 on all architectures share their numbers; of these
and later ones, only those in `NEW_AND_HARMLESS` are let through.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

__all__ = ["filter_program", "restrict_calls"]

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PR_SET_SECCOMP = 22
FILTER_MODE = 2
FIRST_SHARED = 424
NEW_AND_HARMLESS = (436, 437, 439, 441, 449, 451, 453, 454, 455, 456, 462)
"""close_range, openat2, faccessat2, epoll_pwait2, futex_waitv, cachestat, map_shadow_stack,
futex_wake, futex_wait, futex_requeue, mseal."""
DENIED = {
    # other processes, and more of them
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    # sockets (a pair that is already connected is allowed: asyncio needs it)
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # memory that outlives the process or is counted nowhere
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    # parts of the kernel with a history of faults
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_setup": (206, 0),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "remap_file_pages": (216, 234),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "modify_ldt": (154, None),
    # the machine
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
}
METADATA = {
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
"""Calls by which a process changes what it may not write; Landlock knows few of them."""
CLONE = (56, 220)
CLONE_THREAD = 0x10000
SIGNALS = ((62, 129), (234, 131))  # kill, tgkill
PRCTL = (157, 167)
NAMING = (15, 16)  # PR_SET_NAME, PR_GET_NAME
PRLIMIT = (302, 261)
SOCKETPAIR = (53, 199)
STREAMS = (1, 0x80001, 0x801, 0x80801)  # SOCK_STREAM with SOCK_CLOEXEC and SOCK_NONBLOCK
FCNTL = (72, 25)
OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG and F_SETOWN_EX send signals to others
IOCTL = (16, 29)
REQUESTS = (0x5412, 0x541C, 0x8901, 0x8902)  # TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP
LOAD, EQUAL, NOT_BELOW, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""


def filter_program(machine: str, pid: int, change_metadata: bool) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Args:
        machine: one of `ARCHITECTURES`.
        pid: the only process that may get signals.
        change_metadata: allow what changes mode, owner, times and length of files by name.
    """
    column = list(ARCHITECTURES).index(machine)
    x32 = 0x40000000
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (NOT_BELOW, 0, 1, x32),
        (RETURN, 0, 0, KILL),
    ]
    for number in NEW_AND_HARMLESS:
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    code += [(NOT_BELOW, 0, 1, FIRST_SHARED), (RETURN, 0, 0, ERROR | ENOSYS)]
    for numbers in (DENIED if change_metadata else DENIED | METADATA).values():
        if (number := numbers[column]) is not None:
            code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ERROR | EPERM)]
    code += _checked(CLONE[column], 0, ANY_BIT, [CLONE_THREAD])
    for numbers in SIGNALS:
        code += _checked(numbers[column], 0, EQUAL, [pid])
    code += _checked(PRCTL[column], 0, EQUAL, NAMING)
    code += _checked(PRLIMIT[column], 0, EQUAL, [0])
    code += _checked(SOCKETPAIR[column], 1, EQUAL, STREAMS)
    code += _checked(FCNTL[column], 1, EQUAL, OWNERS, allowed=False)
    code += _checked(IOCTL[column], 1, EQUAL, REQUESTS, allowed=False)
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _checked(
    number: int, argument: int, test: int, values: Iterable[int], *, allowed: bool = True
) -> list[Instruction]:
    """Decide a call by the lower half of an argument; the kernel reads these as 32 bits."""
    found, otherwise = (ALLOW, ERROR | EPERM) if allowed else (ERROR | EPERM, ALLOW)
    body: list[Instruction] = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * argument)]
    for value in values:
        body += [(test, 0, 1, value), (RETURN, 0, 0, found)]
    body.append((RETURN, 0, 0, otherwise))
    return [(EQUAL, 0, len(body), number), *body]


def restrict_calls(libc: ctypes.CDLL, change_metadata: bool) -> bool:
    """Install the filter for this process, for good; whether the kernel supports it."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        return False
    code = filter_program(machine, os.getpid(), change_metadata)
    memory = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(memory))
    )
    return libc.prctl(PR_SET_SECCOMP, FILTER_MODE, program, 0, 0) == 0

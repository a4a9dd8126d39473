"""Taking away from a process what running a model needs not: network, programs, other processes.

For a child that runs model files of others (``continuer/caged.py``, ``agent/engine_worker.py``).
Two independent means, both without privileges, of which either closes the network:

- a filter of system calls (seccomp, x86-64 and aarch64): no sockets, no other programs, no new
  processes, no signals to others and no looking into them;
- a network namespace of its own, with no interface up, where user namespaces are permitted
  (inside a service with ``RestrictNamespaces=`` they are not).

What stays possible: reading files that the process's user may read, and using up what its limits
grant. Where neither holds the caller is told, and says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Mapping

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
CLONE_THREAD = 0x10000

#: What ``close_network`` and ``forbid_calls`` answer with.
NAMESPACE = "network namespace"
FILTER = "system call filter"

# Instructions of the kernel's classic BPF, and where it finds what (``struct seccomp_data``).
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_DENIED = _ERRNO | errno.EPERM
# System calls of x86-64's other calling convention begin here.
_X32 = 0x40000000

# Kernel headers: asm/unistd_64.h and asm-generic/unistd.h. Per machine: its AUDIT_ARCH, what is
# denied always, and what depends on the first argument. Newer calls have one number everywhere.
_EVERYWHERE = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
}
_DENY: dict[str, dict[str, int]] = {
    "x86_64": {
        "socket": 41, "connect": 42, "bind": 49, "socketpair": 53, "fork": 57, "vfork": 58,
        "execve": 59, "ptrace": 101, "rt_sigqueueinfo": 129, "mount": 165, "tkill": 200,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    },
    "aarch64": {
        "mount": 40, "unshare": 97, "ptrace": 117, "tkill": 130, "rt_sigqueueinfo": 138,
        "socket": 198, "socketpair": 199, "bind": 200, "connect": 203, "add_key": 217,
        "request_key": 218, "keyctl": 219, "execve": 221, "rt_tgsigqueueinfo": 240,
        "perf_event_open": 241, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "bpf": 280, "execveat": 281, "userfaultfd": 282,
    },
}  # fmt: skip
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_SIGNAL_ITSELF = {"x86_64": (62, 234), "aarch64": (129, 131)}  # kill, tgkill
_CLONE3 = 435


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def die_with_parent(signal: int) -> None:
    """Get this signal when the thread that started this process ends."""
    _libc().prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)


def limit(limits: Mapping[int, int]) -> None:
    """Set resource limits, for good: soft and hard, where the present hard one permits."""
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        # At the soft limit of CPU time comes SIGXCPU, which says why; at the hard one SIGKILL.
        ceiling = most + 1 if what == resource.RLIMIT_CPU else most
        ceiling = ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard)
        resource.setrlimit(what, (min(most, ceiling), ceiling))


def close_network() -> str | None:
    """Move this process, which must have one thread, into a network namespace of its own.

    Returns ``NAMESPACE``, or None where the system does not permit it.
    """
    if not sys.platform.startswith("linux"):
        return None
    for flags in (CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNET):
        if _libc().unshare(flags) == 0:
            return NAMESPACE
    return None


def forbid_calls() -> str | None:
    """Filter this process's system calls from now on.

    Returns ``FILTER``, or None where the system or this kind of machine has none.
    """
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _ARCH or sys.maxsize < 1 << 32:
        return None
    code = b"".join(struct.pack("=HBBI", *step) for step in _program(machine, os.getpid()))
    program = _Program(len(code) // 8, code)
    libc = _libc()
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return None
    done = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return FILTER if done == 0 else None


def _program(machine: str, pid: int) -> Iterable[tuple[int, int, int, int]]:
    """Steps as (code, jump if true, jump if false, operand)."""
    yield _LOAD, 0, 0, _ARCH_AT
    yield _EQUAL, 1, 0, _ARCH[machine]
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER_AT
    yield _AT_LEAST, 0, 1, _X32
    yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    for number in (*_DENY[machine].values(), *_EVERYWHERE.values()):
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _DENIED
    # Its arguments lie in memory, where a filter cannot look; libc then takes clone instead.
    yield _EQUAL, 0, 1, _CLONE3
    yield _RETURN, 0, 0, _ERRNO | errno.ENOSYS
    yield from _only_if(_CLONE[machine], (_ANY_BIT, CLONE_THREAD))
    for number in _SIGNAL_ITSELF[machine]:
        yield from _only_if(number, (_EQUAL, pid))
    yield _RETURN, 0, 0, _ALLOW


def _only_if(number: int, test: tuple[int, int]) -> Iterable[tuple[int, int, int, int]]:
    """The call is denied unless its first argument passes the test."""
    code, operand = test
    yield _EQUAL, 0, 4, number
    yield _LOAD, 0, 0, _FIRST_ARGUMENT_AT
    yield code, 1, 0, operand
    yield _RETURN, 0, 0, _DENIED
    yield _RETURN, 0, 0, _ALLOW


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)

"""Let the kernel refuse system calls of this process, as a file system does that cannot do them; for good."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping

_NUMBERS = {
    "x86_64": {"link": 86, "linkat": 265, "renameat2": 316},
    "aarch64": {"linkat": 37, "renameat2": 276},
}
POSSIBLE = os.uname().sysname == "Linux" and platform.machine() in _NUMBERS
NO_LINKS = {"link": errno.EPERM, "linkat": errno.EPERM}
NO_EXCLUSIVE_NAMES = {**NO_LINKS, "renameat2": errno.EINVAL}

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def refuse(calls: Mapping[str, int]) -> None:
    """Answer these calls with these error numbers, in this process and those that it starts."""
    known = _NUMBERS[platform.machine()]
    steps = [struct.pack("HBBI", _LOAD, 0, 0, 0)]  # the call's number
    for name, number in calls.items():
        if name in known:
            steps += [
                struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, known[name]),
                struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | number),
            ]
    steps.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(steps), b"".join(steps))
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

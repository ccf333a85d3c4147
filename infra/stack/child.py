"""Start a part so that it cannot outlive its supervisor: `child.py SUPERVISOR-PID COMMAND…`.

The kernel kills a process that asked for it (`prctl(2)`, PR_SET_PDEATHSIG) when
its parent dies, however the parent dies, and keeps that promise across `exec`.
A program of its own, not a `preexec_fn`: code between fork and exec is unsafe
in a process that has threads. Runs with `python -I -S`, so it takes some 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask to be killed with the parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the kernel could know
        sys.exit("the supervisor has gone")
    try:
        os.execv(command[0], command)  # noqa: S606 - that there is no shell is the point
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()

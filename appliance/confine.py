"""What an engine's process may do: compute. No network, no privileges, no other process, no file to write but its cache, little memory.

An engine comes from elsewhere; its graphs have been checked (engines.contents), but what runs them is a large program. So the worker gives
up, for good and before it opens the bundle, what playing does not need. Nothing here raises: what the kernel does not permit is
said in one line, and done without.

    files      Landlock: reads as the user may; writes below the cache folder, and to the GPU's device nodes
    network    seccomp: no socket, neither by socket() nor io_uring; where there is a GPU, Unix sockets are left to its driver
    others     seccomp: no ptrace, no memory of other processes, no exec (but beside a GPU); Landlock: no signals to them (Linux 6.12)
    memory     RLIMIT_DATA: twice what the manifest says that the engine needs, and room for the runtime

Landlock holds for the thread that asks and for those that it starts: so this comes before a runtime is loaded, and the service lets numpy
start none (OPENBLAS_NUM_THREADS=1). Runs in: the worker process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from engines.bundle import Bundle, locate
from engines.proofs import cache_root

ROOM_BYTES, UNMEASURED_BYTES, ROOMY_BYTES = 768 << 20, 2 << 30, 16 << 30
GPU_NODES = ("nvidia*", "nvhost*", "nvgpu*", "nvmap", "dri/*", "nvidia-caps/*")
OTHER_NODES = ("null", "zero", "full", "random", "urandom")
CPU_RUNTIMES = ("onnxruntime", "openvino", "auto")

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_FILTER, _SET_FILTER, _ALL_THREADS = 38, 22, 2, 1, 1
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
_WRITE_FILE, _TRUNCATE = 1 << 1, 1 << 14
_CHANGES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))  # remove and make of every kind
_REFER, _TCP, _SCOPES = 1 << 13, 0b11, 0b11
_UNIX = 1


@dataclass(frozen=True)
class Machine:
    """What system calls are called on one kind of processor."""

    audit: int
    seccomp: int
    socket: int
    exec: tuple[int, ...]
    others: tuple[int, ...]  # ptrace, process_vm_readv and _writev, io_uring_setup, pidfd_getfd
    foreign: int | None  # calls from here on belong to another ABI


MACHINES = {
    "x86_64": Machine(0xC000003E, 317, 41, (59, 322), (101, 310, 311, 425, 438), 0x40000000),
    "aarch64": Machine(0xC00000B7, 277, 198, (221, 281), (117, 270, 271, 425, 438), None),
}
_libc = ctypes.CDLL(None, use_errno=True)


def has_gpu(dev: Path = Path("/dev")) -> bool:
    return any(dev.glob("nvidia[0-9]*")) or any(dev.glob("nvhost-gpu")) or (dev / "nvmap").exists()


def memory_for(memory_bytes: int, bundle_bytes: int, backend: str, gpu: bool) -> int:
    """How much more than at its start a worker may allocate. Runtimes that nobody measures at packing get what no bug stays below."""
    if backend not in CPU_RUNTIMES or (backend == "auto" and gpu):
        return ROOMY_BYTES
    needs = memory_bytes if memory_bytes else UNMEASURED_BYTES + 4 * bundle_bytes
    return 2 * needs + ROOM_BYTES


def confine_worker(engine: str, backend: str) -> list[str]:
    """All of it, for the engine at this address on this runtime. Returns what was not permitted. Raises BundleError."""
    gpu = backend not in (*CPU_RUNTIMES[:2], "torch") and has_gpu()
    refused = confine(cache_root(), gpu)
    if engine == "echo":
        return refused
    bundle = Bundle.open(locate(engine))
    return refused + limit_memory(memory_for(bundle.manifest.memory_bytes, bundle.path.stat().st_size, backend, gpu))


def confine(cache: Path, gpu: bool) -> list[str]:
    """Give up what is not memory. Returns what was not permitted."""
    steps: list[tuple[str, Callable[[], None]]] = [
        ("no new privileges", lambda: _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))),
        ("files read-only", lambda: restrict_files(_writable(cache, gpu))),
        ("no network", lambda: restrict_calls(gpu)),
    ]
    return [line for what, ask in steps if (line := _refused(what, ask))]


def limit_memory(more_bytes: int) -> list[str]:
    """From here on this process may allocate so much and no more. Returns what was not permitted."""
    return [line for line in [_refused("bounded memory", lambda: _limit_data(more_bytes))] if line]


def _limit_data(more_bytes: int) -> None:
    with open("/proc/self/status") as status:
        now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wished = now + more_bytes
    limit = wished if hard == resource.RLIM_INFINITY else min(wished, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _writable(cache: Path, gpu: bool) -> list[Path]:
    nodes = (*OTHER_NODES, *(GPU_NODES if gpu else ()))
    return [cache, *(path for pattern in nodes for path in sorted(Path("/dev").glob(pattern)))]


def restrict_files(writable: Iterable[Path]) -> None:
    """Nothing in a file system can be changed but below `writable`. Raises OSError."""
    version = _syscall(_LANDLOCK_CREATE, None, 0, 1)
    changes = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("<QQQ", changes, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _syscall(_LANDLOCK_CREATE, attributes, size, 0)
    try:
        for path in writable:
            _allow(ruleset, path, changes)
        _syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, changes: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = changes if path.is_dir() else changes & (_WRITE_FILE | _TRUNCATE)
        _syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("<Qi", allowed, fd), 0)
    finally:
        os.close(fd)


def restrict_calls(gpu: bool) -> None:
    """Refuse the system calls that reach other machines and processes. Raises OSError."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are unknown here")
    program = _filter(machine, gpu)
    held = ctypes.create_string_buffer(program)
    address = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    try:
        _syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, address)
    except OSError:  # not permitted by a service manager's own filter: this thread at least, and all that it starts
        _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, address, 0, 0))


def _filter(machine: Machine, gpu: bool) -> bytes:
    """A classic BPF program over struct seccomp_data: number at 0, architecture at 4, first argument at 16."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refused = [*machine.others, *(() if gpu else machine.exec)]
    code: list[tuple[int, int | str, int | str, int]] = [(load, 0, 0, 4), (equal, 0, "deny", machine.audit), (load, 0, 0, 0)]
    if machine.foreign is not None:
        code.append((at_least, "deny", 0, machine.foreign))
    code += [(equal, "deny", 0, number) for number in refused]
    code += [(equal, 0, "allow", machine.socket), (load, 0, 0, 16), (equal, "allow" if gpu else "deny", "deny", _UNIX)]
    places = {"allow": len(code), "deny": len(code) + 1}
    code += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050000 | errno.EACCES)]

    def jump(at: int, to: int | str) -> int:
        return to if isinstance(to, int) else places[to] - at - 1

    return b"".join(struct.pack("<HBBI", op, jump(at, yes), jump(at, no), k) for at, (op, yes, no, k) in enumerate(code))


def _refused(what: str, ask: Callable[[], None]) -> str:
    """Empty, or what was refused and why."""
    try:
        ask()
    except (OSError, ValueError, StopIteration) as error:
        return f"{what} ({getattr(error, 'strerror', None) or error})"
    return ""


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """Raises OSError."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

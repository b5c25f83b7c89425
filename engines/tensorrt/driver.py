"""The NVIDIA driver, asked before anything else is: which GPU is there, or exactly what is missing.

TensorRT without a working driver does not fail politely (its lean runtime ends the process), so nobody calls it before `probe` has
answered. Plain ctypes on the driver's own library: nothing needs to be installed for the question.

    python -m engines.tensorrt.driver        the answer as JSON, from a process of its own

Runs in: the worker process, the compiler's process, `ghostnote check`.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.backend import BackendError

LIBRARY = "libcuda.so.1"
OLDEST_CUDA = (12, 6)  # JetPack 6.1
OLDEST_CAPABILITY = (7, 5)  # Turing: the oldest that TensorRT for RTX compiles for
JETSONS = ((8, 7), (11, 0))  # Orin, Thor: what TensorRT for RTX does not compile for
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
MODULE_VERSION, POWER_MODE = Path("/sys/module/nvidia/version"), Path("/var/lib/nvpmodel/status")

MEANINGS = {
    34: "it is the CUDA toolkit's stub, not a driver: take the toolkit's stubs folder out of LD_LIBRARY_PATH",
    100: "it finds no GPU: is one fitted, switched on in the firmware, and visible here (CUDA_VISIBLE_DEVICES, container options)?",
    803: "its kernel module is of another version: restart the machine after a driver update",
    804: "it is a forward-compatibility library, and this GPU takes none: use the driver's own libcuda",
    999: "it can't reach its kernel module: restart the machine (common after suspend or an update)",
}


class DriverError(BackendError):
    """No GPU can be used: one line that says what is missing and what to do."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU, as its driver describes it."""

    name: str
    compute_capability: str  # "SM89"
    cuda: str  # the newest CUDA that the driver runs: "12.8"
    driver: str  # "570.86.10", or the CUDA version where the kernel does not tell
    memory_bytes: int
    power_mode: str  # of a Jetson, else ""
    jetson: bool  # compiles with JetPack's TensorRT, on the device


def probe(library: str = LIBRARY) -> Gpu:
    """The GPU that programs here get. Raises DriverError."""
    cuda = _load(library)
    _call(cuda, "cuInit", 0)
    version = _number(cuda, "cuDriverGetVersion")
    newest = (version // 1000, version % 1000 // 10)
    if newest < OLDEST_CUDA:
        raise DriverError(f"the NVIDIA driver runs CUDA {_dotted(newest)} at most, {_dotted(OLDEST_CUDA)} is needed: update the driver")
    if _number(cuda, "cuDeviceGetCount") < 1:
        raise DriverError(f"the NVIDIA driver is there, but {MEANINGS[100]}")
    device = _number(cuda, "cuDeviceGet", 0)
    capability = tuple(_number(cuda, "cuDeviceGetAttribute", which, device) for which in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGetName", name, len(name), device)
    gpu = name.value.decode(errors="replace")
    if capability < OLDEST_CAPABILITY:
        raise DriverError(f"{gpu} has compute capability {_dotted(capability)}; {_dotted(OLDEST_CAPABILITY)} (Turing) or newer is needed")
    memory = ctypes.c_size_t()
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    driver = _first_word(MODULE_VERSION) or f"CUDA {_dotted(newest)}"
    power_mode = _first_word(POWER_MODE)
    return Gpu(gpu, "SM{}{}".format(*capability), _dotted(newest), driver, memory.value, power_mode, capability in JETSONS)


def _load(library: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        if "No such file" in str(error):
            hint = "install your distribution's NVIDIA driver (a Jetson has it from JetPack)"
            raise DriverError(f"no NVIDIA driver is installed ({library} is not there): {hint}") from None
        raise DriverError(f"the NVIDIA driver does not load ({error}): install the driver for this machine") from None


def _number(cuda: ctypes.CDLL, function: str, *arguments: int) -> int:
    """A driver call that writes one int through its first argument."""
    value = ctypes.c_int()
    _call(cuda, function, ctypes.byref(value), *arguments)
    return value.value


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    try:
        code = getattr(cuda, function)(*arguments)
    except AttributeError:
        raise DriverError(f"{LIBRARY} is not an NVIDIA driver (it has no {function}): install the driver for this machine") from None
    if code:
        raise DriverError(f"the NVIDIA driver is there, but {MEANINGS.get(code, f'{function} fails with CUDA error {code}')}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _first_word(path: Path) -> str:
    try:
        return (path.read_text().split() or [""])[0]
    except OSError:
        return ""


def main() -> None:
    try:
        print(json.dumps({"gpu": asdict(probe())}))
    except DriverError as error:
        print(json.dumps({"missing": str(error)}))


if __name__ == "__main__":
    main()

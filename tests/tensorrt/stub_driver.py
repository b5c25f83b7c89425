"""A stand-in for libcuda.so.1, compiled with the machine's C compiler: it answers the probe's questions and computes nothing."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class StubDriver:
    """What it answers; `lacks` names a function that it does not have."""

    init: int = 0
    cuda: int = 12_080
    devices: int = 1
    capability: tuple[int, int] = (8, 9)
    lacks: str = ""

    def build(self, folder: Path) -> Path:
        if shutil.which("gcc") is None:
            pytest.skip("needs gcc, to compile a stub of the driver")
        folder.mkdir(parents=True, exist_ok=True)
        functions = {
            "cuInit": f"(unsigned flags) {{ return {self.init}; }}",
            "cuDriverGetVersion": f"(int *version) {{ *version = {self.cuda}; return 0; }}",
            "cuDeviceGetCount": f"(int *count) {{ *count = {self.devices}; return 0; }}",
            "cuDeviceGet": "(int *device, int index) { *device = index; return 0; }",
            "cuDeviceGetAttribute": "(int *value, int which, int device) "
            f"{{ *value = which == 75 ? {self.capability[0]} : {self.capability[1]}; return 0; }}",
            "cuDeviceGetName": '(char *name, int size, int device) { snprintf(name, size, "Stub GPU"); return 0; }',
            "cuDeviceTotalMem_v2": "(size_t *bytes, int device) { *bytes = 8ul << 30; return 0; }",
        }
        source = ["#include <stddef.h>", "#include <stdio.h>"]
        source += [f"int {name}{body}" for name, body in functions.items() if name != self.lacks]
        (folder / "stub.c").write_text("\n".join(source))
        library = folder / "libcuda.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, folder / "stub.c"], check=True)
        return library

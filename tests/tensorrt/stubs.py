"""Type stubs of the real TensorRT and pycuda, made from the real bindings while the tests run: their licence lets us use, not ship, them.

TensorRT's bindings import without TensorRT when its three libraries are there in name: dummies with the symbols that are looked up, from
the C compiler. pybind11-stubgen does the rest, but for what it can't know (`mended`). pycuda would have to be built with CUDA's headers;
its stub is read from its source, where names of functions, methods and arguments stand in calls to Boost.Python.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

BINDINGS = Path(sys.prefix) / "bindings"  # `make test` puts them there
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
    "getInferLibVersion", "getLogger",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
DEFAULT = re.compile(r"=\s*<[^>]*(?:<[^>]*>[^>]*)*>")  # default values that are not Python


def dummy_libraries(major: str, folder: Path) -> Path:
    """Libraries that TensorRT's bindings load in place of TensorRT."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dummy.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", folder / soname, source], check=True)
    return folder


def tensorrt_stub(version: str, out: Path) -> Path:
    """The stub of classic TensorRT `version` -> the folder for MYPYPATH."""
    libraries = dummy_libraries(version.split(".")[0], out / "libraries")
    places = {"PYTHONPATH": str(BINDINGS / version), "LD_LIBRARY_PATH": str(libraries)}
    text = _stubgen("tensorrt_bindings.tensorrt", out / "raw", places)
    return _write(out / "stubs", "tensorrt", mended(text.replace("tensorrt_bindings.tensorrt.", "")))


def rtx_stub(out: Path) -> Path:
    """The stub of the installed TensorRT for RTX, under both names."""
    text = _stubgen("tensorrt_rtx_bindings.tensorrt_rtx", out / "raw", {})
    stubs = _write(out / "stubs", "tensorrt_rtx", mended(text.replace("tensorrt_rtx_bindings.tensorrt_rtx.", "")))
    added = "".join(f"from tensorrt_rtx import {name} as {name}\n" for name in ("__version__", "nptype"))
    return _write(stubs, "tensorrt", f"from tensorrt_rtx import *\n{added}")


def _stubgen(module: str, out: Path, places: dict[str, str]) -> str:
    command = [sys.executable, "-m", "pybind11_stubgen", module, "--ignore-all-errors", "-o", str(out)]
    subprocess.run(command, env={**os.environ, **places}, check=True, capture_output=True)
    return out.joinpath(*module.split(".")).with_suffix(".pyi").read_text()


def mended(text: str) -> str:
    """Python again where the generator printed C++, and what bindings do that their signatures do not say."""
    lines = [DEFAULT.sub("= ...", line) if " = " in line or line.lstrip().startswith("def ") else line for line in text.split("\n")]
    text = _with_members(_parsing(lines))
    return text + "\n__version__: str\ndef nptype(trt_type: DataType) -> type[typing.Any]: ...\n"  # both are in the package's Python part


def _parsing(lines: list[str]) -> str:
    """Signatures that are no Python (a parameter named `in`) become ones that take anything."""
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            assert error.lineno is not None
            line = lines[error.lineno - 1]
            function = re.match(r"(\s*)def (\w+)", line)
            assert function, line
            lines[error.lineno - 1] = f"{function[1]}def {function[2]}(self, *a: typing.Any, **k: typing.Any) -> typing.Any: ..."
            lines[error.lineno : error.lineno] = [f"{function[1]}def _{function[2]}(self) -> None:"]  # for its docstring
        else:
            return "\n".join(lines)


def _with_members(text: str) -> str:
    """Dims iterates by __getitem__ and IHostMemory is a buffer: mypy wants both said."""
    iterates = "class Dims:\n    def __iter__(self) -> typing.Iterator[int]: ...\n"
    buffer = "class IHostMemory:\n    def __buffer__(self, flags: int) -> memoryview: ...\n"
    return text.replace("class Dims:\n", iterates, 1).replace("class IHostMemory:\n", buffer, 1)


def _write(stubs: Path, package: str, text: str) -> Path:
    target = stubs / package / "__init__.pyi"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return stubs


CLASS = re.compile(r'py::class_<[^;(]*?>\s*\(\s*"(\w+)"')
MEMBER = re.compile(r'\.(def|add_property|def_readonly|def_readwrite)\(\s*"(\w+)"|\.DEF_SIMPLE_METHOD(?:_\w+)?\((\w+)')
FUNCTION = re.compile(r'py::def\(\s*"(\w+)"|DEF_SIMPLE_FUNCTION(?:_\w+)?\((\w+)\)')
ANYTHING = "*a: typing.Any, **k: typing.Any"


def pycuda_stub(stubs: Path) -> Path:
    """pycuda.driver's classes, methods and functions, read from the source that `make test` fetched. Types are not known, names are."""
    archive = next(BINDINGS.glob("pycuda/pycuda-*.tar.gz"))
    with tarfile.open(archive) as sources:
        members = {Path(member.name).name: member for member in sources if member.name.endswith(("wrap_cudadrv.cpp", "pycuda/driver.py"))}
        wrapper, driver = (sources.extractfile(members[name]) for name in ("wrap_cudadrv.cpp", "driver.py"))
        assert wrapper is not None and driver is not None
        compiled, written = wrapper.read().decode(), driver.read().decode()
    starts = [*CLASS.finditer(compiled)]
    classes: dict[str, list[str]] = {}
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        body = compiled[start.end() : end.start() if end else len(compiled)]
        classes[start[1]] = [_member(*member.groups()) for member in MEMBER.finditer(body)]
    for owner, name in re.findall(r"^\s+(\w+)\.(\w+) = \w+$", written, re.MULTILINE):
        classes.get(owner, []).append(_member("def", name, None))
    names = {one[0] or one[1] for one in FUNCTION.findall(compiled)} | set(re.findall(r"^def ([a-z]\w+)", written, re.MULTILINE))
    lines = ["import typing", *(f"def {name}({ANYTHING}) -> typing.Any: ..." for name in sorted(names))]
    for name, methods in classes.items():
        own = [f"    def __init__(self, {ANYTHING}) -> None: ...", *sorted({f"    {method}" for method in methods if "__" not in method})]
        lines += [f"class {name}:", *own]
    _write(stubs, "pycuda", "")
    (stubs / "pycuda" / "driver.pyi").write_text("\n".join(lines) + "\n")
    return stubs


def _member(kind: str | None, name: str | None, simple: str | None) -> str:
    if kind not in (None, "def"):
        return f"{name}: typing.Any"
    return f"def {name or simple}(self, {ANYTHING}) -> typing.Any: ..."

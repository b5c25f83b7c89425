"""Our calls to TensorRT and pycuda against the real ones' signatures: mypy, strictly, for every version that we claim to work with.

Nothing is run here that needs a GPU, and nothing is proved but that the calls exist with these arguments.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt import stubs

REPO = Path(__file__).parents[2]
VERSIONS = ("10.3.0", "10.13.3.9", "11.4.0.106")  # JetPack 6.2; what most desktops have; the newest
OURS = ("builder", "memory", "run", "cuda")
SETTINGS = """[mypy]
strict = true
warn_unused_ignores = false
warn_return_any = false
follow_imports = silent
[mypy-tensorrt.*,tensorrt_rtx.*,pycuda.*]
ignore_errors = true
follow_imports = normal
[mypy-cuda.*]
ignore_missing_imports = true
"""
PLANTED = """import tensorrt as trt

def planted(context: trt.IExecutionContext, network: trt.INetworkDefinition, builder: trt.Builder, runtime: trt.Runtime) -> None:
    context.execute_async_v2([], 0)  # removed in 10
    context.set_tensor_address(0, 0)  # takes a name
    network.get_inputs(0)  # misspelled
    builder.build_engine(network, builder.create_builder_config())  # removed in 10
    runtime.deserialize_cuda_engine()  # wants a plan
"""
PLANTED_PYCUDA = """import pycuda.driver as cuda

def planted(stream: cuda.Stream) -> None:
    stream.synchronise()
    cuda.memcpy_htod_asynch(0, b"", stream)
"""
SINCE = {"removed in 11": ("trt.BuilderFlag.FP16", "11.4.0.106"), "new in 10.13": ("trt.ICudaEngine.create_runtime_config", "10.3.0")}


def mypy(out: Path, *files: str | Path) -> list[str]:
    """mypy's errors; TensorRT is what the stubs in `out` say."""
    (out / "mypy.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", str(out / "mypy.ini"), "--cache-dir", str(out / "cache"), *map(str, files)]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, env={"MYPYPATH": str(out / "stubs"), "PATH": "", "HOME": str(out)}
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.fixture(scope="module", name="stubbed")
def _stubbed(tmp_path_factory: pytest.TempPathFactory):
    """Makes each version's stubs once."""
    made: dict[str, Path] = {}

    def stub(version: str) -> Path:
        if not shutil.which("gcc") or not importlib.util.find_spec("pybind11_stubgen"):
            pytest.skip("gcc or pybind11-stubgen is not installed")
        if version != "rtx" and not (stubs.BINDINGS / version).is_dir():
            pytest.skip(f"the bindings of TensorRT {version} are not installed (make test installs them)")
        if version == "rtx" and not importlib.util.find_spec("tensorrt_rtx"):
            pytest.skip("tensorrt_rtx is not installed")
        if version not in made:
            out = tmp_path_factory.mktemp(f"tensorrt-{version}")
            _ = stubs.rtx_stub(out) if version == "rtx" else stubs.tensorrt_stub(version, out)
            if any(stubs.BINDINGS.glob("pycuda/*.tar.gz")):
                stubs.pycuda_stub(out / "stubs")
            made[version] = out
        return made[version]

    return stub


@pytest.mark.parametrize("version", [*VERSIONS, "rtx"])
def test_our_calls_exist(stubbed, version: str) -> None:
    files = [REPO / "engines" / "tensorrt" / f"{name}.py" for name in (*OURS, *(("rtx", "rtx_context") if version == "rtx" else ()))]
    assert mypy(stubbed(version), *files) == []


@pytest.mark.parametrize("version", [*VERSIONS, "rtx"])
def test_planted_errors_are_found(stubbed, version: str, tmp_path: Path) -> None:
    """What passes proves something only if what is wrong does not."""
    out = stubbed(version)
    planted = tmp_path / "planted.py"
    planted.write_text(PLANTED)
    assert sorted(int(error.split(":")[1]) for error in mypy(out, planted)) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("what", list(SINCE))
def test_versions_differ(stubbed, what: str, tmp_path: Path) -> None:
    """The stubs are those of their version: what one has and another has not is told apart."""
    expression, without = SINCE[what]
    planted = tmp_path / "planted.py"
    planted.write_text(f"import tensorrt as trt\nprint({expression})\n")
    found = {version: len(mypy(stubbed(version), planted)) for version in ("10.3.0", "11.4.0.106")}
    assert found == {version: int(version == without) for version in found}


def test_planted_errors_in_pycuda_are_found(stubbed, tmp_path: Path) -> None:
    if not any(stubs.BINDINGS.glob("pycuda/*.tar.gz")):
        pytest.skip("pycuda's source is not there (make test fetches it)")
    planted = tmp_path / "planted.py"
    planted.write_text(PLANTED_PYCUDA)
    assert sorted(int(error.split(":")[1]) for error in mypy(stubbed("10.3.0"), planted)) == [4, 5]

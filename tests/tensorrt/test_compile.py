"""Real plans, compiled here by TensorRT for RTX without a GPU: what comes out, what is kept, and what every failure says.

That a plan loads and computes is not tested here: that takes a GPU (`ghostnote check --gpu`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from engines.backend import BackendError
from engines.bundle import Bundle, write_bundle
from engines.export.blank import write_blank
from engines.export.precision import graphs_of
from engines.tensorrt.compile import Order, Outcome, compile_bundle, gpu_memory_bytes
from engines.tensorrt.sidecar import Precision, Sidecar, Target
from tests.tensorrt.conftest import needs_rtx

REPO = Path(__file__).parents[2]
ONE_GPU = Order(Target.RTX, capabilities=("SM89",))
LAPTOP_BYTES = 8 << 30
CUDA_BYTES = 1 << 30  # what CUDA and the display take, generously


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ghostnote engine compile`, as it is typed."""
    line = [sys.executable, "-m", "appliance", "engine", "compile", *map(str, arguments)]
    return subprocess.run(line, cwd=REPO, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(name="compiled", scope="module")
def _compiled(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    folder = tmp_path_factory.mktemp("plans")
    return folder, compile_bundle(tiny, ONE_GPU, folder)


@needs_rtx
def test_plans_and_sidecars(tiny: Bundle, compiled: tuple[Path, list[Outcome]]) -> None:
    folder, outcomes = compiled
    graphs = graphs_of(tiny)
    assert {one.files.graph for one in outcomes} == set(graphs)
    for one in outcomes:
        model = onnx.ModelProto.FromString(graphs[one.files.graph])
        sidecar = Sidecar.read(one.files.sidecar)
        assert [b.name for b in sidecar.bindings] == [end.name for end in (*model.graph.input, *model.graph.output)]
        assert {b.dtype for b in sidecar.bindings} == {"float32"}
        assert one.files.plan.stat().st_size > sidecar.memory_bytes["weights"] > 0
        assert sidecar.compute_capabilities == ("SM89",) and sidecar.driver == ""
    kept = [one.files.plan.stat().st_mtime_ns for one in outcomes]
    again = compile_bundle(tiny, ONE_GPU, folder)
    assert [one.reason for one in again] == [""] * len(graphs) and [one.files.plan.stat().st_mtime_ns for one in again] == kept


@needs_rtx
def test_a_stale_plan_is_compiled_anew(tiny: Bundle, compiled: tuple[Path, list[Outcome]], tmp_path: Path) -> None:
    shutil.copytree(compiled[0], tmp_path, dirs_exist_ok=True)
    first = {one.files.graph: one for one in compile_bundle(tiny, ONE_GPU, tmp_path)}
    facts = json.loads(first["step"].files.sidecar.read_text())
    first["step"].files.sidecar.write_text(json.dumps({**facts, "compiler_version": "1.0"}))
    first["prompt"].files.plan.write_bytes(b"something else")
    second = {one.files.graph: one for one in compile_bundle(tiny, ONE_GPU, tmp_path)}
    assert {name for name, one in second.items() if one.reason} == {"step", "prompt"}
    assert "version 1.0" in second["step"].reason and "hash is wrong" in second["prompt"].reason
    assert all(second[name].sidecar == first[name].sidecar for name in first)  # the same bundle gives the same plan
    other = compile_bundle(tiny, replace(ONE_GPU, capabilities=("SM86",)), tmp_path)
    assert {one.reason for one in other} == {"it was compiled for SM89"}


@needs_rtx
def test_float32_plans_are_larger(tiny: Bundle, compiled: tuple[Path, list[Outcome]], tmp_path: Path) -> None:
    wide = compile_bundle(tiny, replace(ONE_GPU, precision=Precision.FP32), tmp_path)
    fp32, fp16 = (sum(one.sidecar.memory_bytes["weights"] for one in outcomes) for outcomes in (wide, compiled[1]))
    assert fp32 > 1.5 * fp16


@needs_rtx
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--cc", "SM87"], "TensorRT for RTX 1.7.1.116 does not compile for SM87; it knows SM75 SM80 SM86 SM89 SM120 SM121"),
        (["--target", "jetson"], "no NVIDIA driver is installed"),
        (["--memory-mb", "32"], "ghostnote: "),
    ],
    ids=["unknown GPU", "no device", "no memory"],
)
def test_failures_are_one_line(tiny: Bundle, tmp_path: Path, arguments: list[str], line: str) -> None:
    done = command(tiny.path, "--cache", tmp_path, *arguments)
    assert done.returncode == 2 and line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.plan"))


@needs_rtx
def test_a_graph_that_can_not_be_built_is_named_with_the_cause(tiny: Bundle, tmp_path: Path) -> None:
    """The parser's list, the recorder and a result of None: one line, whatever said it."""
    files = {entry.path: tiny.read(entry.path) for entry in tiny.manifest.files}
    broken = onnx.ModelProto.FromString(files["fp16/commit.onnx"])
    next(node for node in broken.graph.node if node.op_type == "Softmax").op_type = "StringNormalizer"
    files["fp16/commit.onnx"] = broken.SerializeToString()
    write_bundle(tmp_path / "broken.ghost", tiny.manifest.head, files)
    with pytest.raises(BackendError, match=r"^commit: TensorRT can't read the graph: .*StringNormalizer") as failed:
        compile_bundle(Bundle.open(tmp_path / "broken.ghost"), ONE_GPU, tmp_path)
    assert "\n" not in str(failed.value)


@needs_rtx
def test_the_command_shows_plans_and_memory(tiny: Bundle, tmp_path: Path) -> None:
    done = command(tiny.path, "--cc", "SM89", XDG_CACHE_HOME=str(tmp_path), CACHE_DIRECTORY="")
    assert done.returncode == 0, done.stderr
    assert "MB of GPU memory at most" in done.stdout and len(list((tmp_path / "ghostnote" / "plans").rglob("*.plan"))) == 4


@needs_rtx
def test_progress_goes_up_to_the_end(tiny: Bundle, tmp_path: Path) -> None:
    """In a process of its own: TensorRT's names are one product's per process."""
    program = """
import sys
from pathlib import Path
from engines.backend import Weights
from engines.bundle import Bundle, write_bundle
from engines.onnx_wire import with_weights
from engines.tensorrt import api
from engines.tensorrt.sidecar import Target
api.use(Target.RTX)
from engines.tensorrt import builder
bundle = Bundle.open(sys.argv[1])
Path(sys.argv[2]).write_bytes(with_weights(bundle.read("fp16/step.onnx"), Weights.of(bundle).for_graph("fp16/step")))
seen = []
builder.build(Path(sys.argv[2]), builder.Settings(Target.RTX, ("SM89",), 3), lambda share, phase: seen.append(share))
assert seen == sorted(seen) and len(seen) > 20 and seen[0] < 0.5 and seen[-1] == 1.0, seen
"""
    line = [sys.executable, "-c", program, str(tiny.path), str(tmp_path / "step.onnx")]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_rtx
def test_the_shipped_engine_compiles_to_the_same_plans_twice(reference: Bundle, tmp_path: Path) -> None:
    order = Order(Target.RTX)
    with ThreadPoolExecutor(2) as both:
        once, twice = both.map(lambda name: compile_bundle(reference, order, tmp_path / name), ("once", "twice"))
    assert [one.sidecar.plan_sha256 for one in once] == [one.sidecar.plan_sha256 for one in twice]
    assert {one.sidecar.compute_capabilities for one in once} == {("SM86", "SM89", "SM120")}
    assert len({one.sidecar.plan_sha256 for one in once}) == len(once) >= 6


@needs_rtx
@pytest.mark.slow
def test_the_full_size_compiles_and_fits_a_laptop(tmp_path: Path) -> None:
    """Stable Audio Open Small's size with random weights: minutes, gigabytes."""
    bundle = write_blank("sao_small", tmp_path / "sao_small.ghost")
    outcomes = compile_bundle(bundle, ONE_GPU, tmp_path)
    needed = gpu_memory_bytes(outcomes)
    print({one.files.graph: dict(one.sidecar.memory_bytes) for one in outcomes}, needed)
    assert needed + CUDA_BYTES < LAPTOP_BYTES

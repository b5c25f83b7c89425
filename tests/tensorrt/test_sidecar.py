"""A sidecar decides whether a plan may be loaded, and says why not. No compiler is needed for that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engines.bundle import Bundle, BundleError, write_bundle
from engines.tensorrt.sidecar import (
    EXPORT_REVISION,
    SCHEMA,
    Binding,
    Device,
    PlanFiles,
    Precision,
    Sidecar,
    Target,
    hash_of,
    matches,
    plans_for,
)

LAPTOP = Device("1.7.1.116", "SM89", "570.86")


@pytest.fixture(name="files")
def _files(tiny: Bundle, tmp_path: Path) -> PlanFiles:
    """The plan of one graph, "compiled" for three GPUs."""
    files = plans_for(tiny, Target.RTX, root=tmp_path)["step"]
    files.plan.parent.mkdir(parents=True)
    built = files.plan.with_name("built")
    built.write_bytes(b"a plan")
    bindings = (Binding("noisy", True, "float32", (1, 3, 8)), Binding("v", False, "float32", (1, 3, 8)))
    sidecar = Sidecar(
        SCHEMA, "step", "rtx", "fp16", EXPORT_REVISION, files.onnx_sha256, files.weights_sha256, "tensorrt_rtx", "1.7.1.116",
        ("SM86", "SM89"), "", "", {"optimization_level": 3}, bindings, {"weights": 6}, hash_of(built),
    )  # fmt: skip
    files.store(built, sidecar)
    assert Sidecar.read(files.sidecar) == sidecar
    return files


def test_a_plan_for_this_machine_matches(files: PlanFiles) -> None:
    assert matches(files, LAPTOP) == (True, "it matches")


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (replace(LAPTOP, compiler_version="1.8"), "tensorrt_rtx version 1.7.1.116, this is 1.8"),
        (replace(LAPTOP, compute_capability="SM120"), "it was compiled for SM86 SM89, this GPU is SM120"),
    ],
)
def test_another_machine_does_not(files: PlanFiles, device: Device, reason: str) -> None:
    fits, why = matches(files, device)
    assert not fits and reason in why


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"onnx_sha256": "0" * 64}, "ONNX graph 000000000000, this is "),
        ({"weights_sha256": "0" * 64}, "weights 000000000000, this is "),
        ({"graph": "first"}, "graph first, this is step"),
        ({"precision": "fp32"}, "precision fp32, this is fp16"),
        ({"export_revision": EXPORT_REVISION + 1}, "export revision"),
        ({"driver": "535.1"}, "driver 535.1, this is 570.86"),
        ({"plan_sha256": "0" * 64}, "its hash is wrong"),
        ({"schema": SCHEMA + 1}, "its sidecar has schema"),
        ({"colour": "green"}, "its sidecar is damaged"),
    ],
)
def test_a_plan_made_from_something_else_does_not(files: PlanFiles, changed: dict[str, object], reason: str) -> None:
    files.sidecar.write_text(json.dumps({**json.loads(files.sidecar.read_text()), **changed}))
    fits, why = matches(files, LAPTOP)
    assert not fits and reason in why


def test_power_mode_counts_where_both_know_it(files: PlanFiles) -> None:
    files.sidecar.write_text(json.dumps({**json.loads(files.sidecar.read_text()), "power_mode": "MAXN"}))
    assert matches(files, LAPTOP)[0]
    assert "power mode MAXN, this is 15W" in matches(files, replace(LAPTOP, power_mode="15W"))[1]


def test_a_plan_alone_is_nothing(files: PlanFiles) -> None:
    files.sidecar.unlink()
    assert "its sidecar can't be read" in matches(files, LAPTOP)[1]
    files.plan.unlink()
    assert matches(files, LAPTOP) == (False, "it has not been compiled")


def test_another_bundle_has_other_plans(tiny: Bundle, reference: Bundle, tmp_path: Path) -> None:
    """Plans are kept by what is in a bundle, not by its name, and apart for every target and precision."""
    places = {plans_for(b, t, p, tmp_path)["step"].plan for b in (tiny, reference) for t in Target for p in Precision}
    assert len(places) == 8


def test_graphs_without_a_float16_form_are_compiled_in_float32(reference: Bundle, tmp_path: Path) -> None:
    plans = plans_for(reference, Target.RTX, root=tmp_path)
    assert plans["encode"].source == "encode.onnx" and plans["step"].source == "fp16/step.onnx"


def test_a_bundle_without_float16_graphs_is_refused(tiny: Bundle, tmp_path: Path) -> None:
    files = {entry.path: tiny.read(entry.path) for entry in tiny.manifest.files if "/" not in entry.path}
    write_bundle(tmp_path / "old.ghost", tiny.manifest.head, files)
    with pytest.raises(BundleError, match="packed without float16 graphs; pack it again, or compile it with --precision fp32"):
        plans_for(Bundle.open(tmp_path / "old.ghost"), Target.RTX, root=tmp_path)

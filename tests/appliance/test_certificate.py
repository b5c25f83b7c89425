"""A certificate holds for what the device has signed, for its conditions, and for nothing else."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from appliance import certificate
from appliance.certificate import Certificate, CertificateError, Conditions, Disturbance, Measured, canonical, check, read, write
from appliance.device_key import KEY_FILE, DeviceKey, DeviceKeyError, signed_by

DIGEST = "ab" * 32
NUMBERS = {"count": 800, "p50": 40_000, "p99": 44_000, "p999": 47_000, "worst": 48_000}
CONDITIONS = Conditions(
    engine=DIGEST, ghostnote="0.1.0+12345678", backend="onnxruntime", runtime="onnxruntime 1.32.0", gpu="none", cpu="EPYC", kernel="6.1",
    power="none", governor="performance", clocks="1500-2400", rate=44_100, period=128, periods=3, cores="audio 2, engine 3 of 0-3",
    threads=1, realtime="SCHED_FIFO 70, locked memory", niceness=-10, steps=4, budget=0.0,
)  # fmt: skip
MEASURED = Measured(
    seconds=300.0, blocks=800, answered=800, late=0, causes={}, allowance_us=162_540, block_work=NUMBERS, block_late=NUMBERS,
    block_slack=NUMBERS, block_answered=NUMBERS, period_work=NUMBERS, period_slack=NUMBERS, xruns=0, silent_frames=0,
    step_us=9_100, steps_allowed=8,
    resident_mb={"main": 60.0, "audio": 110.0, "engine": 240.0}, celsius=61.5, clock_mhz=(1500.0, 2400.0), throttles=0, startup_seconds=1.2,
    answered_bins=((39_936, 700), (47_104, 100)), slack_bins=((118_784, 800),), course=((10.0, 118.2, 60.0), (20.0, 117.9, None)),
)  # fmt: skip
PASSED = Certificate(
    name="reference ”é”", made="2026-11-23T12:00:00+00:00", minutes=5.0, verdict=certificate.PASS, reasons=(), remarks=("a remark",),
    conditions=CONDITIONS, disturbance=Disturbance("stage", 1, 1, 4, 10), margin=0.1, least_slack_ms=10.0, golden=("graph step: 5e-07",),
    measured=MEASURED,
)  # fmt: skip
CHANGED: dict[str, Any] = {
    "engine": "cd" * 32, "ghostnote": "0.2.0+12345678", "backend": "openvino", "runtime": "onnxruntime 1.33.0", "gpu": "RTX 9090, driver 1",
    "cpu": "Cortex-A78AE", "kernel": "6.2-rt", "power": "15W", "governor": "schedutil", "clocks": "1500-1800", "rate": 48_000, "period": 64,
    "periods": 2, "cores": "audio any, engine any of 0-1", "threads": 2, "realtime": "nothing", "niceness": 0, "steps": 8, "budget": 120.0,
}  # fmt: skip


@pytest.fixture(name="key")
def _key(tmp_path: Path) -> DeviceKey:
    return DeviceKey.open(tmp_path / "state")


@pytest.fixture(name="signed")
def _signed(tmp_path: Path, key: DeviceKey) -> Path:
    path = tmp_path / f"{DIGEST}.json"
    write(path, PASSED, key)
    return path


def tampered(path: Path, change: dict[str, Any], within: str = "") -> None:
    facts = json.loads(path.read_text())
    (facts["certificate"][within] if within else facts["certificate"]).update(change)
    path.write_text(json.dumps(facts))


def test_what_was_written_is_read_back_whole(signed: Path, key: DeviceKey) -> None:
    assert read(signed, key.public) == PASSED == read(signed)
    assert check(signed.parent, DIGEST, CONDITIONS, key.public) == PASSED
    assert canonical(PASSED) == canonical(read(signed)) and b'": ' not in canonical(PASSED)


def test_no_certificate_no_activation(tmp_path: Path, key: DeviceKey) -> None:
    with pytest.raises(CertificateError, match="no certificate for engine abababababab on this device: run `ghostnote certify`"):
        check(tmp_path, DIGEST, CONDITIONS, key.public)


@pytest.mark.parametrize("name", [field.name for field in fields(Conditions)])
def test_each_condition_voids_it_by_name(signed: Path, key: DeviceKey, name: str) -> None:
    now = replace(CONDITIONS, **{name: CHANGED[name]})
    with pytest.raises(CertificateError, match=f"^void: {name} changed [^;]* -> [^;]*; run `ghostnote certify`$"):
        check(signed.parent, DIGEST, now, key.public)


def test_the_line_says_from_what_to_what(signed: Path, key: DeviceKey) -> None:
    now = replace(CONDITIONS, period=64, power="15W")
    with pytest.raises(CertificateError) as void:
        check(signed.parent, DIGEST, now, key.public)
    assert str(void.value) == "void: power changed none -> 15W; period changed 128 -> 64; run `ghostnote certify`"


@pytest.mark.parametrize(
    ("change", "within"),
    [
        ({"verdict": "PASS!"}, ""),
        ({"period": 64}, "conditions"),
        ({"late": 1}, "measured"),
        ({"reasons": ["none"]}, ""),
        ({"extra": 1}, ""),
    ],
)
def test_tampering_is_found(signed: Path, key: DeviceKey, change: dict[str, Any], within: str) -> None:
    tampered(signed, change, within)
    with pytest.raises(CertificateError, match="is not what this device has signed"):
        read(signed, key.public)
    with pytest.raises(CertificateError, match="is not what its key has signed"):
        read(signed)


def test_another_device_is_not_believed(tmp_path: Path, signed: Path, key: DeviceKey) -> None:
    write(signed, PASSED, DeviceKey.open(tmp_path / "elsewhere"))
    assert read(signed) == PASSED, "it can be looked at"
    with pytest.raises(CertificateError, match="is not what this device has signed"):
        check(signed.parent, DIGEST, CONDITIONS, key.public)


def test_a_certificate_of_another_engine_does_not_help(signed: Path, key: DeviceKey) -> None:
    other = signed.with_name(f"{'cd' * 32}.json")
    signed.rename(other)
    with pytest.raises(CertificateError, match="void: engine changed abababababab -> cdcdcdcdcdcd"):
        check(other.parent, other.stem, replace(CONDITIONS, engine=other.stem), key.public)


def test_a_failed_soak_says_why(signed: Path, key: DeviceKey) -> None:
    write(signed, replace(PASSED, verdict=certificate.FAIL, reasons=("3 of 800 blocks late (engine slow 3)",)), key)
    with pytest.raises(CertificateError, match="failed its soak: 3 of 800 blocks late"):
        check(signed.parent, DIGEST, CONDITIONS, key.public)


DAMAGE: dict[str, Any] = {
    "empty": "", "half": '{"certificate": {"schema"', "a list": "[]", "no certificate": "{}", "text": '"schema"', "deep": "[" * 100_000,
    "no fields": '{"certificate": {"schema": 1}}', "null": '{"certificate": null, "signature": "00"}',
    "not hex": '{"certificate": {"schema": 1}, "signature": "zz"}', "huge": " " * (certificate.LARGEST_BYTES + 1),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_one_clear_line(signed: Path, key: DeviceKey, what: str) -> None:
    signed.write_text(DAMAGE[what])
    with pytest.raises(CertificateError) as refused:
        check(signed.parent, DIGEST, CONDITIONS, key.public)
    line = str(refused.value)
    assert "\n" not in line and str(signed) in line and "run `ghostnote certify`" in line


def test_every_cut_of_the_file_is_found(signed: Path, key: DeviceKey) -> None:
    whole = signed.read_bytes()
    for end in range(0, len(whole) - 2, 37):
        signed.write_bytes(whole[:end])
        with pytest.raises(CertificateError):
            read(signed, key.public)


def test_another_schema_is_named(signed: Path, key: DeviceKey) -> None:
    tampered(signed, {"schema": 0})
    with pytest.raises(CertificateError, match=r"schema 0 is of another Ghostnote \(this one reads 1\); run `ghostnote certify`"):
        check(signed.parent, DIGEST, CONDITIONS, key.public)


def test_one_of_the_right_signature_and_the_wrong_fields_is_refused(signed: Path, key: DeviceKey) -> None:
    facts = {"schema": 1, "conditions": {}}
    data = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()
    signed.write_text(json.dumps({"certificate": facts, "key": key.public.hex(), "signature": key.sign(data).hex()}))
    with pytest.raises(CertificateError, match="is damaged"):
        read(signed, key.public)


# The key


def test_the_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    one, again = DeviceKey.open(tmp_path / "a"), DeviceKey.open(tmp_path / "a")
    assert one.public == again.public and len(one.public) == 32
    assert stat.S_IMODE((tmp_path / "a" / KEY_FILE).stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "a") == [KEY_FILE]
    assert signed_by(one.public, b"text", again.sign(b"text")) and not signed_by(one.public, b"Text", one.sign(b"text"))
    assert not signed_by(DeviceKey.open(tmp_path / "b").public, b"text", one.sign(b"text"))


@pytest.mark.parametrize(("damage", "says"), [("", "is damaged"), ("zz", "is damaged"), ("ab" * 31, "is damaged")])
def test_a_damaged_key_is_one_clear_line(tmp_path: Path, damage: str, says: str) -> None:
    DeviceKey.open(tmp_path)
    (tmp_path / KEY_FILE).write_text(damage)
    with pytest.raises(DeviceKeyError, match=says):
        DeviceKey.open(tmp_path)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    DeviceKey.open(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(DeviceKeyError, match="can be read by others"):
        DeviceKey.open(tmp_path)


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceKeyError, match=r"set \[storage\] folder"):
        DeviceKey.open(tmp_path / "file")

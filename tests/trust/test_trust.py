"""Who may bring an engine: keys, signatures, the commands for both; and stock minisign as the judge."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from appliance.cli import BAD_INPUT, main
from appliance.config import Config, EngineConfig
from appliance.trust import SYSTEM_KEYS, admit, keys_folder
from engines.bundle import REFERENCE, Bundle, BundleError, write_bundle
from engines.signing import PublicKey
from tests.trust.keys import KEY, STRANGER
from tests.trust.toy import toy_files, toy_manifest, write_toy

needs_minisign = pytest.mark.skipif(not shutil.which("minisign"), reason="minisign is not installed (apt: minisign)")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "friend.pub").write_text(KEY.public.text())
    return tmp_path / "keys"


@pytest.fixture
def config(tmp_path: Path, keys: Path) -> Path:
    (tmp_path / "pedal.toml").write_text(f'[engine]\nkeys = "{keys}"\n')
    return tmp_path / "pedal.toml"


def refused(path: Path, keys: Path, allow_unsigned: bool = False) -> str:
    with pytest.raises(BundleError) as caught:
        admit(path, keys, allow_unsigned)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_trusted_key_opens_the_door(tmp_path: Path, keys: Path) -> None:
    bundle = write_toy(tmp_path / "toy.ghost")
    admitted = admit(bundle.path, keys)
    assert admitted.key_id == KEY.public.name and admitted.digest == bundle.digest and admitted.manifest.number == 3


def test_who_is_refused(tmp_path: Path, keys: Path) -> None:
    assert "nobody has signed it" in refused(write_toy(tmp_path / "a.ghost", None).path, keys)
    assert f"signed by key {STRANGER.public.name}, which is not trusted" in refused(write_toy(tmp_path / "b.ghost", STRANGER).path, keys)
    assert "which is not trusted" in refused(write_toy(tmp_path / "c.ghost").path, tmp_path / "no keys")
    assert admit(tmp_path / "a.ghost", keys, allow_unsigned=True).key_id is None
    assert admit(tmp_path / "b.ghost", keys, allow_unsigned=True).key_id is None


def test_the_signature_of_another_bundle_is_refused_with_consent_too(tmp_path: Path, keys: Path) -> None:
    good = write_toy(tmp_path / "good.ghost")
    write_bundle(tmp_path / "bad.ghost", toy_manifest(author="me"), toy_files(), good.signature)
    for allow in (False, True):
        assert "changed, or signed by somebody else" in refused(tmp_path / "bad.ghost", keys, allow)


def test_a_strangers_key_under_a_known_id_is_refused(tmp_path: Path, keys: Path) -> None:
    bundle = write_toy(tmp_path / "toy.ghost", type(KEY)(KEY.key_id, STRANGER.seed))
    assert "changed, or signed by somebody else" in refused(bundle.path, keys)


def test_a_file_that_is_no_key_is_named(tmp_path: Path, keys: Path) -> None:
    (keys / "aaa.pub").write_text("hello")
    assert "aaa.pub: is no public key" in refused(write_toy(tmp_path / "toy.ghost").path, keys)


def test_the_factory_engine_needs_no_key(tmp_path: Path) -> None:
    admitted = admit(REFERENCE, tmp_path)
    assert admitted.key_id is None and admitted.manifest.kind == "lmdm" and admitted.manifest.memory_bytes > 1 << 26
    shutil.copy(REFERENCE, tmp_path / "copy.ghost")
    assert "nobody has signed it" in refused(tmp_path / "copy.ghost", tmp_path)


def test_where_keys_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert keys_folder(Config(engine=EngineConfig(keys="/k"))) == Path("/k")
    assert keys_folder(Config()) == (SYSTEM_KEYS if SYSTEM_KEYS.is_dir() else tmp_path / "ghostnote" / "keys")


@needs_minisign
def test_stock_minisign_verifies_what_we_sign(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the words of the format's page: unzip, then minisign -V."""
    bundle, name = write_toy(tmp_path / "toy.ghost", None), tmp_path / "me"
    assert main(["key", "new", str(name), "--no-password"]) == 0
    assert main(["engine", "sign", str(bundle.path), "--key", f"{name}.key"]) == 0
    with zipfile.ZipFile(bundle.path) as archive:
        archive.extractall(tmp_path / "out", ["manifest.json", "manifest.json.minisig"])
    manifest = tmp_path / "out" / "manifest.json"
    checked = subprocess.run(["minisign", "-V", "-p", f"{name}.pub", "-m", manifest], capture_output=True, text=True)
    assert checked.returncode == 0 and "ghostnote bundle toy number 3" in checked.stdout, checked.stderr
    assert Bundle.open(bundle.path).digest == bundle.digest
    manifest.write_bytes(manifest.read_bytes().replace(b'"number":3', b'"number":4'))
    assert subprocess.run(["minisign", "-V", "-p", f"{name}.pub", "-m", manifest], capture_output=True).returncode != 0


@needs_minisign
def test_a_bundle_that_stock_minisign_signed_is_taken(tmp_path: Path, keys: Path, config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle, secret, public = write_toy(tmp_path / "toy.ghost", None), tmp_path / "m.key", tmp_path / "m.pub"
    subprocess.run(["minisign", "-G", "-W", "-p", public, "-s", secret], check=True, capture_output=True)
    (tmp_path / "manifest.json").write_bytes(bundle.manifest_bytes)
    subprocess.run(["minisign", "-S", "-s", secret, "-m", tmp_path / "manifest.json"], check=True, capture_output=True)
    signature = (tmp_path / "manifest.json.minisig").read_bytes()
    write_bundle(bundle.path, bundle.manifest.head, {e.path: bundle.read(e.path) for e in bundle.manifest.files}, signature)
    assert main(["engine", "verify", str(bundle.path), "--config", str(config)]) == BAD_INPUT
    assert main(["key", "trust", str(public), "--config", str(config)]) == 0
    assert main(["engine", "verify", str(bundle.path), "--config", str(config)]) == 0
    name = PublicKey.parse(public.read_text()).name
    assert admit(bundle.path, keys).key_id == name and f"signed by key {name}" in capfd.readouterr().out
    assert main(["engine", "sign", str(bundle.path), "--key", str(secret)]) == 0
    assert admit(bundle.path, keys).key_id == name


def test_the_keys_of_a_pedal(tmp_path: Path, config: Path, keys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.pub").write_text(STRANGER.public.text())
    assert main(["key", "trust", str(tmp_path / "s.pub"), "--config", str(config)]) == 0
    assert main(["key", "list", "--config", str(config)]) == 0
    text = capfd.readouterr().out
    assert STRANGER.public.name in text and KEY.public.name in text
    assert main(["key", "forget", STRANGER.public.name, "--config", str(config)]) == 0
    assert [path.name for path in keys.iterdir()] == ["friend.pub"]
    assert main(["key", "forget", "nobody", "--config", str(config)]) == BAD_INPUT
    assert main(["key", "trust", str(config), "--config", str(config)]) == BAD_INPUT
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2 and "no key 'nobody' is trusted" in errors[0] and "is no public key" in errors[1]


def test_new_keys_are_never_written_over_nor_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["key", "new", str(tmp_path / "me"), "--no-password"]) == 0
    assert (tmp_path / "me.key").stat().st_mode & 0o777 == 0o600
    assert main(["key", "new", str(tmp_path / "me"), "--no-password"]) == BAD_INPUT
    for answers in ("one\nanother\n", "\n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answers))
        assert main(["key", "new", str(tmp_path / "you")]) == BAD_INPUT
    assert not (tmp_path / "you.key").exists()


def test_packing_a_folder_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "toy.ghost")
    with zipfile.ZipFile(bundle.path) as archive:
        archive.extractall(tmp_path / "folder")
    for name in ("a.ghost", "b.ghost"):
        assert main(["engine", "pack", str(tmp_path / "folder"), str(tmp_path / name)]) == 0
    assert main(["engine", "pack", str(bundle.path), str(tmp_path / "c.ghost")]) == 0
    one, two, three = ((tmp_path / name).read_bytes() for name in ("a.ghost", "b.ghost", "c.ghost"))
    assert one == two == three and Bundle.open(tmp_path / "a.ghost").digest == bundle.digest
    (tmp_path / "folder" / "run.sh").write_text("echo")
    assert main(["engine", "pack", str(tmp_path / "folder"), str(tmp_path / "d.ghost")]) == BAD_INPUT
    assert not list(tmp_path.glob("*d.ghost*"))

"""`ghostnote engine pack|sign|verify|info`: bundles as files, wherever they are made or passed on. Nothing of a bundle runs here.

Runs in: the main process, at commands.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from appliance.config import Config, load_config
from appliance.key_commands import read_secret_key
from appliance.preset_commands import Commands
from appliance.trust import admit, is_factory, keys_folder, trusted_keys
from engines.bundle import SIGNATURE, SUFFIX, Bundle, BundleError, locate, write_bundle
from engines.contents import check_contents
from engines.manifest import MANIFEST
from engines.signing import Signature, SigningError
from engines.strict_json import StrictJsonError, decode

FACTORY = "came with Ghostnote itself"


def add_bundle_actions(actions: Commands, out: Console) -> None:
    """The actions, for the parser of `ghostnote engine`."""
    pack = actions.add_parser("pack", help="a folder, or any zip of one, as a bundle: the same files always give the same bytes")
    pack.add_argument("source", type=Path, metavar="FOLDER", help=f"a folder or a zip with {MANIFEST} and the files of an engine")
    pack.add_argument("bundle", type=Path, metavar="BUNDLE", help=f"where it goes; ends in {SUFFIX}")
    pack.set_defaults(command=lambda a: _pack(a.source, a.bundle, out))
    sign = actions.add_parser("sign", help="vouch for a bundle with your key")
    sign.add_argument("bundle", type=Path, metavar="BUNDLE")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the secret key (ghostnote key new, or minisign -G)")
    sign.set_defaults(command=lambda a: _sign(a.bundle, a.key, out))
    verify = actions.add_parser("verify", help="whether this machine would take a bundle")
    verify.add_argument("bundle", metavar="BUNDLE")
    verify.add_argument("--allow-unsigned", action="store_true", help="check all but who signed it")
    verify.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration, if its [engine] keys are set")
    verify.set_defaults(command=lambda a: _verify(a, out))
    info = actions.add_parser("info", help="what a bundle is, every byte checked")
    info.add_argument("bundle", metavar="BUNDLE")
    info.set_defaults(command=lambda a: engine_info(a.bundle, out))


def _pack(source: Path, target: Path, out: Console) -> int:
    files = _folder(source) if source.is_dir() else _archive(source)
    try:
        facts = decode(files.pop(MANIFEST))
    except KeyError:
        raise BundleError(f"{source}: has no {MANIFEST}; write one (docs/bundle-format.md)") from None
    except StrictJsonError as wrong:
        raise BundleError(f"{source}: its {MANIFEST} can't be read ({wrong})") from None
    files.pop(SIGNATURE, None)  # it was that of another manifest
    head = {key: value for key, value in facts.items() if key not in ("schema", "files")} if isinstance(facts, dict) else {}
    unchecked = target.with_name(f".{target.name}.unchecked")
    try:
        write_bundle(unchecked, head, files)
        bundle = Bundle.open(unchecked)
        check_contents(bundle)
        unchecked.replace(target)
    except OSError as error:
        raise BundleError(f"{target}: can't be written ({error.strerror})") from None
    finally:
        unchecked.unlink(missing_ok=True)
    out.print(f"{target}: {bundle.manifest.name}, number {bundle.manifest.number}, digest {bundle.digest}", highlight=False, soft_wrap=True)
    return 0


def _folder(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    try:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    except OSError as error:
        raise BundleError(f"{folder}: can't be read ({error.strerror})") from None


def _archive(path: Path) -> dict[str, bytes]:
    """Of a person's own making: what stands in it is packed, not trusted."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{path}: is neither a folder nor a zip file ({error})") from None


def _sign(path: Path, key_path: Path, out: Console) -> int:
    bundle = Bundle.open(path)
    check_contents(bundle)
    key, manifest = read_secret_key(key_path), bundle.manifest
    signature = key.sign(bundle.manifest_bytes, f"ghostnote bundle {manifest.name} number {manifest.number}")
    files = {entry.path: bundle.read(entry.path) for entry in manifest.files}
    try:
        write_bundle(path, manifest.head, files, signature)
    except OSError as error:
        raise BundleError(f"{path}: can't be written ({error.strerror})") from None
    out.print(f"{path}: signed by key {key.public.name}", highlight=False, soft_wrap=True)
    return 0


def _verify(arguments: argparse.Namespace, out: Console) -> int:
    config = load_config(arguments.config) if arguments.config else Config()
    path = locate(arguments.bundle)
    admitted = admit(path, keys_folder(config), arguments.allow_unsigned)
    by = f"signed by key {admitted.key_id}" if admitted.key_id else FACTORY if is_factory(path) else "signed by nobody trusted"
    name = f"{admitted.manifest.name}, number {admitted.manifest.number}"
    line = f"{path}: {name}: every byte is as it was packed; {by}; digest {admitted.digest}"
    out.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def engine_info(address: str, console: Console) -> int:
    """Print what the bundle says of itself. Raises BundleError if any of it is wrong."""
    bundle = Bundle.open(locate(address))
    check_contents(bundle)
    table = Table(title=f"{bundle.path}: every byte is as it was packed", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(bundle).items():
        table.add_row(name, str(value))
    for entry in bundle.manifest.files:
        table.add_row("file", f"{entry.path}  {entry.role.value}, {entry.size} bytes  {entry.sha256[:16]}")
    console.print(table, highlight=False, markup=False)
    return 0


def _rows(bundle: Bundle) -> dict[str, Any]:
    manifest, spec = bundle.manifest, bundle.manifest.spec
    return {
        "name": f"{manifest.name}, release {manifest.release} (number {manifest.number}), {manifest.created}",
        "author": manifest.author,
        "digest": bundle.digest,
        "signature": _signature(bundle),
        "kind": manifest.kind,
        "block": f"{spec.block_frames} frames ({1000 * spec.block_frames / spec.sample_rate:.0f} ms) at {spec.sample_rate} Hz",
        "codec delay": f"{spec.codec_delay_frames} frames",
        "steps": f"{spec.steps} (at most {spec.max_steps})",
        "prompts": ", ".join(spec.prompts),
        "licences": "; ".join(f"{one.covers}: {one.name}" for one in manifest.licences),
        "memory": f"{manifest.memory_bytes / 1e6:.0f} MB" if manifest.memory_bytes else "not measured",
        "size": f"{bundle.path.stat().st_size / 1e6:.2f} MB",
    }


def _signature(bundle: Bundle) -> str:
    """Who says to have signed it, and whether that is so as far as the keys of this machine tell."""
    if bundle.signature is None:
        return FACTORY if is_factory(bundle.path) else "nobody has signed it"
    try:
        signature = Signature.parse(bundle.signature)
        key = next((one.key for one in trusted_keys(keys_folder(Config())) if one.key.key_id == signature.key_id), None)
        if key is None:
            return f"says to be of key {signature.key_name}, which is not trusted here"
        signature.check(bundle.manifest_bytes, key)
    except SigningError as wrong:
        return f"wrong: {wrong}"
    return f"of key {signature.key_name}, which is trusted here: {signature.comment}"

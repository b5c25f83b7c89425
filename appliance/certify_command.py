"""`ghostnote certify`: soak an engine on this device, sign what came of it, draw it; or show a certificate.

Runs in: the main process.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from appliance.as_service import CONFIG, become_service
from appliance.certificate import Certificate, CertificateError, certificates_folder, read, write
from appliance.config import Config, load_config
from appliance.device_key import DeviceKey
from appliance.preset_commands import Commands
from appliance.storage import state_folder
from appliance.store import CURRENT, Store, address_of
from appliance.trust import admit, keys_folder
from engines.bundle import ECHO, SUFFIX, locate

if TYPE_CHECKING:
    from appliance.certify import SoakJob
    from appliance.gpu_check import Line
    from appliance.stats import Rows

MINUTES, MOST_MINUTES = 5.0, 24 * 60.0
LOAD_NAMES = ("none", "stage", "heavy")


def add_certify(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("certify", help="soak an engine on this device: a signed certificate that it will be on time")
    one.add_argument(
        "bundle",
        nargs="?",
        default="",
        metavar="BUNDLE",
        help="a file, or an engine in the store (default: as configured)",
    )
    one.add_argument("--minutes", type=_minutes, default=MINUTES, metavar="N", help=f"how long to play (default: {MINUTES:g})")
    one.add_argument("--load", choices=LOAD_NAMES, default="stage", help="what else the machine has to do meanwhile (default: stage)")
    one.add_argument("--card", action="store_true", help="on the configured sound card instead of a recording; the pedal must not play")
    one.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration: an engine is certified for it")
    one.add_argument("--allow-unsigned", action="store_true", help="soak a bundle that nobody you trust has signed")
    one.add_argument("--show", type=Path, metavar="FILE", help="print a certificate instead")

    def run(arguments: argparse.Namespace) -> int:
        log = logging.getLogger("ghostnote")
        before = log.level
        log.setLevel(logging.ERROR)  # the soak's pedal is none of the operator's business
        try:
            return show(arguments.show, out) if arguments.show else certify_engine(arguments, out)
        finally:
            log.setLevel(before)

    one.set_defaults(command=run)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"{text} must be above 0, and {MOST_MINUTES:.0f} at most")
    return value


def certify_engine(arguments: argparse.Namespace, out: Console) -> int:
    """0 for PASS, 1 for FAIL; the certificate is written either way."""
    from appliance.certify import SoakJob
    from appliance.certify_view import shown
    from appliance.disturbance import LOADS

    serving = become_service()
    path = arguments.config or (CONFIG if serving and CONFIG.exists() else None)
    config = load_config(path) if path else Config()
    address = engine_of(arguments.bundle, config, arguments.allow_unsigned)
    folder = state_folder(config.storage.folder)
    key = DeviceKey.open(folder)
    job = SoakJob(config, address, arguments.minutes, LOADS[arguments.load], arguments.card, folder)
    certificate = _soaked(job, out)
    path = certificates_folder(config.storage.folder) / f"{certificate.conditions.engine}.json"
    try:
        write(path, certificate, key)
    except OSError as error:
        raise CertificateError(f"{path} can't be written ({error.strerror}): run as the pedal's user, or set [storage] folder") from None
    out.print(shown(certificate))
    _say(out, str(path))
    _say(out, _drawn(certificate, path.with_suffix(".png")))
    return 0 if certificate.passed else 1


def engine_of(wish: str, config: Config, allow_unsigned: bool) -> str:
    """The address to soak. What comes from outside is checked before anything of it runs. Raises BundleError, StoreError."""
    if not wish:
        return address_of(config)
    if wish in (ECHO, "reference"):
        return wish
    if wish.endswith(SUFFIX):
        admit(locate(wish), keys_folder(config), allow_unsigned)
        return wish
    store = Store(state_folder(config.storage.folder) / "engines")
    return str(store.active() if wish == CURRENT else store.find(wish).path)


def show(path: Path, out: Console) -> int:
    """Print the certificate at `path`, whoever signed it. Raises CertificateError."""
    from appliance.certify_view import shown

    certificate = read(path)
    out.print(shown(certificate))
    return 0 if certificate.passed else 1


def _drawn(certificate: Certificate, path: Path) -> str:
    """Where the picture is, or why there is none."""
    from appliance.certificate_picture import draw
    from appliance.picture import PictureError

    try:
        draw(path, certificate)
    except PictureError as why:
        return str(why)
    return str(path)


def _say(out: Console, line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _soaked(job: SoakJob, out: Console) -> Certificate:
    from rich.live import Live

    from appliance.certify import certify
    from appliance.certify_view import LiveView
    from appliance.gpu_check import VERDICTS

    def say(line: Line) -> None:
        out.print(f"{VERDICTS[line.passed]} {line.what}: [dim]{line.detail}[/]", highlight=False, soft_wrap=True)

    view = LiveView(job)
    with Live(view.shown(), console=out, auto_refresh=False, transient=True) as live:

        def show(seconds: float, rows: Rows) -> None:
            view.add(seconds, rows)
            live.update(view.shown(), refresh=True)

        return certify(job, show, say)

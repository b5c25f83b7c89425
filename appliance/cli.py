"""The command `ghostnote`. Bad input ends in one line on stderr and exit code 2; never in a traceback.

Runs in: the main process. Each command imports what it needs when it is called.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from rich.console import Console

from appliance.board_command import add_board
from appliance.bundle_commands import add_bundle_actions
from appliance.certificate import CertificateError
from appliance.certify_command import add_certify
from appliance.config import Config, ConfigError, load_config
from appliance.consent import ConsentError
from appliance.device_key import DeviceKeyError
from appliance.engine_commands import add_engine_actions
from appliance.flight_ring import FlightError
from appliance.key_commands import add_key
from appliance.main import RunOptions, StartError, Supervisor
from appliance.orders import OrderError
from appliance.preset_commands import add_preset
from appliance.prompt_commands import add_prompt
from appliance.replay_command import add_replay
from appliance.status import StatusError
from appliance.store import StoreError
from appliance.trust import KeyFileError
from appliance.web.command import add_web
from appliance.web.listen import WebError
from engines.bundle import BundleError
from hw.audio import PortError
from hw.board import BoardError

BAD_INPUT = 2
INTERRUPTED = 130
OPERATOR_ERRORS = (
    ConfigError,
    BundleError,
    PortError,
    BoardError,
    StartError,
    StatusError,
    FlightError,
    CertificateError,
    DeviceKeyError,
    KeyFileError,
    WebError,
    StoreError,
    OrderError,
    ConsentError,
)

out, err = Console(), Console(stderr=True)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=arguments.log_level, format="ghostnote: %(message)s")
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except OPERATOR_ERRORS as error:
        if str(error):
            print(f"ghostnote: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("ghostnote", description="The open generative-delay guitar pedal.")
    top.set_defaults(log_level=logging.WARNING)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_demo(commands)
    _add_render(commands)
    _add_status(commands)
    _add_check(commands)
    _add_bench(commands)
    _add_engine(commands)
    add_preset(commands, out)
    add_prompt(commands, out)
    add_key(commands, out)
    add_board(commands, out)
    add_replay(commands, out)
    add_web(commands, out)
    add_certify(commands, out)
    return top


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_run(commands: Commands) -> None:
    one = commands.add_parser("run", help="play: sound card, board and engine as configured")
    one.add_argument("--config", type=Path, metavar="FILE", help="TOML; deploy/ghostnote.toml is an example (default: its values)")
    one.add_argument("--audio", metavar="ADDRESS", help="instead of the config's port, such as alsa:hw:USB")
    one.add_argument("--board", metavar="ADDRESS", help="instead of the config's port: `keys` is this terminal, `midi:` what is plugged in")
    one.add_argument("--wait-for-engine", action="store_true", help="no sound before the engine is ready (else dry sound comes first)")
    one.add_argument("--report", type=Path, metavar="FILE", help="write the exit report as JSON")
    one.set_defaults(command=_run, log_level=logging.INFO)


def _add_demo(commands: Commands) -> None:
    one = commands.add_parser("demo", help="play a guitar recording through the engine in real time")
    one.add_argument("--input", type=Path, metavar="WAV", help="another recording than the shipped one")
    one.add_argument("--seconds", type=_positive, metavar="S", help="only the first S seconds of it")
    one.add_argument("--prompt", default="", metavar="TEXT", help="what answers; one of the engine's prompts")
    one.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="where the results go (default: demo)")
    one.add_argument("--mix", type=_share, default=0.5, help="0 dry .. 1 wet (default: 0.5)")
    _add_engine_option(one)
    one.set_defaults(command=_demo)


def _add_render(commands: Commands) -> None:
    one = commands.add_parser("render", help="a recording through the engine, offline; the same seed gives the same bits")
    one.add_argument("input", type=Path, metavar="IN")
    one.add_argument("output", type=Path, metavar="OUT", help="ends in .wav, .flac or .ogg")
    one.add_argument("--prompt", default="", metavar="TEXT")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--mix", type=_share, default=1.0, help="0 dry .. 1 wet (default: 1)")
    one.add_argument("--steps", type=int, choices=range(17), default=0, metavar="N", help="denoising steps; 0 is the engine's own choice")
    one.add_argument("--delay-ms", type=_positive, default=0.0, metavar="MS", help="default: the shortest")
    _add_engine_option(one)
    one.set_defaults(command=_render)


def _add_status(commands: Commands) -> None:
    one = commands.add_parser("status", help="what the running pedal says of itself, live")
    one.add_argument("--json", action="store_true", help="once, as JSON on stdout")
    one.add_argument("--once", action="store_true", help="once, as a table")
    one.add_argument("--socket", type=Path, metavar="FILE", help="of another pedal than the service's or your own")
    one.set_defaults(command=_status)


def _add_check(commands: Commands) -> None:
    one = commands.add_parser("check", help="what this machine can do")
    one.add_argument("--config", type=Path, metavar="FILE", help="check this configuration as well")
    one.add_argument("--gpu", action="store_true", help="compile for the GPU and prove it: graphs, 200 blocks, a soak (exit 3: no GPU)")
    one.add_argument("--soak-seconds", type=_positive, default=60.0, metavar="S", help="with --gpu: how long to soak (default: 60)")
    _add_engine_option(one)
    one.set_defaults(command=_check)


def _add_bench(commands: Commands) -> None:
    one = commands.add_parser("bench", help="what a block costs on this machine")
    one.add_argument("--json", action="store_true", help="as JSON on stdout")
    one.add_argument("--blocks", type=int, default=200, metavar="N", help="how many blocks to measure (default: 200)")
    _add_engine_option(one)
    one.set_defaults(command=_bench)


def _add_engine(commands: Commands) -> None:
    one = commands.add_parser("engine", help="engine bundles")
    actions = one.add_subparsers(required=True, metavar="ACTION")
    add_bundle_actions(actions, out)
    add_engine_actions(actions, out)
    # Its options are the compiler's: a prefix that nobody types leaves them to it.
    build = actions.add_parser("compile", prefix_chars="\0", add_help=False, help="TensorRT plans from a bundle (--help for its options)")
    build.add_argument("arguments", nargs="*")
    build.set_defaults(command=_engine_compile)


def _add_engine_option(one: argparse.ArgumentParser) -> None:
    one.add_argument("--engine", default="reference", metavar="BUNDLE", help='a bundle, "reference" (default) or "echo"')


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be from 0 to 1")
    return value


def _run_config(arguments: argparse.Namespace) -> Config:
    """The file's, or the defaults, but for what the command line says."""
    config = load_config(arguments.config) if arguments.config else Config()
    if arguments.audio:
        config = replace(config, audio=replace(config.audio, port=arguments.audio))
    if arguments.board:
        config = replace(config, board=replace(config.board, port=arguments.board))
    return config


def _run(arguments: argparse.Namespace) -> int:
    from appliance.report import summary
    from appliance.service import Service

    service = Service.from_environment()
    wait = arguments.wait_for_engine
    options = RunOptions(wait_for_engine=wait, remember=True, patient=service.supervised, on_tick=service.tick)
    report = Supervisor(_run_config(arguments), options).run()
    service.stopping()
    if arguments.report:
        report.write(arguments.report)
    out.print(summary(report, f"Played {report.seconds:.1f} s"))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from appliance.demo import DemoJob, demo

    a = arguments
    demo(DemoJob(a.input, a.seconds, a.prompt, a.out, a.engine, a.mix), out)
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from appliance.render import channels_of, check_target, render, write_audio
    from engines.bundle import read_spec
    from hw.file_audio import load_audio

    subtype, spec = check_target(arguments.output), read_spec(arguments.engine)
    channels, defaults = channels_of(arguments.input), Config()
    config = replace(
        defaults,
        audio=replace(defaults.audio, rate_hz=spec.sample_rate, in_channels=channels, out_channels=channels),
        engine=replace(defaults.engine, bundle=arguments.engine, prompt=arguments.prompt, seed=arguments.seed, steps=arguments.steps),
        controls=replace(defaults.controls, mix=arguments.mix, delay_ms=arguments.delay_ms),
    )
    guitar = load_audio(arguments.input, spec.sample_rate, channels)
    with Progress(console=err) as progress:
        task = progress.add_task("rendering", total=1.0)
        rendered = render(config, guitar, lambda share: progress.update(task, completed=share))
    write_audio(arguments.output, rendered.out, spec.sample_rate, subtype)
    delay_ms = 1000 * rendered.delay_frames / spec.sample_rate
    out.print(f"{arguments.output}: “{rendered.prompt}”, {delay_ms:.0f} ms after the guitar", highlight=False, markup=False, soft_wrap=True)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from appliance.status_table import run

    run(out, arguments.socket, arguments.json, arguments.once)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    if arguments.gpu:
        from appliance.gpu_check import Trial, gpu_check

        return gpu_check(out, Trial(arguments.engine, soak_seconds=arguments.soak_seconds))
    from appliance.check import check

    return check(out, arguments.config, arguments.engine)


def _bench(arguments: argparse.Namespace) -> int:
    from appliance.bench import run

    run(arguments.engine, arguments.blocks, arguments.json)
    return 0


def _engine_compile(arguments: argparse.Namespace) -> int:
    import subprocess

    return subprocess.call([sys.executable, "-m", "engines.tensorrt.compile", *arguments.arguments])

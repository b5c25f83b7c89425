"""The configuration: defaults, the shipped example, and one clear line for every mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config import Config, ConfigError, load_config, parse_config

REPO = Path(__file__).parents[2]


def test_an_empty_file_is_the_defaults() -> None:
    assert parse_config("", "x.toml") == Config()


def test_the_shipped_example_spells_out_the_defaults() -> None:
    example = load_config(REPO / "deploy" / "ghostnote.toml")
    assert example.audio.port == "alsa:hw:USB" and example.engine.bundle == "current"
    assert (replace(example.engine, bundle="reference"), example.board, example.controls, example.realtime) == (
        Config().engine,
        Config().board,
        Config().controls,
        Config().realtime,
    )


def test_the_shipped_example_names_every_key() -> None:
    text = (REPO / "deploy" / "ghostnote.toml").read_text()
    for table, keys in vars(Config()).items():
        assert f"[{table}]" in text
        for key in vars(keys):
            assert f"\n{key} = " in text, f"{table}.{key} is not in the example"


def test_values_are_taken_and_whole_numbers_serve_as_numbers() -> None:
    config = parse_config('[controls]\nmix = 1\n[engine]\nprompt = "a choir"\n[realtime]\naudio_core = 1', "x.toml")
    assert config.controls.mix == 1.0
    assert isinstance(config.controls.mix, float)
    assert config.engine.prompt == "a choir"
    assert config.realtime.audio_core == 1


MISTAKES = {
    "[audoi]": "unknown table: [audoi]; did you mean [audio]?",
    "[audio]\nperoid_frames = 64": "unknown key in [audio]: peroid_frames; did you mean period_frames?",
    "[audio]\nxyzzy = 64": "allowed: port, rate_hz, period_frames",
    "[audio]\nperiod_frames = 8": "[audio] period_frames = 8 is not allowed: must be a whole number from 16 to 4096",
    "[audio]\nperiod_frames = 64.0": "period_frames = 64.0 is not allowed",
    "[audio]\nperiod_frames = true": "period_frames = true is not allowed",
    '[audio]\nsample_format = "S24"': "sample_format = \"S24\" is not allowed: must be one of 'S16', 'S24_3LE', 'S32', 'FLOAT'",
    "[controls]\nmix = nan": "mix = nan is not allowed: must be a number from 0 to 1",
    '[controls]\nmix = "0.5"': 'mix = "0.5" is not allowed',
    "[controls]\nbypass = 1": "bypass = 1 is not allowed: must be true or false",
    '[controls]\nsubdivision = "1/5"': "must be one of '1/2', '1/4.'",
    "[engine]\nbundle = 3": "bundle = 3 is not allowed: must be a text",
    "[engine]\nsteps = 17": "a whole number from 0 to 16",
    "audio = 3": "audio = 3 must be a table",
    "[audio": "is not TOML",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "gig.toml")
    line = str(caught.value)
    assert line.startswith("gig.toml: ")
    assert MISTAKES[text] in line
    assert "\n" not in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, says in (("absent.toml", "No such file"), ("binary.toml", "not a text file"), (".", "directory")):
        with pytest.raises(ConfigError, match=says):
            load_config(tmp_path / name)

"""Presets by order: from somebody who is not at the board, in the pedal's own store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.controls import Control
from appliance.orders import OrderError
from appliance.preset_orders import preset_orders
from appliance.presets import Place, PresetStore
from tests.appliance.test_playing import Stage


def order(stage: Stage, order_name: str, **words: Any) -> str:
    answer: Mapping[str, Any] = preset_orders(stage.playing)[order_name]({"order": order_name, **words})
    return str(answer["line"])


def test_a_preset_is_written_and_then_played(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "[controls]\nrepeats = 0.25")
    said = order(stage, "save-preset", place="2.3", name=" Deep  choir ", sound={"mix": 0.8, "prompt": "choir"})
    assert said == "saved as preset 2.3 Deep choir"
    assert stage.player.controls.get(Control.MIX) == 0.5, "it is not heard yet"
    assert order(stage, "load-preset", preset="2.3") == "preset 2.3 Deep choir"
    assert stage.player.controls.get(Control.MIX) == 0.8 and stage.player.prompt == "choir"
    stage.playing.end()
    kept = PresetStore(tmp_path).load(Place(2, 3))
    assert (kept.name, kept.sound.mix, kept.sound.repeats) == ("Deep choir", 0.8, 0.25), "what was not given is as it sounded"


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("load-preset", {}, "needs 'preset'"),
    ("load-preset", {"preset": 3}, "needs 'preset'"),
    ("load-preset", {"preset": "opera"}, "no preset is called 'opera'"),
    ("save-preset", {"place": "99.1", "name": "a"}, "there is no place 99.1"),
    ("save-preset", {"place": "../x", "name": "a"}, "is no place"),
    ("save-preset", {"place": "1.1", "name": ""}, "can't be called"),
    ("save-preset", {"place": "1.1"}, "needs 'name'"),
    ("save-preset", {"place": "1.1", "name": "a", "sound": {"mix": 2}}, "mix = 2 is not allowed"),
    ("save-preset", {"place": "1.1", "name": "a", "sound": {"mxi": 1}}, "did you mean mix?"),
    ("save-preset", {"place": "1.1", "name": "a", "sound": [1]}, "no table"),
]


@pytest.mark.parametrize(("name", "words", "says"), MISTAKES)
def test_mistakes_are_one_line_and_keep_nothing(tmp_path: Path, name: str, words: dict[str, Any], says: str) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(OrderError, match=says) as caught:
        order(stage, name, **words)
    assert "\n" not in str(caught.value) and not PresetStore(tmp_path).places()
    stage.playing.end()


def test_a_run_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, remember=False)
    with pytest.raises(OrderError, match="not kept in this run"):
        order(stage, "save-preset", place="1.1", name="a")

"""Nothing measurable: what the open page costs the audio process. Minutes long, because a shared machine is noisy."""

from __future__ import annotations

import statistics

import pytest

from tests.web.page_cost import measure

MOST = 1.02


@pytest.mark.slow
@pytest.mark.system
def test_the_open_page_costs_the_audio_process_nothing_measurable() -> None:
    ratios = [seen / alone for seen, alone in measure(pairs=60)]
    assert statistics.median(ratios) <= MOST, f"median {statistics.median(ratios):.4f} of {len(ratios)} pairs"

"""What a command says while it works: tokens done, tokens to go, time left.

Mutants caught: `left` counted with the finished prompts; the mean of finished prompts taken over all tokens done; the rate measured
from the start of the command, so that loading a model counts; "about" for what is only the least.
"""

import io
import re

import pytest
from rich.console import Console

import noiser.cli.progress as progress_module
from noiser.cli.progress import Forecast, PromptProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_a_prompt_that_was_estimated(clock):
    forecast = Forecast(1)
    forecast.expected = 1000
    clock[0] += 50  # nothing runs: the time does not count
    forecast.update(100, 20)
    assert str(forecast) == "100 token-forwards, about 900 to go"
    clock[0] += 10
    forecast.update(200, 20)
    assert str(forecast) == "200 token-forwards, about 800 to go, 80 s left"
    forecast.update(1200, 0)
    assert str(forecast) == "1,200 token-forwards"


def test_without_an_estimate_the_rows_at_hand_are_the_least(clock):
    forecast = Forecast(3)
    forecast.update(100, 5000)
    assert str(forecast) == "100 token-forwards, at least 5,000 to go"
    clock[0] += 10
    forecast.update(1100, 4000)
    assert str(forecast).endswith("at least 4,000 to go, 40 s left")


def test_finished_prompts_stand_for_the_others(clock):
    forecast = Forecast(4)
    forecast.update(0, 300)
    clock[0] += 10
    forecast.update(300, 0)
    forecast.finish_prompt()
    forecast.update(400, 10)
    assert forecast.to_go == (800, True)
    assert str(forecast) == "400 token-forwards, about 800 to go, 20 s left"


class Model:
    def progress_callback(self, callback):
        from contextlib import nullcontext

        self.callback = callback
        return nullcontext()


def test_without_a_terminal_there_is_a_line_now_and_then(clock):
    screen, lm = io.StringIO(), Model()
    progress = PromptProgress(Console(file=screen, width=200))
    with progress.follow(lm, 1):
        for done in range(0, 1000, 100):
            lm.callback(done, 1000 - done)
            clock[0] += 10
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r"\d+ token-forwards, at least \d+ to go, \d+ s left", line) for line in lines), lines

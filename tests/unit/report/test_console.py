"""Long work is told of, with how long it still takes where that is known; tables in a pipe are those of a terminal without colours."""

from __future__ import annotations

import random
from time import sleep

import pytest

from parsim.report import console


def test_long_work_says_how_long_it_still_takes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_EVERY_S", 0.05)
    with console.patience("counting", after_s=0.01) as tell:
        sleep(0.1)
        tell(0.5)
        sleep(0.2)
        tell(1)
        sleep(0.2)
    first, second, *_, before, last = capsys.readouterr().err.splitlines()
    assert first == "counting ..." and second.startswith(" 50.0 %, about ") and second.endswith(" s left")
    assert before.startswith(" 50.0 %") and last.startswith(" 100 %, done in ")


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.patience("counting", after_s=0.2):
        pass
    sleep(0.3)
    assert not capsys.readouterr().err


def test_a_table_in_a_pipe_has_the_characters_that_rich_draws(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    texts = ["", "no", "1.5", "two words", "two\nlines", "日本", "é─", " in spaces ", "some thirty-one letters, together"]
    for name in console._DRAWN:
        monkeypatch.delenv(name, raising=False)
    for count in range(60):
        names = draw.sample(["plan", "step", "exposed_\ntp", "長い", "a name of words", "#"], draw.randint(1, 6))
        rows = [{name: draw.choice(texts) for name in names if draw.random() < 0.9} for _ in range(draw.randint(1, 5))]
        left, title = draw.sample(names, draw.randint(0, len(names))), draw.choice(["", "a title"])
        said = []
        for plain in (True, False):
            monkeypatch.setattr(console, "_is_plain", lambda plain=plain: plain)
            console.show_table(rows, left=left, title=title)
            said.append(capsys.readouterr().out)
        assert said[0] == said[1], (count, rows)

"""Long work is told of, with how long it still takes where that is known."""

from __future__ import annotations

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

"""Specification of `kdnas_ray.live`: what a person reads in every state of a search."""

import io
import time

import pytest
from rich.console import Console

from kdnas_ray import live
from kdnas_ray.journal import Progress
from kdnas_ray.live import Narrator, line, panel

SEARCHING = {
    "running": 3,
    "workers": 2,
    "ended": {"complete": 4, "pruned": 6, "failed": 1, "rejected": 2},
    "reached": {3: 11, 9: 6, 27: 4},
    "stopped": {3: 5, 9: 1},
    "best": (0.9612, "c0007", 5432),
    "teacher_accuracy": 0.9833,
}


def progress(budget: int | None = 40, minutes: float = 1.0, **facts) -> Progress:
    return Progress(budget=budget, rungs=(3, 9, 27), begin=time.perf_counter() - 60 * minutes, **facts)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)


def shown(renderable, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def said(console: Console) -> str:
    return console.file.getvalue()


def test_line_when_nothing_ended_yet_then_says_only_what_is_known():
    text = line(progress(running=2, workers=2))
    assert "0/40 candidates" in text
    assert "2 running" in text
    for unknown in ("best", "minute", "left"):
        assert unknown not in text


def test_line_when_searching_then_names_counts_best_teacher_pace_and_time_left():
    text = line(progress(**SEARCHING))
    for part in ("11/40 candidates", "2 running", "4 complete", "6 stopped early", "1 failed", "0.9612", "c0007",
                 "5,432", "teacher 0.9833", "11 candidates a minute"):  # fmt: skip
        assert part in text
    assert "2 min 38 s left" in text  # 29 candidates at 11 a minute
    assert "\n" not in text


def test_line_when_the_search_was_resumed_then_the_pace_is_this_sessions():
    text = line(progress(ended_before=5, **SEARCHING))
    assert "6 candidates a minute" in text


@pytest.mark.parametrize(
    ("budget", "wall_s", "left"),
    [
        (None, 90, "30 s left"),
        (13, 600, "11 s left"),
        (40, 70, "10 s left"),
    ],
)
def test_time_left_when_several_budgets_hold_then_is_the_sooner_end(budget, wall_s, left):
    assert left in line(progress(budget, wall_budget_s=wall_s, **SEARCHING))


def test_time_left_when_there_is_no_bound_or_it_is_over_then_is_not_negative():
    assert "left" not in line(progress(None, **SEARCHING))
    assert "0 s left" in line(progress(None, wall_budget_s=10, **SEARCHING))


def test_panel_when_searching_then_shows_counts_best_and_the_rung_table():
    text = shown(panel(progress(**SEARCHING)))
    for part in ("11 of 40", "2 on 2 workers", "4 complete", "6 stopped early", "1 failed", "2 broke a constraint",
                 "0.9612", "c0007", "teacher 0.9833", "11 candidates a minute"):  # fmt: skip
        assert part in text
    rows = [row.strip(" │").split() for row in text.splitlines()]
    for expected in (["3", "11", "5"], ["9", "6", "1"], ["27", "4", "–"]):
        assert expected in rows


def test_panel_when_nothing_ended_yet_then_says_so():
    text = shown(panel(progress(None)))
    assert "as many as fit" in text
    assert "none complete yet" in text
    assert "rejected" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_panel_when_the_terminal_is_narrow_or_wide_then_fits(width):
    assert max(len(row) for row in shown(panel(progress(**SEARCHING)), width).splitlines()) <= width


def test_narrator_when_a_terminal_then_draws_the_panel_until_the_context_ends():
    console = terminal()
    narrator = Narrator(console)
    with narrator.watch(progress(**SEARCHING)):
        narrator.say("Teacher: ready")
        narrator.tick()
    narrator.say("After")
    text = said(console)
    assert "kdnas search" in text
    assert "Teacher: ready" in text
    assert text.rstrip().endswith("After")


def test_narrator_when_not_a_terminal_then_prints_plain_lines_now_and_then(monkeypatch):
    console = Console(file=io.StringIO(), width=300, highlight=False)
    narrator = Narrator(console)
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    with narrator.watch(progress(**SEARCHING)):
        for _ in range(100):  # ten seconds, ten events a second
            narrator.tick()
            now[0] += 0.1
    rows = said(console).splitlines()
    assert 2 <= len(rows) <= 4  # one every five seconds, and one at the end
    assert all("11/40 candidates" in row for row in rows)
    assert "\x1b" not in said(console)


def test_narrator_when_the_search_fails_then_gives_the_terminal_back():
    console = terminal()
    narrator = Narrator(console)
    with pytest.raises(RuntimeError, match="broken"), narrator.watch(progress()):
        raise RuntimeError("broken")
    assert "\x1b[?25h" in said(console)  # the cursor is shown again


def test_say_when_an_activity_repeats_at_once_then_is_thinned_out(monkeypatch):
    console = Console(file=io.StringIO(), width=200)
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    narrator = Narrator(console)
    for epoch in range(1, 21):
        narrator.say(f"Training the teacher: epoch {epoch}/20")
        now[0] += 1
    narrator.say("[brackets] are no markup")
    narrator.say("[brackets] are no markup")
    rows = said(console).splitlines()
    assert [row.partition("epoch ")[2] for row in rows[:-2]] == ["1/20", "6/20", "11/20", "16/20"]
    assert rows[-2:] == ["[brackets] are no markup"] * 2

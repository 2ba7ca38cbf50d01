"""What does a person see while a search runs? One calm panel, or plain lines when it is not a terminal."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kdnas_ray.journal import Progress

PLAIN_EVERY_S = 5.0


class Narrator:
    """Tells a person what happens: `say` a line, `watch` a search's progress until the context ends.

    Args:
        console: where to; its terminal decides between panel and plain lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._last_line = 0.0
        self._last_said = ""

    def say(self, text: str) -> None:
        """One line; repeated lines of one activity (the same words up to the colon) are thinned out."""
        activity = text.partition(":")[0]
        now = time.monotonic()
        if activity == self._last_said and ":" in text and now - self._last_line < PLAIN_EVERY_S:
            return
        self._last_said, self._last_line = activity, now
        self.console.print(text, markup=False)

    def __call__(self, text: str) -> None:
        self.say(text)

    def watch(self, progress: Progress) -> "Narrator":
        """Show this search from now on; use as a context."""
        self._progress = progress
        return self

    def __enter__(self) -> "Narrator":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=1, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._progress is not None:
            self.console.print(line(self._progress), markup=False)

    def tick(self) -> None:
        """Called after every event; prints a plain line now and then when there is no panel."""
        now = time.monotonic()
        if self._live is None and self._progress is not None and now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            self.console.print(line(self._progress), markup=False)

    def _panel(self) -> Panel:
        assert self._progress is not None
        return panel(self._progress)


def line(progress: Progress) -> str:
    """The state of a search in one line."""
    ended = progress.ended
    stops = ", ".join(f"{number} after epoch {rung}" for rung, number in sorted(progress.stopped.items()))
    parts = [
        f"{progress.trained}/{progress.budget or '?'} candidates",
        f"{min(progress.running, progress.workers)} running",
        f"{progress.waiting} wait at a rung" if progress.waiting else "",
        f"{ended['complete']} complete",
        f"{ended['pruned']} stopped early" + (f" ({stops})" if stops else ""),
        f"{ended['failed']} failed" if ended["failed"] else "",
        f"{ended['rejected']} not trained" if ended["rejected"] else "",
        _best(progress),
        _pace(progress),
    ]
    return " · ".join(part for part in parts if part)


def panel(progress: Progress) -> Panel:
    """The state of a search as a panel."""
    ended = progress.ended
    counts = Table.grid(padding=(0, 2))
    counts.add_row("candidates", f"{progress.trained} of {progress.budget or 'as many as fit'}")
    counts.add_row("running", f"{min(progress.running, progress.workers)} on {progress.workers} workers")
    counts.add_row(
        "ended", f"{ended['complete']} complete · {ended['pruned']} stopped early · {ended['failed']} failed"
    )
    if progress.waiting:
        counts.add_row("waiting", f"{progress.waiting} at a rung, for the best of them to go on")
    if ended["rejected"]:
        counts.add_row("rejected", f"{ended['rejected']} broke a constraint (not trained)")
    counts.add_row("best so far", _best(progress) or "none complete yet")
    counts.add_row("pace", _pace(progress) or "…")
    rungs = Table(box=None, padding=(0, 2), header_style="dim")
    for title in ("rung (epochs)", "reached", "stopped here"):
        rungs.add_column(title, justify="right")
    for rung in progress.rungs:
        stopped = "–" if rung == progress.rungs[-1] else str(progress.stopped.get(rung, 0))
        rungs.add_row(str(rung), str(progress.reached.get(rung, 0)), stopped)
    return Panel(Group(counts, Text(), rungs), title="kdnas search", title_align="left", border_style="dim")


def _best(progress: Progress) -> str:
    if progress.best is None:
        return ""
    accuracy, candidate, params = progress.best
    against = f", teacher {progress.teacher_accuracy:.4f}" if progress.teacher_accuracy is not None else ""
    return f"best {accuracy:.4f} ({candidate}, {params:,} parameters{against})"


def _pace(progress: Progress) -> str:
    seconds = time.perf_counter() - progress.begin
    done = progress.trained + progress.waiting - progress.ended_before
    if done == 0:
        return ""
    text = f"{60 * done / seconds:.0f} candidates a minute"
    left = []
    if progress.budget is not None and not progress.waiting:  # how many of those go on is not known yet
        left.append((progress.budget - progress.trained) * seconds / done)
    if progress.wall_budget_s is not None:
        left.append(progress.wall_budget_s - seconds)
    return text + (f" · {_duration(max(min(left), 0))} left" if left else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

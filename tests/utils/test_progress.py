"""Progress counts evaluations, on a terminal and in a log file."""

import io

from bigain.utils.progress import EVERY, FIRST, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_file_gets_a_line_now_and_then_with_the_time_left():
    now, file = 0.0, io.StringIO()
    with Progress("lgtm", 4, 1, 100, file=file, clock=lambda: now) as progress:
        for later in (1.0, FIRST, FIRST + 1, FIRST + EVERY):
            now = later
            progress.evaluated(50)
        progress.finished(2, ", top-1 50.0%")
        now += EVERY
        progress.evaluated(50)
    assert file.getvalue().splitlines() == [
        "lgtm: 200 of 400 evaluations, 1 of 4 images, 00:20 left",
        "lgtm: 300 of 400 evaluations, 1 of 4 images, 00:20 left",
        "lgtm: 350 of 400 evaluations, 3 of 4 images, 00:14 left",
    ]


def test_the_total_follows_what_an_image_takes():
    """Where that is known only afterwards, as of a race."""
    now, file = 0.0, io.StringIO()
    with Progress("race", 10, 0, 200, file=file, clock=lambda: now) as progress:
        progress.evaluated(100)
        progress.finished(2, each=50.0)
        now = FIRST
        progress.evaluated(50)
    assert file.getvalue() == "race: 150 of 500 evaluations, 2 of 10 images, 00:23 left\n"


def test_a_short_run_writes_nothing_into_a_log_file():
    file = io.StringIO()
    with Progress("lgtm", 1, 0, 10, file=file) as progress:
        progress.evaluated(10)
        progress.finished(1)
    assert file.getvalue() == ""


def test_a_terminal_shows_evaluations_before_an_image_is_finished():
    file = Terminal()
    with Progress("lgtm", 2, 0, 100, file=file) as progress:
        progress.evaluated(50)
        progress._bar.refresh()
        assert "50/200" in file.getvalue() and "0/2 images" in file.getvalue()
        progress.finished(1, ", top-1 100.0%")
        progress.evaluated(150)
    assert "1/2 images, top-1 100.0%" in file.getvalue()

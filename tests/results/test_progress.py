from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from fabricsim.engine.driver import Progress
from fabricsim.results import progress
from fabricsim.results.log import Log
from fabricsim.results.progress import CountReporter, ProgressReporter, fraction_done


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def report(elapsed_s: float, delivered: int = 25) -> Progress:
    """A quarter of 100 packets delivered after so many seconds."""
    return Progress(
        simulated_ps=1_500_000,
        packet_hops=6_000_000,
        tasks_ended=1,
        num_tasks=4,
        delivered_packets=delivered,
        total_packets=100,
        elapsed_s=elapsed_s,
    )


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process have held as much on every machine."""
    monkeypatch.setattr(progress, "peak_memory_bytes", lambda: 512 << 20)


def test_a_plain_line_comes_every_30_seconds() -> None:
    """Away from a terminal: nothing at 29 s, a line at 31 s, none at 60 s, one at 61 s."""
    stream = io.StringIO()
    with ProgressReporter("nvl72", log=Log(stream=stream)) as reporter:
        for elapsed_s in (0.0, 29.0, 31.0, 60.0, 61.0):
            reporter(report(elapsed_s))
    first, second = stream.getvalue().splitlines()
    assert first == (
        "nvl72: 25.0% delivered, simulated 1.5 us, 6,000,000 packet-hops (0.2 M/s) in 31 s, about 93 s left, 512 MiB"
    )
    assert "in 61 s" in second


def test_a_run_that_has_delivered_nothing_has_no_estimate() -> None:
    """Nothing delivered in 40 s says nothing of the rest."""
    stream = io.StringIO()
    with ProgressReporter("nvl72", log=Log(stream=stream)) as reporter:
        reporter(report(40.0, delivered=0))
    assert stream.getvalue().endswith("in 40 s, 512 MiB\n")


def test_a_terminal_gets_a_live_bar() -> None:
    """On a terminal one bar is drawn with the fabric and the rate, and wiped at the end."""
    stream = Terminal()
    with ProgressReporter("nvl72", log=Log(stream=stream)) as reporter:
        reporter(report(0.5))
        reporter(report(1.0))
    assert "nvl72" in stream.getvalue()
    assert "simulated 1.5 us" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


def test_quiet_shows_nothing() -> None:
    """Neither a bar nor lines."""
    for stream in (io.StringIO(), Terminal()):
        with ProgressReporter("nvl72", quiet=True, log=Log(stream=stream)) as reporter:
            reporter(report(31.0))
        assert stream.getvalue() == ""


def test_a_compilation_is_said_at_once() -> None:
    """A plain line elsewhere, words beside the bar on a terminal, nothing where it is to be quiet."""
    compiling = replace(report(0.0, delivered=0), compiling="compiling the kernel (once)")
    plain, terminal, quiet = io.StringIO(), Terminal(), io.StringIO()
    for stream in (plain, terminal, quiet):
        with ProgressReporter("nvl72", quiet=stream is quiet, log=Log(stream=stream)) as reporter:
            reporter(compiling)
    assert plain.getvalue() == "nvl72: compiling the kernel (once)\n"
    assert "compiling the kernel (once)" in terminal.getvalue()
    assert quiet.getvalue() == ""


def test_fraction_counts_packets_then_tasks() -> None:
    """A workload without packets is measured by its tasks, an empty one is done."""
    assert fraction_done(report(1.0)) == 0.25
    without = Progress(0, 0, 3, 4, 0, 0, 1.0)
    assert fraction_done(without) == 0.75
    assert fraction_done(Progress(0, 0, 0, 0, 0, 0, 1.0)) == 1.0


def test_json_lines_have_the_figures_apart() -> None:
    """``--log-format json``: an object per line, also on a terminal, where no bar is drawn."""
    stream = Terminal()
    with ProgressReporter("nvl72", log=Log("json", stream=stream)) as reporter:
        reporter(replace(report(0.0), compiling="compiling the kernel (once)"))
        reporter(report(29.0))
        reporter(report(31.0))
        reporter(report(70.0, delivered=0))
    compiling, first, second = map(json.loads, stream.getvalue().splitlines())
    assert (compiling["event"], compiling["message"]) == ("compiling", "compiling the kernel (once)")
    assert first.pop("time").endswith("Z")
    assert first.pop("message").startswith("25.0% delivered")
    assert first == {
        "event": "progress",
        "of": "nvl72",
        "done": 0.25,
        "simulated_ps": 1_500_000,
        "packet_hops": 6_000_000,
        "packet_hops_per_s": 6_000_000 / 31,
        "elapsed_s": 31.0,
        "left_s": 93.0,
        "memory_bytes": 512 << 20,
    }
    assert second["left_s"] is None


def test_who_asks_gets_the_next_report() -> None:
    """A line at once, even where all else is quiet, and then none until it is due."""
    for stream, quiet in ((io.StringIO(), True), (io.StringIO(), False), (Terminal(), True)):
        with ProgressReporter("nvl72", quiet=quiet, log=Log(stream=stream)) as reporter:
            reporter(report(0.5))
            assert stream.getvalue() == ""
            reporter.ask()
            reporter(report(1.0))
            reporter(report(2.0))
        assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == ["nvl72"]


def test_counts_come_in_one_line_of_a_terminal_and_every_30_seconds_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over and over, or line by line with the time; quiet shows nothing but what is asked for."""
    now_s = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s)
    plain, terminal, quiet = io.StringIO(), Terminal(), io.StringIO()
    reporters = [CountReporter("points", quiet=stream is quiet, log=Log(stream=stream)) for stream in (plain, terminal)]
    reporters.append(CountReporter("points", quiet=True, log=Log(stream=quiet)))
    for done, seconds in ((1, 10.0), (2, 31.0), (3, 40.0)):
        now_s = 100.0 + seconds
        for reporter in reporters:
            reporter(done, 3)
    assert plain.getvalue() == "points: 2 of 3\n"
    assert terminal.getvalue() == "\rpoints: 1 of 3\rpoints: 2 of 3\rpoints: 3 of 3\n"
    assert quiet.getvalue() == ""
    reporters[2].ask()
    reporters[2](3, 3)
    assert quiet.getvalue() == "points: 3 of 3\n"


def test_the_process_knows_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least what Python itself takes."""
    monkeypatch.undo()
    assert progress.peak_memory_bytes() > 1 << 20

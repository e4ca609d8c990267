from __future__ import annotations

import io
from dataclasses import replace

from fabricsim.engine.driver import Progress
from fabricsim.results.progress import ProgressReporter, fraction_done


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


def test_a_plain_line_comes_every_30_seconds() -> None:
    """Away from a terminal: nothing at 29 s, a line at 31 s, none at 60 s, one at 61 s."""
    stream = io.StringIO()
    with ProgressReporter("nvl72", stream=stream) as reporter:
        for elapsed_s in (0.0, 29.0, 31.0, 60.0, 61.0):
            reporter(report(elapsed_s))
    first, second = stream.getvalue().splitlines()
    assert first == (
        "nvl72: 25.0% delivered, simulated 1.5 us, 6,000,000 packet-hops (0.2 M/s) in 31 s, about 93 s left"
    )
    assert "in 61 s" in second


def test_a_run_that_has_delivered_nothing_has_no_estimate() -> None:
    """Nothing delivered in 40 s says nothing of the rest."""
    stream = io.StringIO()
    with ProgressReporter("nvl72", stream=stream) as reporter:
        reporter(report(40.0, delivered=0))
    assert stream.getvalue().endswith("in 40 s\n")


def test_a_terminal_gets_a_live_bar() -> None:
    """On a terminal one bar is drawn with the fabric and the rate, and wiped at the end."""
    stream = Terminal()
    with ProgressReporter("nvl72", stream=stream) as reporter:
        reporter(report(0.5))
        reporter(report(1.0))
    assert "nvl72" in stream.getvalue()
    assert "simulated 1.5 us" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


def test_quiet_shows_nothing() -> None:
    """Neither a bar nor lines."""
    for stream in (io.StringIO(), Terminal()):
        with ProgressReporter("nvl72", quiet=True, stream=stream) as reporter:
            reporter(report(31.0))
        assert stream.getvalue() == ""


def test_a_compilation_is_said_at_once() -> None:
    """A plain line elsewhere, words beside the bar on a terminal, nothing where it is to be quiet."""
    compiling = replace(report(0.0, delivered=0), compiling="compiling the kernel (once)")
    plain, terminal, quiet = io.StringIO(), Terminal(), io.StringIO()
    for stream in (plain, terminal, quiet):
        with ProgressReporter("nvl72", quiet=stream is quiet, stream=stream) as reporter:
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

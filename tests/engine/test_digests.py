"""One result, whoever computes it: every kernel, on one thread and on two, planes folded and not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fabricsim as fs
from fabricsim.engine import driver, threads
from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.engine.folding import fold, unfolded
from fabricsim.results.run import load_trace
from tests.engine.kernels import COMPILED
from tests.engine.test_folding import fitting
from tests.oracle.cases import Case, cases, random_cases
from tests.results.small import digest_of

TRACES = Path(__file__).resolve().parents[2] / "traces"

#: What a record says of the engine and not of the run.
OF_THE_ENGINE = ("engine_s", "kernel", "kernel_reason", "threads")


@pytest.fixture(scope="module", autouse=True)
def _every_epoch_is_shared() -> Iterator[None]:
    """Let two threads share each epoch, however small: by itself the engine would keep most of these on one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "WORTH_HOPS", 0)
        yield


def records(case: Case) -> dict[tuple[str, int, bool], RunRecord]:
    """Run a case in every way, by kernel, threads and whether its planes were folded where they can be."""
    terminal_of_rank = np.array(case.terminal_of_rank, np.int32)
    foldings = [fold(case.network, [case.schedule], terminal_of_rank)]
    if foldings[0].folded:
        foldings.append(unfolded(case.network, "to compare"))
    return {
        (kernel, count, folding.folded): folding.unfold(
            run_schedule(
                folding.network,
                folding.schedule(case.schedule),
                terminal_of_rank=terminal_of_rank,
                seed=case.seed,
                kernel=kernel,
                threads=count,
            )
        )
        for kernel, count, folding in product(COMPILED, (1, 2), foldings)
    }


def assert_alike(case: Case, found: Sequence[RunRecord]) -> None:
    """Hold the digests against each other, and then all that the digest does not cover."""
    assert len({digest_of(case.schedule, record) for record in found}) == 1
    for name in (field.name for field in fields(RunRecord) if field.name not in OF_THE_ENGINE):
        first, *others = (np.asarray(getattr(record, name)).tolist() for record in found)
        assert all(other == first for other in others), name


@settings(max_examples=200)
@given(case=cases(), turn_events=st.sampled_from([1, 20, 200_000]))
def test_random_cases_have_one_digest(case: Case, turn_events: int) -> None:
    """Neither the kernel, nor a second thread, nor who takes which turn, nor folding changes what is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "TURN_EVENTS", turn_events)
        found = records(case)
    assert_alike(case, list(found.values()))


@settings(max_examples=100)
@given(case=cases().filter(lambda case: case.network.vcs.count == 1 and case.network.routing != "adaptive"))
def test_the_kernel_for_plain_fabrics_has_the_digest_of_that_for_all(case: Case) -> None:
    """What is left out for fabrics with one virtual channel and no adaptive choice does nothing for them."""
    found = list(records(case).values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "is_plain", lambda state: False)
        found += records(case).values()
    assert_alike(case, found)


def apart(case: Case) -> Case:
    """Let the planes run apart from each other, each as a domain: with an overhead of some least latencies."""
    network = case.network
    overhead_ps = network.endpoint.message_overhead_ps + 3 * int(network.channels.latency_ps.min())
    return replace(case, network=replace(network, endpoint=replace(network.endpoint, message_overhead_ps=overhead_ps)))


@settings(max_examples=100)
@given(
    case=random_cases(["clos"], whole=True).filter(lambda case: case.network.num_planes > 1).map(fitting).map(apart),
    turn_events=st.sampled_from([1, 20, 200_000]),
)
def test_random_cases_of_several_planes_have_one_digest(case: Case, turn_events: int) -> None:
    """The same where each case can be folded, and where two threads have at least a plane each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "TURN_EVENTS", turn_events)
        found = records(case)
    assert {(count, folded) for _, count, folded in found} == set(product((1, 2), (False, True)))
    assert {found[kernel, 2, False].threads for kernel in COMPILED} == {2}
    assert_alike(case, list(found.values()))


@pytest.mark.parametrize(
    ("trace", "fabric", "folds"),
    [
        ("dlrm-8rank.arrow", "cloudmatrix384", False),  # its small messages use one plane
        ("dlrm-8rank.arrow", "nvl72", False),
        ("moe-ep64.arrow", "cloudmatrix384", True),  # nvl72's 256-byte packets would make eight times as many
        ("moe-ep384.arrow", "cloudmatrix384", True),
    ],
)
def test_traces_have_one_digest(trace: str, fabric: str, folds: bool) -> None:
    """A replay of each shipped trace has one digest and one count of packet-hops, however it is computed."""
    workload = load_trace(TRACES / trace)
    found = set()
    for kernel, count, asked in product(COMPILED, (1, 2), (False, True)):
        result = fs.simulate(fabric, workload, kernel=kernel, threads=count, fold=asked)
        assert result.info.folded == (asked and folds)
        if not result.info.folded:
            assert result.record.threads == count
        found.add((result.digest, result.simulated_time_ps, result.record.packet_hops, result.record.packets))
    assert len(found) == 1


def test_every_trace_is_replayed() -> None:
    """No shipped trace is left out above."""
    (marks,) = (mark for mark in test_traces_have_one_digest.pytestmark if mark.name == "parametrize")
    assert {trace for trace, _, _ in marks.args[1]} == {path.name for path in TRACES.glob("*.arrow")}

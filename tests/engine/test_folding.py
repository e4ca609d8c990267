"""Folding: a run of one plane for all that are alike gives the record of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabricsim.engine.driver import RunRecord, run_schedule
from fabricsim.engine.folding import Folding, fold, unfolded
from fabricsim.fabrics import load_fabric
from fabricsim.fabrics.network import Channels, Network
from fabricsim.fabrics.topologies import Tier
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import Case, bereft_cases, random_cases, synchronised_cases
from tests.results.small import LINK, crossbar, linear, mesh, one_operation

#: Each of 4 ranks to each: enough bytes, at 50 B per plane at least, for 5 planes.
EXCHANGE = one_operation(*((source, target, 201 + 10 * source + target) for source in range(4) for target in range(4)))


def two_tiers(planes: int, **changes: object) -> Network:
    """8 terminals under 4 switches under 3, where packets have a choice; terminals are ideal, so all planes share."""
    return crossbar(8, planes, tiers=[Tier("leaf", 2, 1, LINK, LINK), Tier("spine", 4, 3, LINK, LINK)], **changes)


def changed(network: Network, column: str, planes: Sequence[int]) -> Network:
    """Add one to a column of the channels of some planes."""
    of_planes = np.isin(network.channels.plane, planes)
    values = getattr(network.channels, column)
    return replace(network, channels=replace(network.channels, **{column: (values + of_planes).astype(values.dtype)}))


def swapped(values: np.ndarray, one: int, other: int) -> np.ndarray:
    """Exchange two entries."""
    values = values.copy()
    values[[one, other]] = values[[other, one]]
    return values


def edited(values: np.ndarray, where: tuple[int, int], value: int) -> np.ndarray:
    """Set one entry."""
    values = values.copy()
    values[where] = value
    return values


def assert_unfolds_to_the_whole(
    folding: Folding, network: Network, schedule: Schedule, terminal_of_rank: np.ndarray, seed: int = 1
) -> None:
    """Run both and compare all that is recorded, types included, but for what the engine says of itself."""
    whole = run_schedule(network, schedule, terminal_of_rank=terminal_of_rank, seed=seed)
    part = run_schedule(folding.network, folding.schedule(schedule), terminal_of_rank=terminal_of_rank, seed=seed)
    found = folding.unfold(part)
    for name in (field.name for field in fields(RunRecord) if field.name not in ("engine_s", "threads")):
        ours, theirs = np.asarray(getattr(found, name)), np.asarray(getattr(whole, name))
        assert ours.dtype == theirs.dtype, name
        assert np.array_equal(ours, theirs), name


def fitting(case: Case) -> Case:
    """Let every message that moves use all planes alike: parts of a byte are worth one, and there are enough bytes."""
    network, messages = case.network, case.schedule.messages
    size_bytes = messages.size_bytes + np.where(messages.size_bytes > 0, network.num_planes, 0)
    return replace(
        case,
        network=replace(network, packet=replace(network.packet, stripe_min_bytes=1), weights=None),
        schedule=replace(case.schedule, messages=replace(messages, size_bytes=size_bytes)),
    )


@settings(max_examples=150)
@given(case=st.one_of(random_cases(whole=True), synchronised_cases(whole=True)).map(fitting))
def test_random_cases_unfold_to_the_whole(case: Case) -> None:
    """Traffic that uses all planes is folded on any Clos, and on any network every figure is that of the whole run."""
    terminal_of_rank = np.array(case.terminal_of_rank, np.int32)
    folding = fold(case.network, [case.schedule], terminal_of_rank)
    if case.network.name == "random clos":
        assert folding.folded == (case.network.num_planes > 1)
        assert folding.network.num_planes == 1
    assert_unfolds_to_the_whole(folding, case.network, case.schedule, terminal_of_rank, case.seed)


@settings(max_examples=100)
@given(case=st.one_of(random_cases(), synchronised_cases(), bereft_cases()))
def test_any_case_unfolds_to_the_whole(case: Case) -> None:
    """Where some message uses fewer planes, or not, what ``fold`` decides changes no recorded figure."""
    terminal_of_rank = np.array(case.terminal_of_rank, np.int32)
    folding = fold(case.network, [case.schedule], terminal_of_rank)
    assert_unfolds_to_the_whole(folding, case.network, case.schedule, terminal_of_rank, case.seed)


@pytest.mark.parametrize("build", [crossbar, two_tiers])
def test_the_folded_network_is_that_of_one_plane(build: type[Network]) -> None:
    """Three planes fold to the tables that the topology gives for one, to the type."""
    one, three = build(planes=1), build(planes=3)
    folded = fold(three, [EXCHANGE], linear(EXCHANGE)).network
    for field in fields(Network):
        found, expected = getattr(folded, field.name), getattr(one, field.name)
        if field.name == "channels":
            for column in fields(Channels):
                assert getattr(found, column.name).tolist() == getattr(expected, column.name).tolist(), column.name
                assert getattr(found, column.name).dtype == getattr(expected, column.name).dtype, column.name
        elif isinstance(expected, np.ndarray):
            assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist()), field.name
        else:
            assert found == expected, field.name


@pytest.mark.parametrize(("name", "words"), [("nvl72", "18 planes as 1"), ("cloudmatrix384", "7 planes as 1")])
def test_fabrics_of_the_catalog_fold(name: str, words: str) -> None:
    """Large messages fold the planes of both machines; channels of all planes stand for themselves by place."""
    network = load_fabric(name).network()
    schedule = one_operation((0, 1, 1 << 20), (1, 2, 1 << 20))
    folding = fold(network, [schedule], linear(schedule))
    assert (folding.folded, folding.words, folding.copies) == (True, words, network.num_planes)
    assert np.array_equal(folding.stand_in, network.channels.place)


@pytest.mark.parametrize(
    "column", [field.name for field in fields(Channels) if field.name not in ("source_node", "target_node", "plane")]
)
def test_planes_with_another_channel_are_not_alike(column: str) -> None:
    """One more in any column of the second plane's channels, and nothing is folded."""
    folding = fold(changed(crossbar(planes=2), column, [1]), [EXCHANGE], linear(EXCHANGE))
    assert (folding.folded, folding.words) == (False, "no two planes are alike")


def test_planes_with_other_wires_or_routes_are_not_alike() -> None:
    """Targets, sources, bundles, candidates, spray counters or routes changed in one plane, and nothing is folded."""
    network = two_tiers(planes=2)
    schedule = one_operation((0, 7, 201), ranks=8)
    assert fold(network, [schedule], linear(schedule)).folded
    channels = network.channels
    first = int(np.searchsorted(channels.plane, 1))
    last = len(channels) - 1
    for other in (
        replace(network, channels=replace(channels, target_node=swapped(channels.target_node, first, first + 2))),
        replace(network, channels=replace(channels, source_node=swapped(channels.source_node, first, last))),
        replace(network, bundle_channels=swapped(network.bundle_channels, 1, 3)),
        replace(network, candidates=swapped(network.candidates, last, last - 1)),
        replace(network, spray_start=swapped(network.spray_start, first, first + 1)),
        replace(network, route_first=edited(network.route_first, (13, 7), network.route_first[13, 0])),
        replace(network, route_count=edited(network.route_count, (7, 7), 2)),
    ):
        assert fold(other, [schedule], linear(schedule)).words == "no two planes are alike"


def test_a_destination_without_routes_keeps_planes_alike() -> None:
    """What stands where there is no route does not matter."""
    network = two_tiers(planes=2)
    schedule = one_operation((0, 1, 201), ranks=8)
    for switch, nothing in ((0, 0), (7, len(network.candidates))):
        network = replace(
            network,
            route_first=edited(network.route_first, (switch, 7), nothing),
            route_count=edited(network.route_count, (switch, 7), 0),
        )
    folding = fold(network, [schedule], linear(schedule))
    assert folding.words == "2 planes as 1"
    assert_unfolds_to_the_whole(folding, network, schedule, linear(schedule))


@pytest.mark.parametrize(
    ("network", "schedule", "words"),
    [
        (mesh(), EXCHANGE, "the fabric has one plane"),
        (crossbar(planes=1), EXCHANGE, "the fabric has one plane"),
        (crossbar(planes=5), EXCHANGE, "5 planes as 1"),
        (crossbar(planes=6), EXCHANGE, "a message of 202 B uses 5 of 6 planes"),
        (crossbar(planes=3), one_operation((0, 1, 101), (2, 2, 1), (0, 2, 0)), "3 planes as 1"),
        (
            crossbar(planes=3),
            one_operation((0, 1, 101), (2, 1, 100), (0, 2, 99)),
            "a message of 99 B uses 2 of 3 planes",
        ),
        (crossbar(planes=3), one_operation(), "3 planes as 1"),
    ],
)
def test_every_message_must_use_all_planes(network: Network, schedule: Schedule, words: str) -> None:
    """The smallest message that does not is named; empty ones and those to oneself use none."""
    folding = fold(network, [schedule], linear(schedule))
    assert (folding.words, folding.folded) == (words, " as " in words)
    assert_unfolds_to_the_whole(folding, network, schedule, linear(schedule))


def test_classes_fold_separately() -> None:
    """Of four planes the last two are slower: two stand for two each, in one bundle."""
    network = changed(crossbar(planes=4), "latency_ps", [2, 3])
    folding = fold(network, [EXCHANGE], linear(EXCHANGE))
    assert (folding.words, folding.copies, folding.network.num_planes) == ("4 planes as 2", 2, 2)
    assert folding.network.channels.latency_ps.tolist() == [1_000] * 8 + [1_001] * 8
    assert folding.network.channel_name(15) == "switch.0.2 -> gpu3 (plane 1)"
    assert_unfolds_to_the_whole(folding, network, EXCHANGE, linear(EXCHANGE))


def neighbours_apart(planes: int) -> Network:
    """Give terminals 0 and 1, and 2 and 3, the odd planes to each other alone, which are slower; all others the even.

    A machine whose dies share a package is like that.
    """
    network = changed(crossbar(planes=planes), "latency_ps", range(1, planes, 2))
    per_plane = len(network.channels) // planes
    terminals = np.arange(4)
    bundle_index = np.repeat(2 * terminals[:, None], 4, axis=1)
    bundle_index[terminals, terminals ^ 1] += 1
    np.fill_diagonal(bundle_index, -1)
    bundles = [terminal + per_plane * np.arange(odd, planes, 2) for terminal in terminals for odd in (0, 1)]
    return replace(
        network,
        bundle_index=bundle_index.astype(np.int32),
        bundle_first=np.cumsum([0, *map(len, bundles)]).astype(np.int32),
        bundle_channels=np.concatenate(bundles).astype(np.int32),
    )


def test_classes_with_bundles_of_their_own_fold_separately() -> None:
    """Two planes between neighbours and two between all others become one and one."""
    network = neighbours_apart(4)
    folding = fold(network, [EXCHANGE], linear(EXCHANGE))
    assert (folding.words, folding.copies) == ("4 planes as 2", 2)
    assert_unfolds_to_the_whole(folding, network, EXCHANGE, linear(EXCHANGE))


def test_classes_of_different_size_fold_if_one_is_idle() -> None:
    """Of 2 planes and 1 only the latencies of one class may be recorded; an idle plane counts for nothing."""
    network = neighbours_apart(3)
    words = "planes that carry packets would stand for 1 and for 2, but their latencies are recorded together"
    assert fold(network, [EXCHANGE], linear(EXCHANGE)).words == words
    for schedule, copies in ((one_operation((0, 2, 300), (3, 1, 200)), 2), (one_operation((0, 1, 40), (3, 2, 9)), 1)):
        folding = fold(network, [schedule], linear(schedule))
        assert (folding.words, folding.copies) == ("3 planes as 2", copies)
        assert_unfolds_to_the_whole(folding, network, schedule, linear(schedule))


def test_bundles_that_do_not_fold_are_striped_as_before() -> None:
    """Neighbours use two planes that are not alike, and the two that are alike are idle: small messages use one."""
    network = changed(neighbours_apart(4), "latency_ps", [3])
    network = replace(network, packet=replace(network.packet, flit_bytes=1))  # every byte shows in the times
    schedule = one_operation((0, 1, 9), (0, 1, 11), (1, 0, 51), (3, 2, 105))
    folding = fold(network, [schedule], linear(schedule))
    assert (folding.words, folding.copies) == ("4 planes as 3", 1)
    assert_unfolds_to_the_whole(folding, network, schedule, linear(schedule))


def test_unfolded_stands_for_itself() -> None:
    """Without folding the engine gets the run as it is, and the record stays as it is."""
    network = crossbar(planes=2)
    folding = unfolded(network, "switched off")
    assert (folding.folded, folding.network, folding.schedule(EXCHANGE)) == (False, network, EXCHANGE)
    assert_unfolds_to_the_whole(folding, network, EXCHANGE, linear(EXCHANGE))

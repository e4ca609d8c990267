from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fabricsim as fs
from fabricsim.fabrics.network import channels_between
from fabricsim.results.run import simulate
from fabricsim.workloads.schedule import Schedule
from tests.oracle.cases import Case, OperationDraft, TaskDraft, build_schedule, random_cases
from tests.oracle.test_oracle import simulate_case
from tests.results import small


def exchange(ranks: int = 4) -> Schedule:
    """An all-to-all small enough for an uncompiled kernel."""
    return fs.collective("all_to_all", size="4KiB", ranks=ranks)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("link.gpu-nvswitch.bandwidth", "25 GB/s"),
        ("link.gpu-nvswitch.latency", "1 us"),
        ("terminal.slots", "2"),
        ("terminal.copy_rate", "10 GB/s"),
        ("terminal.ejection_rate", "10 GB/s"),
        ("terminal.protocol.exchange.launch_latency", "1 us"),
        ("terminal.message_overhead", "1 us"),
        ("topology.planes", "1"),
        ("packet.bulk.overhead", "16 B"),
    ],
)
def test_an_override_is_felt(tiny: fs.FabricSpec, key: str, value: str) -> None:
    """Each of these changes the times of an all-to-all, and stands in its summary."""
    changed = simulate(tiny.with_overrides({key: value}), exchange(), kernel="python")
    assert changed.digest != simulate(tiny, exchange(), kernel="python").digest
    assert changed.summary()["fabric"]["overrides"] == {key: value}


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [
        ("terminal.launch_latency", "1 us", {"endpoint": "ideal"}),
        ("terminal.copy_rate", "10 GB/s", {"endpoint": "ideal"}),
        ("terminal.slots", "3", {}),  # of four ranks none sends more than three messages
        ("terminal.ejection_rate", "10 TB/s", {}),  # never slower than the wire
    ],
)
def test_an_override_without_effect_is_refused(
    tiny: fs.FabricSpec, key: str, value: str, options: dict[str, str]
) -> None:
    """What the endpoint switches off, what is never reached and what never limits."""
    with pytest.raises(fs.ConfigError, match=f"setting {key}={value} has no effect on this run on tiny"):
        simulate(tiny.with_overrides({key: value}), exchange(), kernel="python", **options)


def test_only_what_packets_meet_counts() -> None:
    """Within a node of CloudMatrix 384 nothing crosses a second-tier channel, nor is cut to another format."""
    fabric = fs.load_fabric("cloudmatrix384")
    for key, value in (("link.l1-l2.latency", "1 us"), ("packet.load_store.flit", "4 B")):
        with pytest.raises(fs.ConfigError, match=f"setting {key}={value} has no effect on this run"):
            simulate(fabric.with_overrides({key: value}), exchange(), kernel="python")
    far = fabric.with_overrides({"link.l1-l2.latency": "1 us"})
    assert simulate(far, exchange(2), kernel="python", placement="scatter").summary()["fabric"]["overrides"]


def test_a_run_without_packets_feels_launches_alone(tiny: fs.FabricSpec) -> None:
    """One rank alone is launched, and sends nothing; a computation is not even launched, an exchange by a protocol."""
    launch = tiny.with_overrides({"terminal.launch_latency": "1 us"})
    lone = fs.collective("broadcast", size="4KiB", ranks=1)
    assert simulate(launch, lone, kernel="python").simulated_time_ps == 1_000_000
    computation = build_schedule(1, [OperationDraft([TaskDraft(0, gap_ps=5, launches=False)])])
    idle_slots = tiny.with_overrides({"terminal.slots": "1"})
    for spec, schedule in ((launch, computation), (launch, exchange()), (idle_slots, lone)):
        with pytest.raises(fs.ConfigError, match="has no effect on this run on tiny"):
            simulate(spec, schedule, kernel="python")


def test_an_override_that_others_need_counts(tiny: fs.FabricSpec) -> None:
    """Without the larger buffer the larger packets could not be: then the run is another one."""
    both = {"packet.bulk.max_payload": "64 kB", "link.gpu-nvswitch.buffer": "70 kB"}
    result = simulate(tiny.with_overrides(both), exchange(), kernel="python")
    assert result.summary()["fabric"]["overrides"] == both


VALUES = {
    "B/s": ["1 GB/s", "60 GB/s", "70 GB/s", "1 TB/s"],
    "s": ["1 ns", "251 ns", "2 us"],
    "B": ["16 B", "32 B", "300 B", "1 MB"],
    "": ["1", "3", "5", "40"],
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), endpoint=st.sampled_from(["fitted", "ideal"]))
def test_what_is_refused_changes_nothing(data: st.DataObject, endpoint: str) -> None:
    """Any number, set to any value: where that is refused as idle, the run of such a file is that of the original."""
    fabric = small.tiny_fabric()
    key = data.draw(st.sampled_from([row.key for row in fabric.quantities()]))
    kind = {"bandwidth": "B/s", "copy_rate": "B/s", "ejection_rate": "B/s", "latency": "s", "launch_latency": "s"}
    kind |= dict.fromkeys(("buffer", "max_payload", "overhead", "flit", "stripe_min"), "B") | {"message_overhead": "s"}
    value = data.draw(st.sampled_from(VALUES[kind.get(key.rpartition(".")[2], "")]))
    schedule = exchange(data.draw(st.integers(1, 3)))
    try:
        changed = fabric.with_overrides({key: value})
    except fs.ConfigError:
        return
    try:
        simulate(changed, schedule, kernel="python", endpoint=endpoint)
    except fs.ConfigError as error:
        if f"setting {key}={value} has no effect on this run" not in str(error):
            return
        as_file = fs.FabricSpec.from_toml(changed.to_toml(), origin="changed")
        digests = {simulate(spec, schedule, kernel="python", endpoint=endpoint).digest for spec in (fabric, as_file)}
        assert len(digests) == 1


@settings(max_examples=60, deadline=None)
@given(case=random_cases())
def test_packets_keep_to_the_channels_between_their_ends(case: Case) -> None:
    """No simulation has a packet on a channel that no route between its terminals has."""
    schedule, terminals = case.schedule, np.array(case.terminal_of_rank)
    rank = schedule.tasks.rank
    source, target = (
        terminals[rank[tasks]] for tasks in (schedule.messages.source_task, schedule.messages.target_task)
    )
    moves = (schedule.messages.size_bytes > 0) & (source != target)
    crossed = channels_between(case.network, source[moves].astype(np.int64), target[moves].astype(np.int64))
    assert crossed[simulate_case(case).channel_packets > 0].all()

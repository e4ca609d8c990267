from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import TraceError
from fabricsim.workloads.trace import Clock, Completeness, Trace, check, summary, trace_from_rows
from fabricsim.workloads.trace_row_rules import list_sums
from tests.workloads.trace_cases import all_reduce, all_to_all_v, collective, compute, pair_trace, transfer

NOT_ALL = [{"id": 0, "name": "pair", "ranks": [0, 1]}, {"id": 1, "name": "odd", "ranks": [1, 3]}]
MATRIX = [[1, 2], [3, 4]]


def complaint_of(trace: Trace) -> str:
    """What check says of a trace that it must refuse, with exit code 3."""
    with pytest.raises(TraceError) as caught:
        check(trace)
    assert caught.value.exit_code == 3
    return str(caught.value)


SOUND = {
    "all_to_all": collective("all_to_all", [(64, 64), (64, 64)]),
    "all_to_all_v": all_to_all_v(MATRIX),
    "all_to_all_v without receive lists": all_to_all_v(MATRIX, recv=False),
    "all_reduce": all_reduce(),
    "all_gather": collective("all_gather", [(32, 64), (32, 64)]),
    "all_gather_v": collective("all_gather_v", [(10, 30), (20, 30)], recv_bytes_per_peer=[10, 20]),
    "reduce_scatter": collective("reduce_scatter", [(64, 32), (64, 32)]),
    "reduce_scatter_v": collective("reduce_scatter_v", [(30, 10), (30, 20)], send_bytes_per_peer=[10, 20]),
    "broadcast": collective("broadcast", [(0, 64), (64, 64)], root=1),
    "reduce": collective("reduce", [(64, 64), (64, 0)], root=0),
    "gather": collective("gather", [(32, 0), (32, 64)], root=1),
    "scatter": collective("scatter", [(0, 32), (64, 32)], root=1),
    "barrier": collective("barrier", [(0, 0), (0, 0)]),
    "nothing to move": collective("all_to_all", [(0, 0), (0, 0)]),
}


@pytest.mark.parametrize("rows", SOUND.values(), ids=SOUND.keys())
def test_a_sound_collective_passes(rows):
    """Each operation, with sizes by the table of operations, is one collective of two rows."""
    found = check(pair_trace(rows))
    assert (found.rows, found.collectives, found.transfers, found.local_operations) == (2, 1, 0, 0)


def test_all_kinds_of_operations_are_counted():
    """Rows make up collectives, transfers and local operations."""
    rows = [*all_reduce(), transfer("send", 0, 1), transfer("recv", 1, 0), compute(0), {**compute(1), "op": "wait"}]
    found = check(pair_trace(rows))
    assert (found.rows, found.collectives, found.transfers, found.local_operations) == (6, 1, 1, 2)


def changed(rows: list[dict[str, Any]], row: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """*rows* with one of them changed; a change to ``None`` drops the value."""
    return [{**old, **changes} if index == row else old for index, old in enumerate(rows)]


ROW_1 = "trace in memory: row 1 (batch 0, row 1 of it), column "


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # one row by itself
        (changed(all_reduce(), rank=2), ROW_1 + "rank: 2 is outside 0..1; mend it or fabricsim.world_size"),
        (changed(all_reduce(), group_id=3), ROW_1 + "group_id: there is no group 3; fabricsim.groups has 0..0"),
        (changed(all_reduce(), group_seq=None), ROW_1 + "group_seq: null for all_reduce; number the collectives"),
        (changed(SOUND["broadcast"], root=None), ROW_1 + "root: null for broadcast; name the global rank of its root"),
        (changed(SOUND["gather"], root=5), ROW_1 + "root: 5 is not in group 0 ('pair': ranks 0, 1)"),
        ([compute(0), {**transfer("send", 0, 1), "peer": None}], ROW_1 + "peer: null for send"),
        (changed(SOUND["barrier"], send_bytes=4), ROW_1 + "send_bytes: 4 for barrier, which has none; write 0"),
        ([compute(0), {**transfer("send", 0, 1), "recv_bytes": 4}], ROW_1 + "recv_bytes: 4 for send, which has none"),
        (
            changed(all_reduce(t_start_ns=5, t_end_ns=9), t_end_ns=4),
            ROW_1 + "t_end_ns: 4 is before t_start_ns 5; write null for what is not known",
        ),
        (
            changed(all_to_all_v(MATRIX), send_bytes_per_peer=None),
            ROW_1 + "send_bytes_per_peer: null for all_to_all_v; list the bytes for each rank of the group",
        ),
        (
            changed(SOUND["all_to_all"], send_bytes_per_peer=[32, 32]),
            ROW_1 + "send_bytes_per_peer: all_to_all has no such list; write null, or name another operation",
        ),
        (
            changed(all_to_all_v(MATRIX), send_bytes_per_peer=[3, 4, 0]),
            ROW_1 + "send_bytes_per_peer: 3 entries for the 2 ranks of group 0; list one per rank",
        ),
        (
            changed(all_to_all_v(MATRIX), send_bytes=8),
            ROW_1 + "send_bytes_per_peer: the entries sum to 7, send_bytes is 8; make them equal",
        ),
        (
            changed(all_to_all_v(MATRIX), recv_bytes=8),
            ROW_1 + "recv_bytes_per_peer: the entries sum to 6, recv_bytes is 8; make them equal",
        ),
        (
            changed(all_to_all_v(MATRIX), send_bytes_per_peer=[2**62 + 3, 2**62 + 4], send_bytes=7),
            ROW_1 + f"send_bytes_per_peer: the entries sum to {2**63 + 7}",
        ),
        # rows of one operation
        (
            changed(all_reduce(), op="all_to_all"),
            ROW_1 + "op: all_to_all on rank 1, but all_reduce on other ranks of the collective (group 0, group_seq 0)",
        ),
        (changed(all_reduce(dtype="float16"), dtype="int8"), "dtype: float16 on rank 0, but int8 on other ranks"),
        (
            changed(SOUND["broadcast"], root=0),
            ROW_1 + "root: 0 on rank 1, but 1 on other ranks of the collective (group 0, group_seq 0); make them agree",
        ),
        (
            changed(all_to_all_v(MATRIX), recv_bytes_per_peer=[3, 3]),
            ROW_1 + "recv_bytes_per_peer: rank 1 expects 3 bytes from rank 0, which sends 2 (row 0)",
        ),
        (
            changed(all_to_all_v(MATRIX, recv=False), recv_bytes=9),
            ROW_1 + "recv_bytes: 9, but the group sends 6 to rank 1; make both agree",
        ),
        (
            changed(SOUND["all_gather_v"], recv_bytes_per_peer=[11, 19]),
            ROW_1 + "recv_bytes_per_peer: rank 1 expects 11 bytes from rank 0, which sends 10 (row 0)",
        ),
        (
            changed(SOUND["reduce_scatter_v"], send_bytes_per_peer=[11, 19]),
            ROW_1 + "send_bytes_per_peer: differs from that of rank 0 (row 0); all ranks reduce the same segments",
        ),
        (changed(SOUND["reduce_scatter_v"], recv_bytes=5), ROW_1 + "recv_bytes: 5, but the group sends 20 to rank 1"),
        (
            collective("all_to_all", [(63, 63)] * 2),
            "send_bytes: 63 in all_to_all (group 0, group_seq 0), which does not divide evenly by its ranks",
        ),
        (changed(all_reduce(), send_bytes=8), ROW_1 + "send_bytes: 8 in all_reduce (group 0, group_seq 0), where"),
        (changed(SOUND["all_to_all"], recv_bytes=8), ROW_1 + "recv_bytes: 8 in all_to_all"),
        (changed(SOUND["all_gather"], send_bytes=8), "other sizes ask for 32; see docs/trace-format.md"),
        (changed(SOUND["reduce_scatter"], recv_bytes=8), "other sizes ask for 32"),
        (changed(SOUND["broadcast"], row=0, send_bytes=64), "send_bytes: 64 in broadcast (group 0, group_seq 0)"),
        (changed(SOUND["reduce"], recv_bytes=64), "recv_bytes: 64 in reduce (group 0, group_seq 0), where its other"),
        (changed(SOUND["gather"], row=0, send_bytes=33), "other sizes ask for 32"),
        (changed(SOUND["scatter"], row=0, recv_bytes=31), "other sizes ask for 32"),
        # transfers
        ([transfer("send", 0, 1)], "column peer: send from rank 0 to rank 1 in group 0 without a recv there"),
        (
            [transfer("send", 0, 1, tag=1), transfer("recv", 1, 0, tag=2)],
            "column peer: recv on rank 1 from rank 0 in group 0 with tag 2 without a send there; record both ends",
        ),
        (
            [transfer("send", 0, 1, 64), transfer("recv", 1, 0, 65)],
            ROW_1 + "recv_bytes: 65, but its send (row 0 (batch 0, row 0 of it)) hands over 64; make both agree",
        ),
        # numbers and dependencies
        (
            [compute(0, op_id=4), compute(1, op_id=4)],
            ROW_1 + "op_id: 4 is already that of row 0 (batch 0, row 0 of it); give each row its own number",
        ),
        (
            [compute(0, op_id=4), compute(0, op_id=5, deps=[3])],
            ROW_1 + "deps: there is no op_id 3; name rows of this trace",
        ),
        (
            [compute(0, op_id=4), compute(1, op_id=5, deps=[4])],
            ROW_1 + "deps: op_id 4 is on rank 0, this row on rank 1; name rows of the same rank only",
        ),
    ],
)
def test_a_broken_rule_is_named(rows, message):
    """Each rule of docs/trace-format.md, with the place and the remedy."""
    assert message in complaint_of(pair_trace(rows))


def test_a_rank_outside_its_group_is_named():
    """The message lists the group that the rank is not in."""
    trace = trace_from_rows([{**row, "group_id": 1} for row in all_reduce(ranks=2)], world_size=4, groups=NOT_ALL)
    text = complaint_of(trace)
    assert "row 0 (batch 0, row 0 of it), column rank: 0 is not in group 1 ('odd': ranks 1, 3)" in text


def test_a_peer_outside_the_group_is_named():
    """Peers are global ranks, as the message recalls."""
    rows = [{**transfer("send", 1, 2), "group_id": 1}]
    text = complaint_of(trace_from_rows(rows, world_size=4, groups=NOT_ALL))
    assert "column peer: 2 is not in group 1 ('odd': ranks 1, 3); ranks are global" in text


def test_a_collective_short_of_ranks_is_incomplete():
    """The missing ranks are named, and whether the recording says that it lost them."""
    groups = [{"id": 0, "ranks": range(4)}]
    rows = [row for row in all_reduce(ranks=4) if row["rank"] in (0, 2)]
    text = complaint_of(trace_from_rows(rows, world_size=4, groups=groups))
    assert "all_reduce (group 0, group_seq 0) is incomplete: ranks 1, 3 have no row; record all ranks" in text
    lost = Completeness(missing_ranks=(1, 3))
    text = complaint_of(trace_from_rows(rows, world_size=4, groups=groups, complete=lost))
    assert "have no row (fabricsim.complete says that their recordings are missing)" in text


def test_a_rank_that_has_a_collective_twice_is_named():
    """Two rows of one rank with one number cannot both be that collective."""
    text = complaint_of(pair_trace([*all_reduce(), all_reduce()[0]]))
    assert (
        "row 2 (batch 0, row 2 of it), column group_seq: rank 0 already has all_reduce (group 0, group_seq 0)" in text
    )
    assert "in row 0 (batch 0, row 0 of it)" in text
    doubled = complaint_of(pair_trace([all_reduce()[0]] * 2))
    assert "rank 0 already has" in doubled
    assert "incomplete: ranks 1 have no row" in doubled


def test_mixed_list_operations_are_one_complaint():
    """Rows that do not even agree in the operation are not compared list by list."""
    rows = [all_to_all_v(MATRIX)[0], SOUND["reduce_scatter_v"][1]]
    text = complaint_of(pair_trace(rows))
    assert "all_to_all_v on rank 0, but reduce_scatter_v on other ranks" in text
    assert "faults" not in text


def test_faults_are_collected_up_to_twenty():
    """Twenty are told, the rest is counted."""
    rows = [row for seq in range(15) for row in all_reduce(seq, t_start_ns=seq + 5, t_end_ns=seq)]
    lines = complaint_of(pair_trace(rows)).splitlines()
    assert lines[0] == "trace in memory: 30 faults"
    assert len(lines) == 22
    assert all("column t_end_ns" in line for line in lines[1:21])
    assert lines[21].strip() == "... and 10 more"


def test_lists_that_do_not_agree_are_found_across_batches(tmp_path):
    """The rows of one collective need not stand in one batch."""
    table = pair_trace(changed(all_to_all_v(MATRIX), recv_bytes_per_peer=[3, 3])).table()
    with pa.ipc.new_file(tmp_path / "x.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    text = complaint_of(Trace.open(tmp_path / "x.arrow"))
    assert "x.arrow: row 1 (batch 1, row 0 of it), column recv_bytes_per_peer: rank 1 expects 3 bytes" in text


# -- order ------------------------------------------------------------------------------------------------------------


def crossed(**more: Any) -> list[dict[str, Any]]:
    """Two collectives that rank 0 runs as 0, 1 and rank 1 as 1, 0."""
    first, second = all_reduce(0), all_reduce(1)
    return [{**row, **more} for row in (first[0], second[1], second[0], first[1])]


def test_crossed_orders_are_a_deadlock():
    """The message names both ranks and both operations, with their rows."""
    text = complaint_of(pair_trace(crossed()))
    assert "crossed orders would deadlock: " in text
    first, second = "all_reduce (group 0, group_seq 0)", "all_reduce (group 0, group_seq 1)"
    assert f"rank 0 runs {first} in row 0 (batch 0, row 0 of it) before {second} in row 2" in text
    assert f"rank 1 runs {second} in row 1 (batch 0, row 1 of it) before {first} in row 3" in text
    assert "To mend it, record operations in one order on all their ranks" in text


def test_crossed_orders_of_one_batch_are_none():
    """What was issued together does not wait for one another."""
    assert check(pair_trace(crossed(batch_id=3))).collectives == 2


def test_crossed_orders_on_different_streams_are_none():
    """Streams of one rank run side by side."""
    rows = crossed()
    assert check(pair_trace([{**row, "stream": row["group_seq"]} for row in rows])).collectives == 2


def test_recorded_dependencies_replace_the_order_of_the_stream():
    """Without dependencies nothing waits; with crossed ones, on one stream or not, the replay would hang."""
    free = [{**row, "op_id": i, "deps": []} for i, row in enumerate(crossed())]
    assert check(pair_trace(free)).collectives == 2
    tied = [
        {**row, "deps": deps, "stream": i} for i, (row, deps) in enumerate(zip(free, ([], [], [0], [1]), strict=True))
    ]
    text = complaint_of(pair_trace(tied))
    assert "rank 0 runs all_reduce (group 0, group_seq 0)" in text
    assert "rank 1 runs all_reduce (group 0, group_seq 1)" in text


def test_dependencies_on_one_rank_have_no_cycle():
    """A row that waits for itself, directly or in a ring, never begins."""
    loop = complaint_of(pair_trace([compute(0, op_id=0, deps=[0])]))
    assert "rank 0 runs compute in row 0 (batch 0, row 0 of it) before compute in row 0" in loop
    ring = complaint_of(pair_trace([compute(0, op_id=0, deps=[1]), compute(0, op_id=1, deps=[0])]))
    assert "rank 0 runs compute in row 0" in ring
    assert "rank 0 runs compute in row 1" in ring


def test_a_cycle_through_three_groups_is_found():
    """No two ranks cross, yet each waits for the next: the cycle is found as a whole."""
    groups = [{"id": g, "ranks": sorted((g, (g + 1) % 3))} for g in range(3)]

    def member(group: int, rank: int) -> dict[str, Any]:
        return {**all_reduce()[0], "group_id": group, "rank": rank}

    # Rank g runs its pair with g + 1 before its pair with g - 1.
    rows = [member(rank, rank) for rank in range(3)] + [member((rank + 2) % 3, rank) for rank in range(3)]
    text = complaint_of(trace_from_rows(rows, world_size=3, groups=groups))
    assert [f"rank {rank} runs" in text for rank in range(3)] == [True] * 3
    sound = [member(0, 0), member(0, 1), member(1, 1), member(1, 2), member(2, 0), member(2, 2)]
    assert check(trace_from_rows(sound, world_size=3, groups=groups)).collectives == 3


def test_a_recv_before_the_send_that_it_provokes_is_a_deadlock():
    """Both ranks receive first: each recv waits for a send that stands behind the other's recv."""
    rows = [transfer("recv", 0, 1), transfer("recv", 1, 0), transfer("send", 0, 1), transfer("send", 1, 0)]
    text = complaint_of(pair_trace(rows))
    assert "rank 0 waits in recv in row 0 (batch 0, row 0 of it) for rank 1's send in row 3" in text
    assert "rank 1 runs recv in row 1 (batch 0, row 1 of it) before send in row 3" in text
    assert check(pair_trace([{**row, "batch_id": 0} for row in rows])).transfers == 2


def test_both_ranks_may_send_first():
    """A send does not wait for its recv."""
    rows = [transfer("send", 0, 1), transfer("send", 1, 0), transfer("recv", 0, 1), transfer("recv", 1, 0)]
    assert check(pair_trace(rows)).transfers == 2


def test_a_cycle_through_a_batch_names_its_rows():
    """The end of a batch is no operation; the message tells of the rows on both sides of it."""
    a, b, c = all_reduce(0), all_reduce(1), all_reduce(2)
    rows = [
        *({**row, "batch_id": 1} for row in (a[0], b[0])),
        c[0],
        c[1],
        *({**row, "batch_id": 1} for row in (a[1], b[1])),
    ]
    for given_rows in (rows, [compute(0, batch_id=1), *rows[1:4], compute(1, batch_id=1), rows[5]]):
        text = complaint_of(pair_trace(given_rows))
        assert "before all_reduce (group 0, group_seq 2) in row 2" in text
        assert "rank 1 runs all_reduce (group 0, group_seq 2) in row 3" in text


def test_a_long_cycle_is_told_in_part():
    """Eight steps are enough to find the place."""
    ranks = 12
    groups = [{"id": g, "ranks": sorted((g, (g + 1) % ranks))} for g in range(ranks)]
    rows = [
        {**all_reduce()[0], "group_id": group % ranks, "rank": rank}
        for rank in range(ranks)
        for group in (rank, rank - 1)
    ]
    text = complaint_of(trace_from_rows(rows, world_size=ranks, groups=groups))
    assert text.count(" runs ") == 8
    assert "and 4 more steps" in text


@given(st.data())
def test_a_trace_is_refused_exactly_if_a_replay_by_hand_hangs(data):
    """On random traces of three ranks: check against a naive replay that runs whatever can run."""
    groups = [{"id": 0, "ranks": [0, 1, 2]}, {"id": 1, "ranks": [0, 1]}, {"id": 2, "ranks": [1, 2]}]
    rows: list[dict[str, Any]] = []
    for group in groups:
        for seq in range(data.draw(st.integers(0, 2))):
            rows += [{**all_reduce(seq)[0], "group_id": group["id"], "rank": rank} for rank in group["ranks"]]
    for _ in range(data.draw(st.integers(0, 2))):
        a, b = data.draw(st.permutations([0, 1, 2]))[:2]
        rows += [transfer("send", a, b), transfer("recv", b, a)]
    if not rows:
        return
    rows = [{**row, "op_id": op_id} for op_id, row in enumerate(data.draw(st.permutations(rows)))]
    for row in rows:
        row["stream"] = data.draw(st.integers(0, 1))
        row["batch_id"] = data.draw(st.sampled_from([None, None, 0]))
        own = [other["op_id"] for other in rows if other["rank"] == row["rank"]]
        row["deps"] = data.draw(st.sampled_from([None, None, None, [], [own[0]]]))
    trace = trace_from_rows(rows, world_size=3, groups=groups)
    if replay_by_hand_ends(rows):
        assert check(trace).rows == len(rows)
    else:
        assert "crossed orders would deadlock" in complaint_of(trace)


def replay_by_hand_ends(rows: list[dict[str, Any]]) -> bool:
    """Run rows until none can run; the rules of docs/trace-format.md, "What waits for what", word for word."""

    def before(row: dict[str, Any]) -> list[int]:
        if row["deps"] is not None:
            return list(row["deps"])
        lane = [other for other in rows if (other["rank"], other["stream"]) == (row["rank"], row["stream"])]
        items: list[list[dict[str, Any]]] = []
        for other in lane:
            if items and other["batch_id"] is not None and items[-1][-1]["batch_id"] == other["batch_id"]:
                items[-1].append(other)
            else:
                items.append([other])
        place = next(i for i, item in enumerate(items) if row in item)
        return [other["op_id"] for other in items[place - 1]] if place else []

    def partners(row: dict[str, Any]) -> list[dict[str, Any]]:
        if row["op"] == "all_reduce":
            return [o for o in rows if o["op"] == "all_reduce" and key(o) == key(row)]
        if row["op"] == "recv":
            sends = [o for o in rows if o["op"] == "send" and (o["rank"], o["peer"]) == (row["peer"], row["rank"])]
            recvs = [o for o in rows if o["op"] == "recv" and (o["rank"], o["peer"]) == (row["rank"], row["peer"])]
            return [sends[recvs.index(row)]]
        return []

    def key(row: dict[str, Any]) -> tuple[int, int]:
        return row["group_id"], row["group_seq"]

    started: set[int] = set()
    ended: set[int] = set()
    while True:
        starting = {row["op_id"] for row in rows if set(before(row)) <= ended} - started
        started |= starting
        ending = {
            row["op_id"]
            for row in rows
            if row["op_id"] in started and all(other["op_id"] in started for other in partners(row))
        } - ended
        ended |= ending
        if not starting and not ending:
            return len(ended) == len(rows)


# -- size and summary -------------------------------------------------------------------------------------------------


def test_many_rows_with_long_lists_are_checked():
    """384 ranks with lists of 384 entries; a wrong entry among 884,736 is found."""
    ranks, collectives = 384, 6
    rng = np.random.default_rng(1)
    sent = rng.integers(0, 1000, (collectives, ranks, ranks))
    received = sent.transpose(0, 2, 1).copy()
    received[4, 100, 7] += 1
    first = pa.array(np.arange(collectives * ranks + 1, dtype=np.int32) * ranks)
    table = pa.table(
        {
            "op_id": np.arange(collectives * ranks),
            "rank": np.tile(np.arange(ranks), collectives),
            "group_id": np.zeros(collectives * ranks, np.int64),
            "group_seq": np.repeat(np.arange(collectives), ranks),
            "op": pa.array(["all_to_all_v"] * (collectives * ranks)),
            "send_bytes": sent.sum(2).ravel(),
            "recv_bytes": received.sum(2).ravel(),
            "send_bytes_per_peer": pa.ListArray.from_arrays(first, sent.ravel()),
            "recv_bytes_per_peer": pa.ListArray.from_arrays(first, received.ravel()),
        }
    )
    trace = Trace.from_table(table, world_size=ranks, groups=[{"id": 0, "ranks": range(ranks)}])
    text = complaint_of(trace)
    assert f"row {4 * ranks + 100} (batch 0" in text
    assert f"rank 100 expects {received[4, 100, 7]} bytes from rank 7, which sends {sent[4, 7, 100]}" in text
    assert "faults" not in text


def test_a_sum_that_wraps_to_its_total_is_found():
    """Three entries can sum to 2^64 + 7, which is 7 in 64 bits."""
    most = 2**63 - 1
    values = np.array([most, most, 9, 1, 2])
    assert int(values[:3].sum()) == 7
    assert list_sums(np.array([0, 3, 3, 5]), values).tolist() == [-1, 0, 3]


def test_a_summary_counts_what_is_there(tmp_path):
    """Rows and bytes per operation, the span of times and the columns that were recorded."""
    rows = [*all_to_all_v(MATRIX), *all_reduce(1, t_start_ns=10, t_end_ns=70), compute(0)]
    trace = pair_trace(
        rows, clock=Clock(True), complete=Completeness((1,), 2), t0_unix_ns=5, source={"a": 1}, placement=[1, 0]
    )
    trace.write(tmp_path / "x.arrow")
    assert summary(Trace.open(tmp_path / "x.arrow")) == {
        "path": str(tmp_path / "x.arrow"),
        "schema_version": "1.0",
        "rows": 5,
        "batches": 1,
        "world_size": 2,
        "groups": [{"id": 0, "name": "pair", "desc": "", "num_ranks": 2}],
        "ops": {
            "all_to_all_v": {"rows": 2, "send_bytes": 10, "recv_bytes": 10},
            "all_reduce": {"rows": 2, "send_bytes": 2048, "recv_bytes": 2048},
            "compute": {"rows": 1, "send_bytes": 0, "recv_bytes": 0},
        },
        "time_span_ns": 60,
        "recorded": {
            "group_seq": 4,
            "send_bytes_per_peer": 2,
            "recv_bytes_per_peer": 2,
            "t_start_ns": 2,
            "t_end_ns": 2,
        },
        "t0_unix_ns": 5,
        "clock": {"aligned": True, "max_skew_ns": None},
        "complete": {"missing_ranks": (1,), "dropped_ops": 2},
        "source": {"a": 1},
        "placement": [1, 0],
    }


def test_a_trace_that_check_refuses_can_be_summed_up():
    """An incomplete recording is what one wants to look at."""
    found = summary(pair_trace(all_reduce()[:1]))
    assert found["rows"] == 1
    assert found["path"] is None
    assert found["time_span_ns"] is None

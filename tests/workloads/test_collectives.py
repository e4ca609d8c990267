"""The messages of each algorithm, proven right by following the data that they may carry."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabricsim.errors import ConfigError, TraceError
from fabricsim.workloads import collectives
from fabricsim.workloads.collectives import (
    ALGORITHMS,
    COLLECTIVES,
    IN_NETWORK,
    MOE_COLLECTIVES,
    Demand,
    algorithms_of,
    chunks,
    collective,
)
from fabricsim.workloads.schedule import MessageBlock, Operation, Schedule, Tasks, join_messages, offsets
from fabricsim.workloads.schedule_check import check_schedule

NUMBERS_OF_RANKS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17]


def block_of(op: str, name: str, demand: Demand) -> MessageBlock:
    """Expand a demand and hold the block against the rules of the schedule's tables."""
    block = ALGORITHMS[op, name](demand)
    check_schedule(schedule_of(demand.num_ranks, block))
    return block


def schedule_of(num_ranks: int, block: MessageBlock) -> Schedule:
    """Put one block into a schedule of its own, over ranks that are not the places (place p is rank n - p)."""
    ranks = tuple(num_ranks - place for place in range(num_ranks))
    tasks = Tasks(
        operation=np.zeros(num_ranks, np.int32),
        rank=np.asarray(ranks, np.int32),
        gap_ps=np.zeros(num_ranks, np.int64),
        not_before_ps=np.zeros(num_ranks, np.int64),
        launches=np.ones(num_ranks, np.bool_),
        predecessor_first=np.zeros(num_ranks + 1, np.int64),
        predecessors=np.empty(0, np.int32),
    )
    operation = Operation("one", "op", "algorithm", ranks, 0)
    return Schedule(num_ranks + 1, (operation,), tasks, join_messages(np.zeros(1, np.int64), [(0, block)]))


def waits_of(block: MessageBlock, row: int) -> list[int]:
    """Give the rows that one row waits for."""
    return block.waits_for[block.waits_first[row] : block.waits_first[row + 1]].tolist()


def follow(block: MessageBlock, give: Callable[[int, list[frozenset[int]]], frozenset[int]]) -> list[frozenset[int]]:
    """Give what each message carries: ``give(row, contents of the messages that it waits for)``.

    Nothing else may reach a message: what its source got from messages that it does not wait for may come too late.
    """
    contents: dict[int, frozenset[int]] = {}
    while len(contents) < len(block):
        able = [
            row for row in range(len(block)) if row not in contents and all(w in contents for w in waits_of(block, row))
        ]
        assert able, "messages wait in a circle"
        for row in able:
            contents[row] = give(row, [contents[w] for w in waits_of(block, row)])
    return [contents[row] for row in range(len(block))]


def distinct_parts(num_ranks: int) -> npt.NDArray[np.int64]:
    """Give parts of different sizes, so that a message's size says which part it carries."""
    return np.arange(101, 101 + num_ranks, dtype=np.int64)


def union(sets: list[frozenset[int]]) -> frozenset[int]:
    """Join sets."""
    return frozenset().union(*sets)


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
@pytest.mark.parametrize("name", ["direct", "rotated"])
def test_all_to_all_moves_every_pair_once(name: str, num_ranks: int) -> None:
    """Every ordered pair of different places has its own bytes moved exactly once, none the diagonal."""
    sizes = np.arange(1, num_ranks**2 + 1, dtype=np.int64).reshape(num_ranks, num_ranks)
    block = block_of("all_to_all_v", name, Demand(num_ranks, sizes))
    moved = np.zeros_like(sizes)
    np.add.at(moved, (block.source, block.target), block.size_bytes)
    assert len(block) == num_ranks * (num_ranks - 1)
    np.testing.assert_array_equal(moved, np.where(np.eye(num_ranks, dtype=bool), 0, sizes))


@pytest.mark.parametrize("name", ["direct", "rotated"])
def test_all_to_all_order_is_rotated_by_rank(name: str) -> None:
    """Place r sends to r + 1, r + 2, ... in the order of its indices."""
    block = block_of("all_to_all", name, Demand(4, np.full((4, 4), 16)))
    assert block.source.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert block.target.tolist() == [1, 2, 3, 2, 3, 0, 3, 0, 1, 0, 1, 2]


def test_direct_all_to_all_skips_empty_pairs_and_waits_for_nothing() -> None:
    """A pair with nothing to move has no message; all others are ready at once."""
    block = block_of("all_to_all_v", "direct", Demand(3, np.asarray([[9, 0, 5], [0, 9, 0], [7, 0, 9]])))
    assert list(zip(block.source.tolist(), block.target.tolist(), block.size_bytes.tolist(), strict=True)) == [
        (0, 2, 5),
        (2, 0, 7),
    ]
    assert block.waits_first.tolist() == [0, 0, 0]
    assert len(block.waits_for) == 0


def test_rotated_all_to_all_goes_in_lock_step() -> None:
    """The message of step k waits for the one its source sent and the one it receives in step k - 1."""
    num_ranks = 5
    block = block_of("all_to_all", "rotated", Demand(num_ranks, np.full((num_ranks, num_ranks), 16)))
    step = (block.target - block.source) % num_ranks
    for row in range(len(block)):
        waits = waits_of(block, row)
        if step[row] == 1:
            assert waits == []
        else:
            own, received = waits
            assert (block.source[own], block.target[received]) == (block.source[row], block.source[row])
            assert step[own] == step[received] == step[row] - 1


def test_rotated_all_to_all_keeps_the_step_of_an_empty_pair() -> None:
    """An empty pair stays as a message of zero bytes, so that the steps of its source stay in order."""
    sizes = np.full((4, 4), 16)
    sizes[1, 2] = 0
    block = block_of("all_to_all_v", "rotated", Demand(4, sizes))
    assert len(block) == 12
    assert block.size_bytes[(block.source == 1) & (block.target == 2)].tolist() == [0]


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_ring_all_reduce_gives_every_rank_every_contribution(num_ranks: int) -> None:
    """Each chunk comes to each other place in whole: with the contributions of all places, in 2 (n - 1) steps.

    A message carries its source's contribution to its chunk and what the messages that it waits for carried; a
    source that has got the whole sum passes it on.
    """
    block = block_of("all_reduce", "ring", Demand(num_ranks, distinct_parts(num_ranks)))
    contents = follow(block, lambda row, before: union(before) | {int(block.source[row])})
    for place in range(num_ranks):
        for part in range(num_ranks):
            got = [r for r in np.flatnonzero(block.size_bytes == 101 + part) if block.target[r] == place]
            whole = [r for r in got if contents[r] | {place} == frozenset(range(num_ranks))]
            assert whole or num_ranks == 1
    assert len(block) == 2 * (num_ranks - 1) * num_ranks
    assert set((block.target - block.source) % num_ranks) <= {1}


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_ring_all_reduce_adds_each_contribution_once(num_ranks: int) -> None:
    """In the first n - 1 steps no sum that comes to a place holds that place's contribution already."""
    block = block_of("all_reduce", "ring", Demand(num_ranks, distinct_parts(num_ranks)))
    contents = follow(block, lambda row, before: union(before) | {int(block.source[row])})
    steps = np.arange(len(block)) % max(2 * (num_ranks - 1), 1)
    for row in np.flatnonzero(steps < num_ranks - 1):
        assert int(block.target[row]) not in contents[row]
        assert len(contents[row]) == steps[row] + 1


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_ring_reduce_scatter_gives_every_rank_its_sum(num_ranks: int) -> None:
    """Place p receives part p once with all other contributions, and no part reaches a place twice."""
    block = block_of("reduce_scatter", "ring", Demand(num_ranks, distinct_parts(num_ranks)))
    contents = follow(block, lambda row, before: union(before) | {int(block.source[row])})
    for place in range(num_ranks):
        final = [r for r in range(len(block)) if block.target[r] == place and block.size_bytes[r] == 101 + place]
        assert [contents[r] for r in final] == [frozenset(range(num_ranks)) - {place}] * min(num_ranks - 1, 1)
    pairs = set(zip(block.target.tolist(), block.size_bytes.tolist(), strict=True))
    assert len(pairs) == len(block) == num_ranks * (num_ranks - 1)


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
@pytest.mark.parametrize("op", ["all_gather", "all_gather_v"])
def test_ring_all_gather_brings_every_part_to_every_rank(op: str, num_ranks: int) -> None:
    """A place sends a part only if it is its own or has come; in the end every place has got all others' once."""
    block = block_of(op, "ring", Demand(num_ranks, distinct_parts(num_ranks)))
    part = block.size_bytes - 101

    def give(row: int, before: list[frozenset[int]]) -> frozenset[int]:
        assert part[row] == block.source[row] or int(part[row]) in union(before)
        return frozenset({int(part[row])})

    follow(block, give)
    got = sorted(zip(block.target.tolist(), part.tolist(), strict=True))
    assert got == [(p, q) for p in range(num_ranks) for q in range(num_ranks) if p != q]


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_binomial_broadcast_reaches_all_in_log2_rounds(num_ranks: int) -> None:
    """Each place but the root receives the buffer once, before it sends; the longest chain is ceil(log2 n) messages."""
    for root in {0, num_ranks // 2, num_ranks - 1}:
        block = block_of("broadcast", "binomial", Demand(num_ranks, np.asarray(77), root))

        def give(
            row: int, before: list[frozenset[int]], block: MessageBlock = block, root: int = root
        ) -> frozenset[int]:
            assert block.source[row] == root or before
            return frozenset({max(union(before), default=0) + 1})

        depth = follow(block, give)
        assert sorted(block.target.tolist()) == sorted(set(range(num_ranks)) - {root})
        assert set(block.size_bytes.tolist()) <= {77}
        assert max(union(depth), default=0) == (num_ranks - 1).bit_length()
        for row in range(len(block)):
            for wait in waits_of(block, row):
                assert int(block.source[row]) in (block.source[wait], block.target[wait])


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_binomial_broadcast_sends_to_one_child_at_a_time(num_ranks: int) -> None:
    """A place's first message waits for the buffer, each later one for the one before it."""
    block = block_of("broadcast", "binomial", Demand(num_ranks, np.asarray(77), 0))
    for row in range(len(block)):
        source = block.source[row]
        if row and block.source[row - 1] == source:
            assert waits_of(block, row) == [row - 1]
        else:
            assert [block.target[wait] for wait in waits_of(block, row)] == ([] if source == 0 else [source])


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_binomial_reduce_adds_each_contribution_once(num_ranks: int) -> None:
    """Each place but the root sends once; sums that meet are disjoint; the root ends with all contributions."""
    for root in {0, num_ranks // 2, num_ranks - 1}:
        block = block_of("reduce", "binomial", Demand(num_ranks, np.asarray(77), root))

        def give(row: int, before: list[frozenset[int]], block: MessageBlock = block) -> frozenset[int]:
            assert sum(len(b) for b in before) == len(union(before))
            return union(before) | {int(block.source[row])}

        contents = follow(block, give)
        at_root = [contents[row] for row in range(len(block)) if block.target[row] == root]
        assert sum(len(c) for c in at_root) == num_ranks - 1
        assert union(at_root) == frozenset(range(num_ranks)) - {root}
        assert sorted(block.source.tolist()) == sorted(set(range(num_ranks)) - {root})


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_gather_and_scatter_move_each_part_once(num_ranks: int) -> None:
    """Gather brings each other place's part to the root, scatter each other place's part from it; zero parts rest."""
    root = num_ranks // 2
    parts = distinct_parts(num_ranks)
    parts[-1] = 0
    expected = sorted((p, int(parts[p])) for p in range(num_ranks) if p != root and parts[p])
    gather = block_of("gather", "direct", Demand(num_ranks, parts, root))
    scatter = block_of("scatter", "direct", Demand(num_ranks, parts, root))
    assert sorted(zip(gather.source.tolist(), gather.size_bytes.tolist(), strict=True)) == expected
    assert sorted(zip(scatter.target.tolist(), scatter.size_bytes.tolist(), strict=True)) == expected
    assert set(gather.target.tolist()) | set(scatter.source.tolist()) <= {root}


@pytest.mark.parametrize("num_ranks", NUMBERS_OF_RANKS)
def test_every_end_of_a_barrier_depends_on_every_begin(num_ranks: int) -> None:
    """What reaches a place tells it of the begin of all others, in ceil(log2 n) one-byte messages per place."""
    block = block_of("barrier", "dissemination", Demand(num_ranks, np.asarray(0)))
    contents = follow(block, lambda row, before: union(before) | {int(block.source[row])})
    for place in range(num_ranks):
        heard = union([contents[row] for row in range(len(block)) if block.target[row] == place])
        assert heard | {place} == frozenset(range(num_ranks))
    assert len(block) == num_ranks * (num_ranks - 1).bit_length()
    assert set(block.size_bytes.tolist()) <= {1}


def test_send_recv_shifts_around_the_ring() -> None:
    """Place r sends the buffer to r + 1, one message each; one rank alone sends to itself, which is no message."""
    block = block_of("send_recv", "direct", Demand(3, np.asarray(50)))
    assert list(zip(block.source.tolist(), block.target.tolist(), block.size_bytes.tolist(), strict=True)) == [
        (0, 1, 50),
        (1, 2, 50),
        (2, 0, 50),
    ]
    assert len(block_of("send_recv", "direct", Demand(1, np.asarray(50)))) == 0


def test_send_is_one_message() -> None:
    """A transfer goes from place 0 to place 1."""
    block = block_of("send", "direct", Demand(2, np.asarray(50)))
    assert (block.source.tolist(), block.target.tolist(), block.size_bytes.tolist()) == ([0], [1], [50])


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_in_network_collectives_reduce_and_copy_every_piece_once(num_ranks: int) -> None:
    """Each rank owns as many pieces as the others; each is reduced, and then goes from its owner to all.

    An all_reduce of 1 MB takes several rounds, and its pieces hold all of it and less than one byte more each.
    """
    parts = chunks(1_000_003, num_ranks)
    block = block_of("all_reduce", IN_NETWORK, Demand(num_ranks, parts))
    pieces = int(block.groups.count[0])
    assert block.groups.sources.tolist() == [num_ranks] + [1] * pieces
    assert pieces > num_ranks
    assert 0 <= pieces * block.size_bytes[0] - 1_000_003 < pieces
    assert block.source[:pieces].tolist() == block.target[:pieces].tolist() == [p % num_ranks for p in range(pieces)]
    for piece, first in enumerate(block.groups.first[1:].tolist()):
        owner = piece % num_ranks
        assert waits_of(block, first) == [piece]
        assert block.source[first : first + num_ranks].tolist() == [owner] * num_ranks
        assert block.target[first] == owner
        assert sorted(block.target[first : first + num_ranks].tolist()) == list(range(num_ranks))

    gather = block_of("all_gather", IN_NETWORK, Demand(num_ranks, np.full(num_ranks, 48)))
    assert (gather.groups.sources.tolist(), gather.groups.count.tolist()) == ([1] * num_ranks, [num_ranks] * num_ranks)
    assert gather.size_bytes.tolist() == [48] * num_ranks**2
    scatter = block_of("reduce_scatter", IN_NETWORK, Demand(num_ranks, np.full(num_ranks, 48)))
    assert (scatter.groups.sources.tolist(), scatter.groups.count.tolist()) == ([num_ranks], [num_ranks])
    assert scatter.source.tolist() == scatter.target.tolist() == list(range(num_ranks))
    broadcast = block_of("broadcast", IN_NETWORK, Demand(num_ranks, np.asarray(7), root=1))
    assert broadcast.source.tolist() == [1] * num_ranks
    assert broadcast.target[0] == 1


@given(st.data())
def test_messages_stand_by_source_in_sending_order(data: st.DataObject) -> None:
    """Rows are grouped by source, and a row waits, of its own source's messages, only for earlier ones."""
    op, name = data.draw(st.sampled_from(sorted(key for key in ALGORITHMS if key[1] != IN_NETWORK)))
    num_ranks = 2 if op == "send" else data.draw(st.integers(1, 12))
    by_pair = op in ("all_to_all", "all_to_all_v", *MOE_COLLECTIVES)
    shape = (num_ranks, num_ranks) if by_pair else (num_ranks,)
    if op in ("broadcast", "reduce", "send", "send_recv", "barrier"):
        shape = ()
    parts = np.asarray(
        data.draw(st.lists(st.integers(0, 5), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), np.int64
    ).reshape(shape)
    block = block_of(op, name, Demand(num_ranks, parts, data.draw(st.integers(0, num_ranks - 1))))
    assert (np.diff(block.source) >= 0).all()
    for row in range(len(block)):
        assert all(wait < row for wait in waits_of(block, row) if block.source[wait] == block.source[row])
    dtypes = [
        column.dtype for column in (block.source, block.target, block.size_bytes, block.waits_first, block.waits_for)
    ]
    assert dtypes == [np.int32, np.int32, np.int64, np.int64, np.int32]


# By hand, as nccl-tests counts: a part per peer is floor(size / n / 16) * 16 bytes and the size used n parts.
@pytest.mark.parametrize(
    ("op", "size", "ranks", "size_bytes", "moved_bytes"),
    [
        ("all_to_all", 1000, 3, 3 * 320, 6 * 320),
        ("all_to_all", "64MiB", 72, 72 * 932_064, 72 * 71 * 932_064),
        ("all_to_all", 4096, 1, 4096, 0),
        # p = 320, c = 640 // 3 = 213, the rest 960 - 3 * 213 = 321; on the diagonal stand 321, 426 and 213.
        ("all_to_all_v", 960, 3, 960, 3 * 960 - 321 - 426 - 213),
        # p = 32, c = 64 // 3 = 21, the rest 96 - 3 * 21 = 33; on the diagonal stand 33, 42 and 21.
        ("all_to_all_v", 100, 3, 96, 3 * 96 - 33 - 42 - 21),
        ("all_to_all_v", 100, 1, 96, 0),
        ("all_gather", 1000, 3, 960, 3 * 2 * 320),
        ("reduce_scatter", 1000, 3, 960, 3 * 2 * 320),
        ("all_reduce", 1000, 3, 1000, 2 * 2 * 1000),
        ("all_reduce", 2, 5, 2, 2 * 4 * 2),
        ("broadcast", 1001, 5, 1001, 4 * 1001),
        ("send_recv", 1001, 5, 1001, 5 * 1001),
        ("all_reduce", "1kB", 1, 1000, 0),
    ],
)
def test_sizes_follow_nccl_tests(op: str, size: str | int, ranks: int, size_bytes: int, moved_bytes: int) -> None:
    """The size used is rounded down to equal parts of 16 bytes; the messages move what the algorithm needs."""
    schedule = collective(op, size=size, ranks=ranks)
    check_schedule(schedule)
    (operation,) = schedule.operations
    assert operation.size_bytes == size_bytes
    assert int(schedule.messages.size_bytes.sum()) == moved_bytes
    assert (operation.ranks, operation.recorded_ps) == (tuple(range(ranks)), None)


@pytest.mark.parametrize("op", COLLECTIVES)
def test_collective_begins_everywhere_at_once(op: str) -> None:
    """All tasks launch at time 0 without predecessors, and the operation names the algorithm that was used."""
    amount: dict[str, Any] = {"tokens": 10} if op in MOE_COLLECTIVES else {"size": "1MiB"}
    schedule = collective(op, ranks=6, **amount)
    check_schedule(schedule)
    assert schedule.operations[0].algorithm == algorithms_of(op)[0]
    assert schedule.tasks.rank.tolist() == list(range(6))
    assert schedule.tasks.launches.all()
    assert not schedule.tasks.gap_ps.any()
    assert not schedule.tasks.not_before_ps.any()
    assert len(schedule.tasks.predecessors) == 0


def test_defaults_are_those_documented() -> None:
    """The first algorithm registered for an operation is its default."""
    assert {op: algorithms_of(op)[0] for op in COLLECTIVES} == {
        "all_to_all": "direct",
        "all_to_all_v": "direct",
        "all_reduce": "ring",
        "all_gather": "ring",
        "reduce_scatter": "ring",
        "broadcast": "binomial",
        "send_recv": "direct",
        "moe_dispatch": "direct",
        "moe_combine": "direct",
    }


def matrix(schedule: Schedule) -> list[list[int]]:
    """Bytes from row to column."""
    sent = np.zeros((schedule.num_ranks, schedule.num_ranks), np.int64)
    np.add.at(sent, (schedule.messages.source_task, schedule.messages.target_task), schedule.messages.size_bytes)
    return sent.tolist()


def test_an_even_moe_dispatch_deals_each_token_to_eight_ranks() -> None:
    """3 tokens over 16 ranks are 24 copies of a rank: to itself and the next seven 2 each, else 1; 7,392 B a copy."""
    schedule = collective("moe_dispatch", tokens=3, ranks=16)
    (operation,) = schedule.operations
    assert (operation.op, operation.size_bytes, operation.descriptors) == ("moe_dispatch", 24 * 7392, 3)
    copies = [[2 if (column - row) % 16 < 8 else 1 for column in range(16)] for row in range(16)]
    for rank in range(16):
        copies[rank][rank] = 0  # what stays makes no message
    assert matrix(schedule) == (7392 * np.array(copies)).tolist()


@pytest.mark.parametrize("skew", [None, 0.8])
def test_moe_combine_goes_back_where_dispatch_came_from(skew: float | None) -> None:
    """Copy for copy, with as many bytes as asked for; on few ranks each token goes to all of them, unless skewed."""
    there = collective("moe_dispatch", tokens=40, ranks=4, skew=skew, copy_bytes=100)
    back = collective("moe_combine", tokens=40, ranks=4, skew=skew, copy_bytes=200)
    assert (np.array(matrix(back)) == 2 * np.array(matrix(there)).T).all()
    if skew is None:
        assert matrix(there) == [[0 if row == column else 4000 for column in range(4)] for row in range(4)]
    else:
        assert len(set(map(sum, matrix(there)))) > 1


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        ("moe_dispatch", {"size": "1MiB"}, "run by tokens"),
        ("moe_dispatch", {}, "needs tokens"),
        ("moe_combine", {"tokens": 0}, "0 tokens"),
        ("moe_combine", {"tokens": 1, "copy_bytes": 2**25}, "cannot be run"),
        ("all_to_all", {"size": "1MiB", "tokens": 3}, "for moe_dispatch and moe_combine only"),
        ("moe_dispatch", {"tokens": 3, "skew": 9.0}, "skew is 9.0"),
    ],
)
def test_tokens_are_for_moe_alone(op: str, given: dict[str, Any], message: str) -> None:
    """What an operation is not run by, or cannot be, is refused."""
    with pytest.raises(ConfigError, match=message):
        collective(op, ranks=4, **given)


def test_a_new_algorithm_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function registered under an operation and a name is found by both."""
    monkeypatch.setattr(collectives, "ALGORITHMS", dict(ALGORITHMS))

    @collectives.algorithm("all_at_zero", "all_reduce")
    def all_at_zero(demand: Demand) -> MessageBlock:
        return ALGORITHMS["gather", "direct"](demand)

    schedule = collective("all_reduce", size=30, ranks=3, algorithm="all_at_zero")
    assert schedule.operations[0].algorithm == "all_at_zero"
    assert schedule.messages.target_task.tolist() == [0, 0]


def test_all_to_all_v_by_size_is_skewed_but_balanced() -> None:
    """By hand for 4 ranks of 400 B: p = 96, c = 48, rest 384 - 6 * 48 = 96; rank i sends ((i + j) mod 4) c to j."""
    schedule = collective("all_to_all_v", size=400, ranks=4)
    sizes = np.zeros((4, 4), np.int64)
    sizes[schedule.messages.source_task, schedule.messages.target_task] = schedule.messages.size_bytes
    assert sizes.tolist() == [[0, 48, 96, 144], [48, 0, 144, 96], [96, 144, 0, 48], [144, 96, 48, 0]]


@pytest.mark.parametrize("ranks", [2, 33, 34, 384])
def test_the_least_size_of_all_to_all_v_is_the_one_named(ranks: int) -> None:
    """The size that the refusal names is accepted, one byte less is refused."""
    with pytest.raises(ConfigError, match="use at least") as error:
        collective("all_to_all_v", size=1, ranks=ranks)
    least = int(re.findall(r"at least (\d+) bytes", str(error.value))[0])
    assert collective("all_to_all_v", size=least, ranks=ranks).operations[0].size_bytes == least
    with pytest.raises(ConfigError, match="round to zero"):
        collective("all_to_all_v", size=least - 1, ranks=ranks)


def test_splits_are_used_as_given() -> None:
    """all_to_all_v takes its bytes from row to column; its size is the largest send buffer, own part included."""
    schedule = collective("all_to_all_v", ranks=2, splits=[[1, 2], [30, 4]])
    assert schedule.operations[0].size_bytes == 34
    assert schedule.messages.size_bytes.tolist() == [2, 30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"op": "all_too_all", "size": 64},
            r"unknown collective 'all_too_all' \(did you mean 'all_to_all'\?\); known: all_to_all, all_to_all_v, all",
        ),
        ({"op": "barrier", "size": 64}, "'barrier' occurs in traces only"),
        (
            {"op": "all_reduce", "size": 64, "algorithm": "rign"},
            r"unknown algorithm of all_reduce 'rign' \(did you mean 'ring'\?\); known: ring",
        ),
        ({"op": "all_reduce", "size": 64, "algorithm": "direct"}, "known: ring"),
        ({"op": "all_reduce"}, "needs a size"),
        ({"op": "all_reduce", "size": 0}, "use a positive one"),
        ({"op": "all_reduce", "size": -4}, "use a positive one"),
        ({"op": "all_reduce", "size": 2**63}, "at most 4611686018427387904"),
        ({"op": "all_reduce", "size": "64Gb"}, "64Gb"),
        (
            {"op": "all_to_all", "size": 63},
            "63 bytes of all_to_all over 4 ranks round to zero: .* use at least 64 bytes",
        ),
        ({"op": "all_to_all_v", "size": 63}, "use at least 64 bytes"),
        ({"op": "all_to_all_v", "size": 34 * 16 - 1, "ranks": 34}, "use at least 1088 bytes"),
        ({"op": "all_reduce", "size": 1.5}, "size is 1.5, which is not a whole number"),
        ({"op": "all_reduce", "size": True}, "size is True, which is not a whole number"),
        ({"op": "all_reduce", "size": 64, "ranks": "2"}, "ranks is '2', which is not a whole number"),
        ({"op": "all_reduce", "size": 64, "ranks": 2.0}, "ranks is 2.0, which is not a whole number"),
        ({"op": "all_reduce", "size": 64, "ranks": 0}, "use 1 to 32768"),
        ({"op": "all_reduce", "size": 64, "ranks": 32_769}, "use 1 to 32768"),
        ({"op": "all_reduce", "splits": [[1]]}, "splits are for all_to_all_v only"),
        ({"op": "all_to_all_v", "size": 64, "splits": [[1]]}, "give one of them"),
        ({"op": "all_to_all_v", "splits": [[1]]}, r"shape \(1, 1\) .* needs whole bytes .* \(4, 4\)"),
        ({"op": "all_to_all_v", "splits": [[1], [1, 2]]}, "rows of different lengths"),
        ({"op": "all_to_all_v", "splits": np.full((4, 4), 0.5)}, "type float64"),
        ({"op": "all_to_all_v", "splits": np.diag([0, 0, -3, 0])}, r"splits\[2\]\[2\] is -3"),
        ({"op": "all_to_all_v", "splits": np.full((4, 4), 2**61)}, "beyond what is counted"),
    ],
)
def test_bad_arguments_name_cause_and_remedy(arguments: dict[str, object], message: str) -> None:
    """What cannot be run is refused as a usage error that says what to do."""
    with pytest.raises(ConfigError, match=message):
        collective(**{"ranks": 4, **arguments})  # type: ignore[arg-type]


def test_blocks_of_several_operations_join_in_order() -> None:
    """Messages come sorted by operation and index, with task and message rows counted over all operations."""
    ring = ALGORITHMS["all_gather", "ring"](Demand(3, np.asarray([1, 2, 3])))
    transfers = MessageBlock(
        source=np.zeros(2, np.int32),
        target=np.ones(2, np.int32),
        size_bytes=np.asarray([50, 60]),
        waits_first=np.zeros(3, np.int64),
        waits_for=np.empty(0, np.int32),
    )
    first_task = np.asarray([0, 3, 5, 6, 9])  # 2: no messages; 1 and 4: transfers
    messages = join_messages(first_task, [(3, ring), (np.asarray([4, 1]), transfers), (0, ring)])
    assert messages.operation.tolist() == [0] * 6 + [1] + [3] * 6 + [4]
    assert messages.index.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3, 4, 5, 0]
    assert messages.source_task.tolist() == [0, 0, 1, 1, 2, 2, 3, 6, 6, 7, 7, 8, 8, 9]
    assert messages.target_task.tolist() == [1, 1, 2, 2, 0, 0, 4, 7, 7, 8, 8, 6, 6, 10]
    assert messages.size_bytes.tolist() == [1, 3, 2, 1, 3, 2, 60, 1, 3, 2, 1, 3, 2, 50]
    waits = [
        messages.waits_for[a:b].tolist() for a, b in zip(messages.waits_first, messages.waits_first[1:], strict=False)
    ]
    assert waits == [[], [4], [], [0], [], [2], [], [], [11], [], [7], [], [9], []]


def test_too_many_messages_are_refused() -> None:
    """Rows beyond 32 bits are an error, never a wrap."""
    huge = np.broadcast_to(np.int32(0), (2**31,))
    none = np.empty(0, np.int32)
    block = MessageBlock(huge, huge, np.broadcast_to(np.int64(1), huge.shape), np.zeros(1, np.int64), none)
    with pytest.raises(TraceError, match=r"2147483648 messages .* split it into shorter traces"):
        join_messages(np.zeros(1, np.int64), [(0, block)])


# ---------------------------------------------------------------------------------------------------------------------
# check_schedule


def two_operations(predecessors: list[list[int]]) -> Schedule:
    """Two barriers over ranks 0 and 1; tasks 0, 1 and 2, 3."""
    block = ALGORITHMS["barrier", "dissemination"](Demand(2, np.asarray(0)))
    operations = tuple(Operation(name, "barrier", "dissemination", (0, 1), 0) for name in ("first", "second"))
    tasks = Tasks(
        operation=np.asarray([0, 0, 1, 1], np.int32),
        rank=np.asarray([0, 1, 0, 1], np.int32),
        gap_ps=np.zeros(4, np.int64),
        not_before_ps=np.zeros(4, np.int64),
        launches=np.ones(4, np.bool_),
        predecessor_first=offsets(np.asarray([len(p) for p in predecessors])),
        predecessors=np.asarray([t for p in predecessors for t in p], np.int32),
    )
    return Schedule(2, operations, tasks, join_messages(np.asarray([0, 2]), [(0, block), (1, block)]))


GOOD = [[], [], [0], [1]]


def test_check_accepts_operations_in_one_order() -> None:
    """Two operations that all ranks have in the same order can end."""
    check_schedule(two_operations(GOOD))


def test_check_refuses_crossed_orders() -> None:
    """Rank 0 has first, second; rank 1 has second, first: each waits for the other's byte."""
    with pytest.raises(TraceError, match=r"can never end: operation . .* at rank . waits for .*one order") as error:
        check_schedule(two_operations([[], [3], [0], []]))
    for name in ("operation 0 (first) at rank 0", "operation 1 (second) at rank 1"):
        assert name in str(error.value)


def test_check_refuses_messages_that_wait_in_a_circle() -> None:
    """Two messages of one rank that wait for each other can never be ready."""
    schedule = collective("send_recv", size=64, ranks=2)
    waits = {"waits_first": np.asarray([0, 1, 2]), "waits_for": np.asarray([1, 0], np.int32)}
    schedule = replace(schedule, messages=replace(schedule.messages, **waits))
    with pytest.raises(TraceError, match=re.escape("operation 0 (send_recv) at rank 0 waits for")):
        check_schedule(schedule)


def test_check_knows_that_no_target_waits_for_zero_bytes() -> None:
    """The circle of waits between received messages is none when they have zero bytes."""
    schedule = collective("send_recv", size=64, ranks=2)
    waits = {"waits_first": np.asarray([0, 1, 2]), "waits_for": np.asarray([1, 0], np.int32)}
    empty = replace(schedule.messages, size_bytes=np.zeros(2, np.int64), **waits)
    check_schedule(replace(schedule, messages=empty))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("gap_ps", [0, 0, -1, 0], r"operation 1 \(second\) at rank 0 has a negative gap_ps"),
        ("not_before_ps", [0, -1, 0, 0], r"operation 0 \(first\) at rank 1 has a negative not_before_ps"),
        ("rank", [0, 1, 1, 0], "not one per operation and rank"),
        ("launches", [True], "differ in length"),
        ("stream", [0, 1], "differ in length"),
        ("predecessors", [1, 0], "operation 1 .* at rank 0 has a predecessor of another rank"),
        ("predecessors", [0, 4], "name rows 0 .. 4, but there are only 4"),
        ("predecessor_first", [0, 1, 0, 1, 2], "offsets of predecessors"),
    ],
)
def test_check_refuses_bad_tasks(column: str, value: list[int], message: str) -> None:
    """Each rule of the tasks' table names the first task that breaks it."""
    schedule = two_operations(GOOD)
    with pytest.raises(TraceError, match=message):
        check_schedule(replace(schedule, tasks=replace(schedule.tasks, **{column: np.asarray(value)})))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("size_bytes", [1, 1, -1, 1], r"message 0 of operation 1 \(second\) from rank 0 to rank 1 has a negative size"),
        ("size_bytes", [1], "differ in length"),
        ("operation", [0, 0, 1, 2], "an operation that the schedule does not have"),
        ("operation", [0, 1, 0, 1], "does not stand in the order"),
        ("index", [0, 1, 1, 2], "message 1 of operation 1 .* another index"),
        ("source_task", [0, 1, 2, 9], "a task that the schedule does not have"),
        ("target_task", [1, 0, 1, 2], "a task of another operation"),
        ("waits_first", [0, 0, 0, 0, 1], "offsets of waits_for"),
    ],
)
def test_check_refuses_bad_messages(column: str, value: list[int], message: str) -> None:
    """Each rule of the messages' table names the first message that breaks it."""
    schedule = two_operations(GOOD)
    with pytest.raises(TraceError, match=message):
        check_schedule(replace(schedule, messages=replace(schedule.messages, **{column: np.asarray(value)})))


@pytest.mark.parametrize(
    ("row", "wait", "message"),
    [(4, 1, "waits for one of another operation"), (0, 2, "message 0 .* its source neither sends nor receives")],
)
def test_check_refuses_waits_that_a_source_cannot_see(row: int, wait: int, message: str) -> None:
    """A message may wait only for messages of its operation that its source sends or receives."""
    block = ALGORITHMS["send_recv", "direct"](Demand(4, np.asarray(5)))
    operations = (Operation("a", "send_recv", "direct", (0, 1, 2, 3), 5),) * 2
    one = collective("send_recv", size=5, ranks=4).tasks
    tasks = Tasks(
        operation=np.repeat(np.arange(2, dtype=np.int32), 4),
        rank=np.tile(one.rank, 2),
        gap_ps=np.zeros(8, np.int64),
        not_before_ps=np.zeros(8, np.int64),
        launches=np.ones(8, np.bool_),
        predecessor_first=np.zeros(9, np.int64),
        predecessors=np.empty(0, np.int32),
    )
    messages = join_messages(np.asarray([0, 4]), [(0, block), (1, block)])
    counts = np.arange(8) == row
    messages = replace(messages, waits_first=offsets(counts.astype(np.int64)), waits_for=np.asarray([wait], np.int32))
    with pytest.raises(TraceError, match=message):
        check_schedule(Schedule(4, operations, tasks, messages))


@pytest.mark.parametrize("ranks", [(), (0, 0)])
def test_check_refuses_an_operation_without_its_ranks(ranks: tuple[int, ...]) -> None:
    """An operation has at least one rank, and each once."""
    schedule = two_operations(GOOD)
    operations = (*schedule.operations, replace(schedule.operations[0], ranks=ranks))
    extra = len(ranks)
    tasks = Tasks(
        operation=np.append(schedule.tasks.operation, [2] * extra).astype(np.int32),
        rank=np.append(schedule.tasks.rank, ranks).astype(np.int32),
        gap_ps=np.zeros(4 + extra, np.int64),
        not_before_ps=np.zeros(4 + extra, np.int64),
        launches=np.ones(4 + extra, np.bool_),
        predecessor_first=np.zeros(5 + extra, np.int64),
        predecessors=np.empty(0, np.int32),
    )
    with pytest.raises(TraceError, match="needs each of its ranks once"):
        check_schedule(Schedule(2, operations, tasks, schedule.messages))


def test_check_refuses_a_rank_beyond_the_schedule() -> None:
    """Every rank is below num_ranks."""
    with pytest.raises(TraceError, match=r"at rank 1 has a rank outside 0 \.\. 0"):
        check_schedule(replace(two_operations(GOOD), num_ranks=1))

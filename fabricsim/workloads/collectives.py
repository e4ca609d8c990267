"""Collective algorithms: what one operation has to move becomes messages that wait for messages.

An algorithm is one function from a :class:`Demand` to a :class:`MessageBlock`, registered under its operations and
its name; the rest of the house finds it by that. The part that a rank keeps for itself counts in the size of an
operation but makes no message. Steps carry data only, so no algorithm here knows times or wires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fabricsim.errors import ConfigError, unknown
from fabricsim.units import parse_bytes, whole_number
from fabricsim.workloads.moe import (
    HIDDEN,
    balanced_copies,
    combine_copy_bytes,
    dispatch_copy_bytes,
    skewed_copies,
)
from fabricsim.workloads.schedule import (
    Groups,
    Int32,
    Int64,
    MessageBlock,
    Operation,
    Schedule,
    Tasks,
    join_messages,
    offsets,
    slices,
)

PART_ALIGNMENT_BYTES = 16
"""Equal parts are rounded down to multiples of this (NVIDIA/nccl-tests, ``(count / nranks) & -(16 / eltSize)``)."""

MAX_RANKS = 32_768
"""Above this the rows of a ring all-reduce, 2 n (n - 1), would not fit 32-bit numbers."""

MAX_TOKENS = 2**24
"""Of a rank in an MoE collective, and bytes of a copy: their product over all ranks stays far from the end of int64."""

MAX_SIZE_BYTES = 2**62
"""Above this sums of bytes would come near the end of int64."""


@dataclass(frozen=True)
class Demand:
    """What one operation has to move between its ranks, named by their places 0 .. ``num_ranks`` - 1.

    The shape of ``parts_bytes`` is the operation's:

    * ``()``, one buffer: broadcast, reduce, send_recv (what each rank sends), send, barrier (0);
    * ``(num_ranks,)``, one part per rank: all_gather, gather (what the rank gives), reduce_scatter, scatter (what
      it gets), all_reduce (the chunk that is reduced there);
    * ``(num_ranks, num_ranks)``, from row to column: all_to_all. The diagonal is not moved, but counts as size.
    """

    num_ranks: int
    parts_bytes: Int64
    root: int = 0

    @property
    def size_bytes(self) -> int:
        """The size as nccl-tests defines it: the whole buffer of a rank, the largest one where they differ."""
        if self.parts_bytes.ndim == 2:
            return int(self.parts_bytes.sum(axis=1).max())
        return int(self.parts_bytes.sum())


IN_NETWORK = "sharp"
"""Name of the algorithms that need switches which reduce and copy (docs/physics.md, section 14)."""

SHARP_CHUNK_BYTES = 147_456
"""What all ranks of an all_reduce in the network get reduced, and then multicast, at a time: the machine does it packet
by packet. Larger chunks come as bursts that fill the buffers of the switches, and reductions wait behind them. One of 8
ranks has pieces of 4 packets of 256 B on each of 18 links."""

SHARP_PIECE_BYTES = 4_608
"""Least part of a chunk for one rank: a packet of 256 B on each of 18 links."""

SHARP_MAX_MESSAGES = 2**21
"""Of an all_reduce in the network, about; beyond, its chunks are larger."""

Algorithm = Callable[[Demand], MessageBlock]

ALGORITHMS: dict[tuple[str, str], Algorithm] = {}
"""Every algorithm by (operation, name). The first one registered for an operation is its default."""


def algorithm(name: str, *ops: str) -> Callable[[Algorithm], Algorithm]:
    """Register the decorated function as the algorithm ``name`` of the operations ``ops``."""

    def register(function: Algorithm) -> Algorithm:
        for op in ops:
            ALGORITHMS[op, name] = function
        return function

    return register


def algorithms_of(op: str) -> tuple[str, ...]:
    """Name the algorithms of an operation, the default first; empty for one that no algorithm moves."""
    return tuple(name for known_op, name in ALGORITHMS if known_op == op)


# ---------------------------------------------------------------------------------------------------------------------
# The algorithms


@algorithm("direct", "all_to_all", "all_to_all_v", "moe_dispatch", "moe_combine")
def all_to_all_direct(demand: Demand) -> MessageBlock:
    """Send to all peers at once: place r in the order r + 1, r + 2, ..., so that no target comes first for all.

    A pair with nothing to move has no message.
    """
    ranks = np.arange(demand.num_ranks)
    target = (ranks[:, None] + ranks[None, 1:]) % demand.num_ranks
    size_bytes = np.take_along_axis(demand.parts_bytes, target, axis=1)
    moved = size_bytes > 0
    return _unwaiting(np.broadcast_to(ranks[:, None], target.shape)[moved], target[moved], size_bytes[moved])


@algorithm("rotated", "all_to_all", "all_to_all_v")
def all_to_all_rotated(demand: Demand) -> MessageBlock:
    """Go in lock step, one peer per step: in step k place r sends to r + k.

    It does so when what it sent in the step before has been sent and what it was to receive in that step has come.
    Pairs with nothing to move keep their step, as a message of zero bytes, for which no target waits.
    """
    ranks = np.arange(demand.num_ranks)
    target = (ranks[:, None] + ranks[None, 1:]) % demand.num_ranks
    size_bytes = np.take_along_axis(demand.parts_bytes, target, axis=1)
    return _shifted(ranks[1:], size_bytes, after_own=True, after_received=True)


@algorithm("ring", "all_reduce")
def all_reduce_ring(demand: Demand) -> MessageBlock:
    """Reduce-scatter around the ring, then all-gather: 2 (n - 1) steps.

    In step s place r sends chunk r - s to r + 1, when that chunk has come from r - 1 in the step before.
    """
    return _ring(demand, steps=2 * (demand.num_ranks - 1), first_part=0)


@algorithm("ring", "all_gather", "all_gather_v")
def all_gather_ring(demand: Demand) -> MessageBlock:
    """Pass the parts around the ring: in step s place r sends part r - s to r + 1, once it has come from r - 1."""
    return _ring(demand, steps=demand.num_ranks - 1, first_part=0)


@algorithm("ring", "reduce_scatter", "reduce_scatter_v")
def reduce_scatter_ring(demand: Demand) -> MessageBlock:
    """Add up the parts around the ring: in step s place r sends part r - 1 - s to r + 1.

    It waits for that part's sum from r - 1 in the step before; the last part to come in is the place's own.
    """
    return _ring(demand, steps=demand.num_ranks - 1, first_part=-1)


@algorithm("binomial", "broadcast")
def broadcast_binomial(demand: Demand) -> MessageBlock:
    """Double the holders each round: the v-th place after the root sends to v + 2^k, for each 2^k > v.

    A place sends to one child at a time, the largest subtree first: after what it received, and after its sending
    to the child before. That takes ceil(log2(n)) rounds of the whole buffer: least latency, not most bandwidth.
    """
    child, parent, round_ = _binomial_edges(demand.num_ranks)
    rows = np.lexsort((round_, (parent + demand.root) % demand.num_ranks))
    child, parent = child[rows], parent[rows]
    row_of_child = np.empty(demand.num_ranks, dtype=np.int64)
    row_of_child[child] = np.arange(len(child))
    first_of_parent = np.diff(parent, prepend=-1) != 0
    waits = np.where(first_of_parent, row_of_child[parent], np.arange(len(child)) - 1)
    counts = np.where(first_of_parent & (parent == 0), 0, 1)  # the root's first sending waits for nothing
    return MessageBlock(
        source=_places(parent + demand.root, demand.num_ranks),
        target=_places(child + demand.root, demand.num_ranks),
        size_bytes=np.full(len(child), demand.parts_bytes, dtype=np.int64),
        waits_first=offsets(counts),
        waits_for=waits[counts > 0].astype(np.int32),
    )


@algorithm("binomial", "reduce")
def reduce_binomial(demand: Demand) -> MessageBlock:
    """Run the broadcast's tree backwards: a place sends its sum to its parent when all its children's have come."""
    child, parent, _ = _binomial_edges(demand.num_ranks)
    rows = np.argsort((child + demand.root) % demand.num_ranks)
    child, parent = child[rows], parent[rows]
    # The messages by their target, so that those into the place of each message's source are one run.
    by_target = np.argsort(parent, kind="stable")
    begin = np.searchsorted(parent[by_target], child, side="left")
    counts = np.searchsorted(parent[by_target], child, side="right") - begin
    return MessageBlock(
        source=_places(child + demand.root, demand.num_ranks),
        target=_places(parent + demand.root, demand.num_ranks),
        size_bytes=np.full(len(child), demand.parts_bytes, dtype=np.int64),
        waits_first=offsets(counts),
        waits_for=by_target[slices(begin, counts)].astype(np.int32),
    )


@algorithm(IN_NETWORK, "reduce_scatter")
def reduce_scatter_sharp(demand: Demand) -> MessageBlock:
    """Let the switches reduce: each place sends all parts once and gets the sum of its own (NVLink SHARP)."""
    return _in_network(demand, int(demand.parts_bytes[0]), reduces=True, multicasts=False, chunks=1)


@algorithm(IN_NETWORK, "all_gather")
def all_gather_sharp(demand: Demand) -> MessageBlock:
    """Let the switches copy: each place sends its part once and all places, itself among them, get it."""
    return _in_network(demand, int(demand.parts_bytes[0]), reduces=False, multicasts=True, chunks=1)


@algorithm(IN_NETWORK, "all_reduce")
def all_reduce_sharp(demand: Demand) -> MessageBlock:
    """Reduce in the switches and copy there (NVLink SHARP, as NVIDIA/nccl's NVLS does it).

    The buffer is cut into chunks of equal pieces, one per place and chunk. Each place sends all of its buffer, chunk by
    chunk; it multicasts each piece of its own as soon as its sum has come. The last bytes of a buffer that does not
    come out even count as a whole piece.
    """
    size_bytes, n = demand.size_bytes, demand.num_ranks
    piece_bytes = max(SHARP_PIECE_BYTES, SHARP_CHUNK_BYTES // n)
    chunks = min(-(-size_bytes // (n * piece_bytes)), max(1, SHARP_MAX_MESSAGES // (n * (n + 1))))
    return _in_network(demand, -(-size_bytes // (n * chunks)), reduces=True, multicasts=True, chunks=chunks)


@algorithm(IN_NETWORK, "broadcast")
def broadcast_sharp(demand: Demand) -> MessageBlock:
    """Let the switches copy what the root sends once, to all places, itself among them."""
    return _in_network(demand, int(demand.parts_bytes), reduces=False, multicasts=True, chunks=1, roots=[demand.root])


def _in_network(
    demand: Demand,
    piece_bytes: int,
    *,
    reduces: bool,
    multicasts: bool,
    chunks: int,
    roots: Sequence[int] | None = None,
) -> MessageBlock:
    """Give a reduction into pieces, ``chunks`` of them for each place, their multicasts, or both.

    Piece p goes to place p mod n, which multicasts it; without a reduction all ``roots``, else all places, multicast.
    """
    n = demand.num_ranks
    if n == 1 or not piece_bytes:
        return _unwaiting(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    pieces = n * chunks if reduces else 0
    owner = np.arange(pieces) % n
    root = owner if reduces else np.arange(n) if roots is None else np.array(roots)
    root = root if multicasts else root[:0]
    # The copies of a multicast: to its root first.
    targets = (root[:, None] + np.arange(n)[None, :]) % n
    copies = pieces + np.arange(len(root) * n)
    waits = np.zeros(pieces + len(copies), dtype=np.int64)
    if reduces:
        waits[copies[::n]] = 1
    return MessageBlock(
        source=np.concatenate([owner, np.repeat(root, n)]).astype(np.int32),
        target=np.concatenate([owner, targets.ravel()]).astype(np.int32),
        size_bytes=np.full(pieces + len(copies), piece_bytes, dtype=np.int64),
        waits_first=offsets(waits),
        waits_for=np.arange(waits.sum(), dtype=np.int32),
        groups=Groups(
            first=np.concatenate([np.zeros(int(reduces), dtype=np.int64), copies[::n]]),
            count=np.array([pieces] * reduces + [n] * len(root), dtype=np.int64),
            sources=np.array([n] * reduces + [1] * len(root), dtype=np.int64),
        ),
    )


@algorithm("direct", "gather")
def gather_direct(demand: Demand) -> MessageBlock:
    """Send every part to the root at once."""
    source = np.flatnonzero(demand.parts_bytes > 0)
    source = source[source != demand.root]
    return _unwaiting(source, np.full(len(source), demand.root), demand.parts_bytes[source])


@algorithm("direct", "scatter")
def scatter_direct(demand: Demand) -> MessageBlock:
    """Send all parts from the root at once, in the order of the places after it."""
    target = (demand.root + np.arange(1, demand.num_ranks)) % demand.num_ranks
    target = target[demand.parts_bytes[target] > 0]
    return _unwaiting(np.full(len(target), demand.root), target, demand.parts_bytes[target])


@algorithm("direct", "send_recv")
def send_recv_direct(demand: Demand) -> MessageBlock:
    """Shift around the ring: place r sends its buffer to r + 1 and receives that of r - 1, all at once."""
    shifts = np.ones(min(demand.num_ranks - 1, 1), dtype=np.int64)
    return _shifted(shifts, np.full((demand.num_ranks, len(shifts)), demand.parts_bytes))


@algorithm("direct", "send")
def send_direct(demand: Demand) -> MessageBlock:
    """Send the buffer from place 0 to place 1; several, one by one, for several operations of the kind."""
    sizes_bytes = demand.parts_bytes.reshape(-1)
    return _unwaiting(np.zeros(len(sizes_bytes)), np.ones(len(sizes_bytes)), sizes_bytes)


@algorithm("dissemination", "barrier")
def barrier_dissemination(demand: Demand) -> MessageBlock:
    """In round k place r tells r + 2^k what it has heard of, by one byte (Hensgen, Finkel and Manber, 1988).

    It waits for its own message and its received one of the round before; ceil(log2(n)) rounds reach all.
    """
    rounds = (demand.num_ranks - 1).bit_length()
    shifts = np.left_shift(1, np.arange(rounds))
    ones = np.ones((demand.num_ranks, rounds), dtype=np.int64)
    return _shifted(shifts, ones, after_own=True, after_received=True)


def _ring(demand: Demand, *, steps: int, first_part: int) -> MessageBlock:
    """In step s place r sends part r + first_part - s to its neighbour, once that part has come to r."""
    ranks = np.arange(demand.num_ranks)
    part = (ranks[:, None] + first_part - np.arange(steps)[None, :]) % demand.num_ranks
    return _shifted(np.ones(steps, dtype=np.int64), demand.parts_bytes[part], after_received=True)


def _shifted(
    shifts: npt.NDArray[np.integer], size_bytes: Int64, *, after_own: bool = False, after_received: bool = False
) -> MessageBlock:
    """Give the messages of steps in which place r sends ``size_bytes[r, s]`` to r + ``shifts[s]``.

    From the second step on a place waits for what it sent in the step before, for what it received, or for both.
    """
    num_ranks, steps = size_bytes.shape
    ranks, step = np.arange(num_ranks)[:, None], np.arange(steps)[None, :]
    waits = []
    if after_own:
        waits.append(ranks * steps + step[:, :-1])
    if after_received:
        waits.append((ranks - shifts[None, :-1]) % num_ranks * steps + step[:, :-1])
    counts = np.where(np.arange(num_ranks * steps) % max(steps, 1) > 0, len(waits), 0)
    return MessageBlock(
        source=np.repeat(np.arange(num_ranks, dtype=np.int32), steps),
        target=_places(ranks + shifts[None, :], num_ranks).ravel(),
        size_bytes=size_bytes.astype(np.int64).ravel(),
        waits_first=offsets(counts),
        waits_for=np.stack(waits, axis=-1).ravel().astype(np.int32) if waits else np.empty(0, dtype=np.int32),
    )


def _unwaiting(source: npt.NDArray[np.number], target: npt.NDArray[np.number], size_bytes: Int64) -> MessageBlock:
    """Give messages that wait for nothing but the begin of their task."""
    return MessageBlock(
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        size_bytes=size_bytes,
        waits_first=np.broadcast_to(np.int64(0), (len(source) + 1,)),
        waits_for=np.empty(0, dtype=np.int32),
    )


def _binomial_edges(num_ranks: int) -> tuple[Int64, Int64, Int64]:
    """Give child, parent and round of a binomial tree over 0 .. num_ranks - 1 with root 0."""
    child = np.arange(1, num_ranks)
    # frexp is exact: the exponent of v is the number of its binary digits.
    round_ = np.frexp(child)[1].astype(np.int64) - 1
    return child, child - np.left_shift(1, round_), round_


def _places(place: npt.NDArray[np.integer], num_ranks: int) -> Int32:
    return (place % num_ranks).astype(np.int32)


# ---------------------------------------------------------------------------------------------------------------------
# One collective by its size


def _whole(size_bytes: int, _num_ranks: int) -> Int64:
    return np.asarray(size_bytes, dtype=np.int64)


def _equal_parts(size_bytes: int, num_ranks: int) -> Int64:
    part = size_bytes // num_ranks // PART_ALIGNMENT_BYTES * PART_ALIGNMENT_BYTES
    return np.full(num_ranks, part, dtype=np.int64)


def _equal_pairs(size_bytes: int, num_ranks: int) -> Int64:
    return np.broadcast_to(_equal_parts(size_bytes, num_ranks), (num_ranks, num_ranks))


def _skewed_pairs(size_bytes: int, num_ranks: int) -> Int64:
    part = int(_equal_parts(size_bytes, num_ranks)[0])
    chunk = 2 * part // num_ranks
    if not chunk:  # everything would go to one peer
        return np.zeros((num_ranks, num_ranks), dtype=np.int64)
    steps = np.add.outer(np.arange(num_ranks), np.arange(num_ranks)) % num_ranks
    rest = num_ranks * part - chunk * (num_ranks * (num_ranks - 1) // 2)
    return np.where(steps == 0, rest, steps * chunk)


def chunks(size_bytes: int, num_ranks: int) -> Int64:
    """Cut a buffer into one chunk per rank; the first ``size_bytes`` mod ``num_ranks`` are one byte longer."""
    return size_bytes // num_ranks + (np.arange(num_ranks) < size_bytes % num_ranks).astype(np.int64)


_PARTS: dict[str, Callable[[int, int], Int64]] = {
    "all_to_all": _equal_pairs,
    "all_to_all_v": _skewed_pairs,
    "all_reduce": chunks,
    "all_gather": _equal_parts,
    "reduce_scatter": _equal_parts,
    "broadcast": _whole,
    "send_recv": _whole,
}

MOE_COLLECTIVES: tuple[str, ...] = ("moe_dispatch", "moe_combine")
"""Those of a mixture-of-experts layer, which are run by tokens in place of a size."""

COLLECTIVES: tuple[str, ...] = (*_PARTS, *MOE_COLLECTIVES)
"""What :func:`collective` knows; other operations occur in traces only."""


def collective(
    op: str,
    *,
    size: str | int | None = None,
    ranks: int,
    algorithm: str | None = None,
    splits: Sequence[Sequence[int]] | npt.NDArray[np.integer] | None = None,
    tokens: int | None = None,
    skew: float | None = None,
    copy_bytes: int | None = None,
) -> Schedule:
    """Make the workload of one collective over the ranks 0 .. ``ranks`` - 1, all of which begin at time 0.

    Parameters
    ----------
    op
        One of ``COLLECTIVES``.
    size
        Bytes as nccl-tests counts them, as a number or as text with a unit (``"64MiB"``): for all_to_all the whole
        send buffer of a rank, for all_gather and reduce_scatter the parts of all ranks, else the buffer. The
        operations with a part per rank round it down to equal parts of a multiple of 16 bytes, as nccl-tests does;
        the operation's ``size_bytes`` is the size used. nccl-tests has no all_to_all_v; the splits are those of
        ROCm/rccl-tests, in whole bytes: rank i sends ((i + j) mod n) times c to rank j, with c = floor(2 p / n) for the
        equal part p, and where that is zero the rest of its buffer n p. So parts go from nothing to twice the
        mean, and all ranks send and receive alike.
    ranks
        How many; one rank alone is allowed, as in nccl-tests, and moves nothing.
    algorithm
        A name out of ``algorithms_of(op)``, ``None`` for the first of them. A broadcast starts at rank 0.
    splits
        For all_to_all_v, instead of ``size``: bytes from row to column, shape (``ranks``, ``ranks``).
    tokens
        For moe_dispatch and moe_combine, instead of ``size``: how many each rank sends into the layer, which is that of
        :mod:`fabricsim.workloads.moe`. A token goes once to each rank that holds one of its experts.
    skew
        With ``tokens``: spread of the experts' popularities. ``None`` deals the tokens evenly, to as many ranks as
        possible.
    copy_bytes
        With ``tokens``: bytes of a token copy; ``None`` is FP8 with scales for dispatch and BF16 for combine.

    Raises
    ------
    ConfigError
        Unknown operation or algorithm; ranks or a size that are no whole numbers; a size that is not understood, not
        positive or rounds to zero; splits of another shape, negative, or for another operation.
    """
    ranks = whole_number("ranks", ranks)
    if op not in COLLECTIVES:
        if algorithms_of(op):
            raise ConfigError(
                f"the operation '{op}' occurs in traces only and cannot be run by its size; use one of "
                f"{', '.join(COLLECTIVES)}, or replay a trace"
            )
        raise ConfigError(unknown("collective", op, COLLECTIVES))
    if not 1 <= ranks <= MAX_RANKS:
        raise ConfigError(f"a collective of {ranks} ranks cannot be run: use 1 to {MAX_RANKS}")
    name = choose_algorithm(op, algorithm)
    if op in MOE_COLLECTIVES:
        if size is not None or splits is not None:
            raise ConfigError(f"{op} is run by tokens, such as tokens=128; leave size and splits out")
        parts_bytes = _parts_by_tokens(op, tokens, ranks, skew, copy_bytes)
    elif (tokens, skew, copy_bytes) != (None, None, None):
        raise ConfigError(f"tokens, skew and copy_bytes are for {' and '.join(MOE_COLLECTIVES)} only; leave them out")
    else:
        parts_bytes = _parts_by_size(op, size, ranks) if splits is None else _parts_by_splits(op, size, ranks, splits)
    demand = Demand(ranks, parts_bytes)
    operation = Operation(op, op, name, tuple(range(ranks)), demand.size_bytes, descriptors=tokens or 0)
    return one_operation(operation, ALGORITHMS[op, name](demand))


def one_operation(operation: Operation, block: MessageBlock, *, launches: bool = True) -> Schedule:
    """Make the workload of one operation over the ranks 0, 1, ..., which begins at time 0 at all of them."""
    ranks = len(operation.ranks)
    tasks = Tasks(
        operation=np.zeros(ranks, dtype=np.int32),
        rank=np.arange(ranks, dtype=np.int32),
        gap_ps=np.zeros(ranks, dtype=np.int64),
        not_before_ps=np.zeros(ranks, dtype=np.int64),
        launches=np.full(ranks, launches),
        predecessor_first=np.zeros(ranks + 1, dtype=np.int64),
        predecessors=np.empty(0, dtype=np.int32),
    )
    return Schedule(ranks, (operation,), tasks, join_messages(np.zeros(1, dtype=np.int64), [(0, block)]))


def choose_algorithm(op: str, name: str | None) -> str:
    """Give the name of the algorithm asked for, or the operation's default for ``None``; ConfigError if unknown."""
    known = algorithms_of(op)
    if name is None:
        return known[0]
    if name not in known:
        raise ConfigError(unknown(f"algorithm of {op}", name, known))
    return name


def _parts_by_size(op: str, size: str | int | None, ranks: int) -> Int64:
    if size is None:
        raise ConfigError(f"{op} needs a size, such as 64MiB")
    size_bytes = parse_bytes(size) if isinstance(size, str) else whole_number("size", size)
    if size_bytes <= 0:
        raise ConfigError(f"a size of {size_bytes} bytes moves nothing; use a positive one")
    if size_bytes > MAX_SIZE_BYTES:
        raise ConfigError(f"a size of {size_bytes} bytes is beyond what is counted; use at most {MAX_SIZE_BYTES}")
    parts_bytes = _PARTS[op](size_bytes, ranks)
    if not parts_bytes.any():
        smallest = max(PART_ALIGNMENT_BYTES, -(-ranks // 2)) if op == "all_to_all_v" else PART_ALIGNMENT_BYTES
        least = ranks * -(-smallest // PART_ALIGNMENT_BYTES) * PART_ALIGNMENT_BYTES
        raise ConfigError(
            f"{size_bytes} bytes of {op} over {ranks} ranks round to zero: parts are multiples of "
            f"{PART_ALIGNMENT_BYTES} bytes; use at least {least} bytes"
        )
    return parts_bytes


def _parts_by_tokens(op: str, tokens: int | None, ranks: int, skew: float | None, copy_bytes: int | None) -> Int64:
    if tokens is None:
        raise ConfigError(f"{op} needs tokens, such as 128: how many each rank sends into the layer")
    tokens = whole_number("tokens", tokens)
    if copy_bytes is None:
        copy_bytes = (dispatch_copy_bytes if op == "moe_dispatch" else combine_copy_bytes)(HIDDEN)
    copy_bytes = whole_number("copy_bytes", copy_bytes)
    if min(tokens, copy_bytes) < 1 or max(tokens, copy_bytes) > MAX_TOKENS:
        raise ConfigError(f"{tokens} tokens of {copy_bytes} bytes cannot be run: use 1 to {MAX_TOKENS} of either")
    copies = balanced_copies(ranks, tokens) if skew is None else skewed_copies(ranks, tokens, skew)
    return copy_bytes * (copies if op == "moe_dispatch" else copies.T)


def _parts_by_splits(
    op: str,
    size: str | int | None,
    ranks: int,
    splits: Sequence[Sequence[int]] | npt.NDArray[np.integer],
) -> Int64:
    if op != "all_to_all_v":
        raise ConfigError(f"splits are for all_to_all_v only, not for {op}; leave them out or use all_to_all_v")
    if size is not None:
        raise ConfigError("splits and size both say how much all_to_all_v moves; give one of them")
    try:
        parts_bytes = np.asarray(splits)
    except ValueError:
        raise ConfigError(
            f"splits are rows of different lengths; all_to_all_v over {ranks} ranks needs a square"
        ) from None
    if parts_bytes.shape != (ranks, ranks) or parts_bytes.dtype.kind not in "iu":
        raise ConfigError(
            f"splits have shape {parts_bytes.shape} and type {parts_bytes.dtype}; all_to_all_v over {ranks} ranks "
            f"needs whole bytes from row to column, shape ({ranks}, {ranks})"
        )
    if (parts_bytes < 0).any():
        row, column = np.argwhere(parts_bytes < 0)[0]
        raise ConfigError(f"splits[{row}][{column}] is {parts_bytes[row, column]}; bytes cannot be negative")
    if parts_bytes.max() > MAX_SIZE_BYTES // ranks:
        raise ConfigError(
            f"splits of {parts_bytes.max()} bytes over {ranks} ranks are beyond what is counted; "
            f"use at most {MAX_SIZE_BYTES // ranks}"
        )
    return parts_bytes.astype(np.int64)

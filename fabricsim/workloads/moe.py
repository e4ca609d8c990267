"""A generated mixture-of-experts layer: dispatch and combine with skewed routing.

The layer has the shape of DeepSeek-V3 (arXiv 2412.19437): every token picks ``top_k`` of ``experts`` routed experts.
The token travels once to each distinct rank that holds one of them (*dispatch*), is computed there, and one partial
sum per copy travels back (*combine*), so combine is the transpose of dispatch.

What the wires carry per token copy, as in DeepEP (deepseek-ai/DeepEP): dispatch one FP8 byte per element plus a
four-byte scale per 128 elements, combine two BF16 bytes per element. At a hidden size of 7168 that is 7,392 and
14,336 bytes.

Routing is drawn with integers alone, from the raw output of NumPy's PCG64, whose stream NumPy keeps the same in all
versions (NEP 19); the distributions of ``numpy.random.Generator``, which may change, are not used. Floating point
enters only where the popularities are computed, and is rounded to 31 bits at once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fabricsim.errors import ConfigError
from fabricsim.workloads.schedule import Int64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fabricsim.workloads.trace import Trace

#: One float32 scale per this many FP8 elements in dispatch (DeepEP; DeepSeek-V3 report, section 3.3.2).
ELEMENTS_PER_SCALE = 128
SCALE_BYTES = 4
DISPATCH_ELEMENT_BYTES = 1  # float8_e4m3fn
COMBINE_ELEMENT_BYTES = 2  # bfloat16

_CHUNK = 8192

#: The layer of DeepSeek-V3, where nothing else is said.
HIDDEN, EXPERTS, TOP_K = 7168, 256, 8

#: Beyond this a handful of experts draw nearly every token, which no trained router does.
MAX_SKEW = 3.0


@dataclass(frozen=True)
class Layer:
    """The parameters of a layer; :func:`moe_trace` says what they mean. ConfigError if one is out of range."""

    ep: int
    tokens_per_rank: int
    hidden: int
    experts: int
    top_k: int
    redundant_experts: int
    skew: float
    seed: int
    compute_ns_per_token: int

    def __post_init__(self) -> None:
        """Validate every parameter."""
        bounds: dict[str, tuple[int, float]] = {
            "ep": (2, math.inf),
            "tokens_per_rank": (1, math.inf),
            "hidden": (1, math.inf),
            "experts": (1, math.inf),
            "top_k": (1, self.experts),
            "redundant_experts": (0, self.experts),
            "skew": (0, MAX_SKEW),
            "seed": (0, math.inf),
            "compute_ns_per_token": (0, math.inf),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:  # so written, a NaN fails too
                allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ConfigError(f"MoE layer: {name} is {value}; it must be {allowed}")
        if (self.experts + self.redundant_experts) % self.ep:
            fitting = -self.experts % self.ep
            remedy = (
                f"redundant_experts={fitting} fits"
                if fitting <= self.experts
                else f"{self.experts} experts and their second replicas fill at most {2 * self.experts} ranks"
            )
            raise ConfigError(
                f"MoE layer: {self.experts} experts and {self.redundant_experts} redundant ones do not divide evenly "
                f"over {self.ep} ranks; {remedy}"
            )


@dataclass(frozen=True)
class Routing:
    """Where the tokens of one layer go.

    ``copies[s, d]`` counts the tokens of rank ``s`` of which rank ``d`` gets a copy (shape ``(ep, ep)``, ``s == d``
    included); ``computed[d]`` counts the (token, expert) pairs that rank ``d`` computes (shape ``(ep,)``, sum
    ``ep * tokens_per_rank * top_k``).
    """

    copies: Int64
    computed: Int64


def dispatch_copy_bytes(hidden: int) -> int:
    """Bytes of one token copy on its way to the experts: FP8 elements and their scales."""
    return hidden * DISPATCH_ELEMENT_BYTES + -(-hidden // ELEMENTS_PER_SCALE) * SCALE_BYTES


def combine_copy_bytes(hidden: int) -> int:
    """Bytes of one partial sum on its way back: BF16 elements."""
    return hidden * COMBINE_ELEMENT_BYTES


def expert_weights(experts: int, skew: float, generator: np.random.PCG64) -> Int64:
    """Give each expert its popularity as an integer weight (shape ``(experts,)``, sum about 2**31).

    Popularity is log-normal: the recorded loads of DeepSeek-V3 layers are fitted best by a log-normal law
    (deepseek-ai/DeepEP, pull request 393). ``skew`` is the standard deviation of its logarithm. The weights are the
    quantiles ``exp(skew * z((i + 1/2) / experts))``, dealt to the experts in an order drawn from ``generator``, so
    that every seed has the same amount of skew and only the identity of the hot experts changes.
    """
    normal = NormalDist()
    quantiles = [math.exp(skew * normal.inv_cdf((i + 0.5) / experts)) for i in range(experts)]
    total = math.fsum(quantiles)
    weights = np.array([max(1, round(2**31 * q / total)) for q in quantiles], dtype=np.int64)
    order = np.argsort(generator.random_raw(experts), kind="stable")
    return weights[order]


def draw_experts(weights: Int64, tokens: int, top_k: int, generator: np.random.PCG64) -> Int64:
    """Draw ``top_k`` distinct experts per token, one after another by weight (shape ``(tokens, top_k)``).

    Each is first drawn among all experts; a token that has it already draws again among those that it lacks, which
    together is a draw among the latter.
    """
    bounds = np.cumsum(weights)
    chosen = np.full((tokens, top_k), -1, dtype=np.int64)
    for slot in range(top_k):
        words = generator.random_raw(tokens)
        experts = np.searchsorted(bounds, _scaled(words, bounds[-1]), side="right")
        again = np.flatnonzero((chosen[:, :slot] == experts[:, None]).any(axis=1))
        words = generator.random_raw(again.size)
        for part in range(0, again.size, _CHUNK):  # a table of tokens by experts, so not all tokens at once
            repeats = again[part : part + _CHUNK]
            left = np.tile(weights, (repeats.size, 1))
            np.put_along_axis(left, chosen[repeats, :slot], 0, axis=1)
            own_bounds = np.cumsum(left, axis=1)
            points = _scaled(words[part : part + _CHUNK], own_bounds[:, -1])
            experts[repeats] = (own_bounds <= points[:, None]).sum(axis=1)
        chosen[:, slot] = experts
    return chosen


def _scaled(words: npt.NDArray[np.uint64], total: Int64 | np.int64) -> Int64:
    """Scale the upper halves of raw words to ``[0, total)``; the product fits 64 bits, as total is below 2**32."""
    scaled = ((words >> np.uint64(32)) * np.asarray(total, np.uint64)) >> np.uint64(32)
    return scaled.astype(np.int64)


def route(layer: Layer) -> Routing:
    """Route the tokens of all ranks.

    Physical experts ``0 .. experts - 1`` are the experts themselves, the next ``redundant_experts`` are second
    replicas of the most popular ones, hottest first (ties: lower number); rank ``r`` holds an equal, consecutive
    part. Token ``t`` of rank ``r`` uses the second replicas, where there are any, if ``r + t`` is odd.
    """
    ep, tokens, experts = layer.ep, layer.tokens_per_rank, layer.experts
    generator = np.random.PCG64(layer.seed)
    weights = expert_weights(experts, layer.skew, generator)
    chosen = draw_experts(weights, ep * tokens, layer.top_k, generator)

    hottest = np.argsort(-weights, kind="stable")[: layer.redundant_experts]
    replica = np.arange(experts)
    replica[hottest] = experts + np.arange(layer.redundant_experts)
    source = np.repeat(np.arange(ep), tokens)
    odd = (source + np.tile(np.arange(tokens), ep)) % 2 == 1
    physical = np.where(odd[:, None], replica[chosen], chosen)

    holder = np.sort(physical // ((experts + layer.redundant_experts) // ep), axis=1)
    first = np.ones_like(holder, dtype=np.bool_)
    first[:, 1:] = holder[:, 1:] != holder[:, :-1]  # one copy per distinct rank
    pairs = (source[:, None] * ep + holder)[first]
    copies = np.bincount(pairs, minlength=ep * ep).reshape(ep, ep)
    return Routing(copies.astype(np.int64), np.bincount(holder.ravel(), minlength=ep).astype(np.int64))


def balanced_copies(ranks: int, tokens: int) -> Int64:
    """Count the token copies from row to column if each token goes to TOP_K ranks (all, if there are fewer) in turn.

    Shape ``(ranks, ranks)``, what a rank keeps included; rank s deals its copies to s, s + 1, ...
    """
    copies = tokens * min(TOP_K, ranks)
    place = (np.arange(ranks)[None, :] - np.arange(ranks)[:, None]) % ranks
    return copies // ranks + (place < copies % ranks)


def skewed_copies(ranks: int, tokens: int, skew: float) -> Int64:
    """Count the token copies from row to column if experts are popular as in :func:`expert_weights`."""
    return route(Layer(ranks, tokens, HIDDEN, EXPERTS, TOP_K, 0, skew, 1, 0)).copies


def moe_trace(
    *,
    ep: int,
    tokens_per_rank: int,
    hidden: int = HIDDEN,
    experts: int = EXPERTS,
    top_k: int = TOP_K,
    redundant_experts: int = 0,
    skew: float = 0.5,
    seed: int = 1,
    compute_ns_per_token: int = 0,
) -> Trace:
    """Generate the trace of one mixture-of-experts layer: a dispatch and a combine over ``ep`` ranks.

    Both operations are ``all_to_all_v`` rows with both split lists; what a rank keeps for itself is in the lists
    and in the totals. Combine follows dispatch on the same stream, after a gap of ``compute_ns_per_token`` times the
    (token, expert) pairs that the rank computes. There are no times: nothing was measured. The metadata key
    ``fabricsim.source`` holds the parameters.

    Parameters
    ----------
    ep
        Ranks of the expert-parallel group, at least 2. They hold equal numbers of physical experts.
    tokens_per_rank
        Tokens that each rank sends into the layer, at least 1.
    hidden
        Elements of a token.
    experts
        Routed experts of the layer.
    top_k
        Distinct experts per token.
    redundant_experts
        Second replicas, one for each of the most popular experts (as in deepseek-ai/EPLB); tokens alternate
        between the two.
    skew
        Standard deviation of the logarithm of the experts' popularity, 0 (even) to 3. The default is an assumption.
    seed
        Decides which experts are popular, and every token's choice.
    compute_ns_per_token
        Nanoseconds that an expert works on one token; at 0 combine follows dispatch at once.

    Raises
    ------
    ConfigError
        A value is out of its range, or the physical experts do not divide over the ranks.
    """
    from fabricsim.workloads.trace import trace_from_rows  # here, because it imports pyarrow

    layer = Layer(ep, tokens_per_rank, hidden, experts, top_k, redundant_experts, skew, seed, compute_ns_per_token)
    return trace_from_rows(
        _rows(layer, route(layer)),
        world_size=ep,
        groups=[{"id": 0, "name": "ep", "desc": "expert parallel", "ranks": range(ep)}],
        source={"format": "generated", "generator": "moe", "parameters": asdict(layer)},
    )


def _rows(layer: Layer, routing: Routing) -> Iterator[dict[str, Any]]:
    dispatch = routing.copies * dispatch_copy_bytes(layer.hidden)
    combine = routing.copies.T * combine_copy_bytes(layer.hidden)
    gap_ns = routing.computed * layer.compute_ns_per_token
    steps = (
        ("moe_dispatch", "float8_e4m3fn", DISPATCH_ELEMENT_BYTES, dispatch, np.zeros_like(gap_ns)),
        ("moe_combine", "bfloat16", COMBINE_ELEMENT_BYTES, combine, gap_ns),
    )
    for group_seq, (name, dtype, element_bytes, sent, gaps_ns) in enumerate(steps):
        for rank in range(layer.ep):
            yield {
                "rank": rank,
                "group_id": 0,
                "group_seq": group_seq,
                "op": "all_to_all_v",
                "send_bytes": int(sent[rank].sum()),
                "recv_bytes": int(sent[:, rank].sum()),
                "send_bytes_per_peer": sent[rank],
                "recv_bytes_per_peer": sent[:, rank],
                "dtype": dtype,
                "elem_bits": 8 * element_bytes,
                "stream": 0,
                "gap_ns": int(gaps_ns[rank]),
                "name": name,
            }

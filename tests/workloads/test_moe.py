"""The MoE generator: sizes, routing and reproducibility."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fabricsim.errors import ConfigError
from fabricsim.workloads.moe import (
    Layer,
    combine_copy_bytes,
    dispatch_copy_bytes,
    draw_experts,
    expert_weights,
    moe_trace,
    route,
)
from fabricsim.workloads.trace import check

SMALL = {"ep": 4, "tokens_per_rank": 50, "hidden": 256, "experts": 8, "top_k": 2}


def layer(**changes: float) -> Layer:
    """Make a small layer with some parameters changed."""
    defaults = {**SMALL, "redundant_experts": 0, "skew": 0.5, "seed": 1, "compute_ns_per_token": 0}
    return Layer(**{**defaults, **changes})


def test_copy_sizes_of_deepseek_v3():
    """At hidden 7168 a copy has 7168 FP8 bytes and 56 scales on its way out, 7168 BF16 elements on its way back."""
    assert dispatch_copy_bytes(7168) == 7168 + 56 * 4 == 7392
    assert combine_copy_bytes(7168) == 14336


def test_trace_is_sound_and_combine_is_the_transpose_of_dispatch():
    """Both split lists are carried; every byte count is copies times the size of a copy."""
    trace = moe_trace(**SMALL)
    assert check(trace).rows == 8
    table = trace.table()
    assert table["name"].to_pylist() == ["moe_dispatch"] * 4 + ["moe_combine"] * 4
    assert set(table["op"].to_pylist()) == {"all_to_all_v"}
    sent = np.array(table["send_bytes_per_peer"].to_pylist())
    received = np.array(table["recv_bytes_per_peer"].to_pylist())
    copies = sent[:4] // dispatch_copy_bytes(256)
    assert (copies * dispatch_copy_bytes(256) == sent[:4]).all()
    assert (sent[4:] == copies.T * combine_copy_bytes(256)).all()
    assert (received[:4] == sent[:4].T).all()
    assert (received[4:] == sent[4:].T).all()
    assert copies.diagonal().min() > 0  # the part that a rank keeps counts
    assert table["send_bytes"].to_pylist() == sent.sum(axis=1).tolist()


def test_routing_counts_one_copy_per_distinct_rank():
    """With top-2 of 8 experts on 4 ranks a token makes 2 pairs, and 1 copy just when both experts share a rank."""
    routing = route(layer())
    assert routing.computed.sum() == 4 * 50 * 2
    assert 4 * 50 < routing.copies.sum() < 4 * 50 * 2
    assert (routing.copies.sum(axis=1) >= 50).all()
    assert (routing.copies <= 50).all()


def test_all_experts_chosen_means_one_copy_to_every_rank():
    """With top-8 of 8 experts every token goes to each of the 4 ranks exactly once, however skewed."""
    routing = route(layer(top_k=8, skew=3.0))
    assert (routing.copies == 50).all()
    assert (routing.computed == 400).all()


def test_drawn_experts_are_distinct():
    """No token has an expert twice, also where a few experts hold nearly all weight."""
    weights = np.array([2**31, 1, 1, 1, 1], dtype=np.int64)
    chosen = draw_experts(weights, 200, 3, np.random.PCG64(5))
    assert chosen.min() >= 0
    assert chosen.max() <= 4
    assert (np.diff(np.sort(chosen, axis=1), axis=1) > 0).all()
    assert (chosen == 0).any(axis=1).all()


def test_first_and_second_draws_follow_the_weights():
    """Frequencies agree with drawing by weight without replacement, within five standard errors.

    With weights 4, 2, 1, 1 the first draw has p = 1/2, 1/4, 1/8, 1/8; the second is expert 1 with
    p = 1/2 * 2/4 + 2 * 1/8 * 2/7 = 9/28 (after expert 0 among weights 2, 1, 1; after expert 2 or 3 among 4, 2, 1).
    """
    tokens = 40_000
    weights = np.array([4, 2, 1, 1], dtype=np.int64) << 20
    chosen = draw_experts(weights, tokens, 2, np.random.PCG64(3))
    for count, p in (
        *zip(np.bincount(chosen[:, 0]), (1 / 2, 1 / 4, 1 / 8, 1 / 8), strict=True),
        (np.count_nonzero(chosen[:, 1] == 1), 9 / 28),
    ):
        assert abs(count - tokens * p) < 5 * math.sqrt(tokens * p * (1 - p))


def test_popularity_is_log_normal_with_the_asked_for_spread():
    """The logarithms of the weights have the standard deviation asked for (256 quantiles: within 1 %)."""
    for skew in (0.5, 1.0):
        weights = expert_weights(256, skew, np.random.PCG64(1))
        assert np.log(weights.astype(float)).std() == pytest.approx(skew, rel=0.01)
    assert np.ptp(expert_weights(256, 0.0, np.random.PCG64(1))) == 0


def test_skew_makes_hot_ranks():
    """The busiest rank receives more than the mean, the more the larger the skew."""
    loads = [route(layer(tokens_per_rank=500, skew=skew)).copies.sum(axis=0) for skew in (0.0, 1.0, 2.0)]
    busiest = [load.max() / load.mean() for load in loads]
    assert busiest[0] < 1.1 < busiest[1] < busiest[2]


def test_second_replicas_halve_the_load_of_the_hottest_experts():
    """With 8 experts and 4 replicas on 12 ranks, ranks 8 to 11 take half of the load of the 4 hottest, in order."""
    routing = route(layer(ep=12, tokens_per_rank=100, redundant_experts=4, top_k=1))
    weights = expert_weights(8, 0.5, np.random.PCG64(1))
    hottest = np.argsort(-weights, kind="stable")[:4]
    first, second = routing.computed[hottest], routing.computed[8:]
    # The tokens of the two replicas are independent counts, so their difference has the variance of their sum.
    assert (abs(first - second) < 5 * np.sqrt(first + second)).all()
    expected = 1200 * weights[hottest] / weights.sum()
    assert (abs(first + second - expected) < 5 * np.sqrt(expected)).all()


def test_tokens_alternate_between_replicas():
    """Where every expert has two replicas, odd (rank + token) use the upper ranks only, even ones the lower."""
    routing = route(layer(ep=16, tokens_per_rank=1, redundant_experts=8, top_k=1))
    lower, upper = routing.copies[:, :8].sum(axis=1), routing.copies[:, 8:].sum(axis=1)
    assert lower.tolist() == [1, 0] * 8
    assert upper.tolist() == [0, 1] * 8


def test_computation_becomes_the_gap_before_combine():
    """A rank waits its (token, expert) pairs times the time of one, and dispatch starts at once."""
    computed = route(layer(compute_ns_per_token=7)).computed
    gaps_ns = moe_trace(**SMALL, compute_ns_per_token=7).table()["gap_ns"].to_pylist()
    assert gaps_ns == [0] * 4 + (computed * 7).tolist()


def test_same_seed_same_trace_other_seed_other_trace():
    """The seed alone decides the draw."""
    first, again, other = (moe_trace(**SMALL, seed=seed).table() for seed in (1, 1, 2))
    assert first.equals(again, check_metadata=True)
    assert not first["send_bytes_per_peer"].equals(other["send_bytes_per_peer"])


def test_routing_is_pinned():
    """The draw of one small layer, by value: it must not change with versions of NumPy."""
    assert route(layer(tokens_per_rank=20)).copies.tolist() == [
        [7, 16, 9, 4],
        [8, 14, 8, 5],
        [7, 12, 13, 6],
        [8, 13, 6, 11],
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ep": 1}, "ep is 1; it must be at least 2"),
        ({"tokens_per_rank": 0}, "tokens_per_rank is 0"),
        ({"hidden": 0}, "hidden is 0"),
        ({"experts": 0}, "experts is 0"),
        ({"top_k": 9}, "top_k is 9; it must be from 1 to 8"),
        ({"redundant_experts": 9}, "redundant_experts is 9; it must be from 0 to 8"),
        ({"skew": math.nan}, "skew is nan; it must be from 0 to 3"),
        ({"seed": -1}, "seed is -1"),
        ({"compute_ns_per_token": -1}, "compute_ns_per_token is -1"),
        ({"ep": 5}, "8 experts and 0 redundant ones do not divide evenly over 5 ranks; redundant_experts=2 fits"),
        ({"ep": 20}, "8 experts and their second replicas fill at most 16 ranks"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, float], complaint: str):
    """Each parameter out of its range is named with its value and the range."""
    with pytest.raises(ConfigError) as caught:
        moe_trace(**{**SMALL, **changes})
    assert complaint in str(caught.value)

"""Runs a peer, csg-htsim's ``htsim_roce``, and fabricsim on one load, each as a process of its own.

The fabrics are one plane of ``clos72.toml``, and one switch with the same links. Both simulators read them from files
that are written here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases import FABRICS, SEED

NUM_TERMINALS = 72
NUM_PAIRS = NUM_TERMINALS * (NUM_TERMINALS - 1)
PACKET_BYTES = 4096

#: The peer pauses a link when more than this many packets of it wait in a switch: 61,440 B; our buffers hold 65,536 B.
PAUSE_PACKETS = 15
RESUME_PACKETS = 12

#: Packets that a port of the peer may hold; with paused links it never comes near.
PORT_PACKETS = 10_000

#: Where the peer stops, in simulated time: 1 MiB per pair takes 1,500 us at full rate, and the peer below 3,000.
END_US = 100_000


@dataclass(frozen=True)
class Plane:
    """A shape of the 72 terminals, in two tiers; one leaf has a spine too, which no packet crosses."""

    leaves: int
    spines: int

    @property
    def terminals_per_leaf(self) -> int:
        """Return the terminals below each leaf."""
        return NUM_TERMINALS // self.leaves

    def packet_hops(self, pair_bytes: int) -> int:
        """Count the packets of an all_to_all times the links of their paths: two below a leaf, else four."""
        near = NUM_TERMINALS * (self.terminals_per_leaf - 1)
        return pair_bytes // PACKET_BYTES * (2 * near + 4 * (NUM_PAIRS - near))


PLANES = {"one switch": Plane(leaves=1, spines=1), "leaf and spine": Plane(leaves=9, spines=8)}


@dataclass(frozen=True)
class Measured:
    """What ``bench.rounds`` asks of a run; the time is that of the whole process."""

    packet_hops: int
    engine_s: float


@dataclass(frozen=True)
class Process:
    """A simulator that runs in ``folder``, and what finds the packet-hops in its output."""

    command: Sequence[str]
    folder: Path
    packet_hops: Callable[[str], int]

    def run(self) -> Measured:
        """Run it to its end, and time it."""
        start_s = time.perf_counter()
        done = subprocess.run(self.command, cwd=self.folder, check=False, capture_output=True, text=True)
        wall_s = time.perf_counter() - start_s
        if done.returncode:
            raise RuntimeError(f"{self.command[0]} ended with status {done.returncode}: {done.stderr[-2000:]}")
        return Measured(self.packet_hops(done.stdout), wall_s)


def fabricsim(folder: Path, kernel: str, plane: Plane, pair_bytes: int) -> Process:
    """Prepare an all_to_all of ``pair_bytes`` per pair, on one thread."""
    (folder / "plane.toml").write_text(fabric(plane), "utf-8")
    size = f"{NUM_TERMINALS * pair_bytes}B"  # a rank's own part counts, but is not sent
    command = [sys.executable, "-m", "fabricsim", "run", "plane.toml", "all_to_all", "--size", size]
    command += ["--kernel", kernel, "--threads", "1", "--no-fold", "--seed", str(SEED), "--quiet", "--json", "-"]
    return Process(command, folder, lambda output: int(json.loads(output)["packet_hops"]))


def fabric(plane: Plane) -> str:
    """Write ``clos72.toml`` with one plane of another shape."""
    text = Path(FABRICS["clos72"]).read_text("utf-8")
    values = {
        "topology.planes": 1,
        "tier.leaf.children": plane.terminals_per_leaf,
        "tier.spine.children": plane.leaves,
        "tier.spine.parents": plane.spines,
    }
    for table, value in values.items():
        text = re.sub(rf"(?<=\[{re.escape(table)}\]\nvalue = )\d+", str(value), text)
    return text if plane.spines > 1 else text.replace('routing = "spray"\n', "")  # which asks for a choice of paths


def htsim(folder: Path, binary: str, plane: Plane, pair_bytes: int) -> Process:
    """Prepare the same in the peer: lossless links, and one path per pair, drawn by a hash."""
    (folder / "pairs.cm").write_text(traffic_matrix(NUM_TERMINALS, pair_bytes), "utf-8")
    (folder / "plane.topo").write_text(topology(plane), "utf-8")
    command = [binary, "-topo", "plane.topo", "-tm", "pairs.cm", "-nodes", str(NUM_TERMINALS), "-o", "log"]
    command += ["-linkspeed", "400000", "-mtu", str(PACKET_BYTES), "-end", str(END_US), "-seed", str(SEED)]
    command += ["-strat", "ecmp_host", "-paths", "1", "-queue_type", "lossless_input", "-q", str(PORT_PACKETS)]
    command += ["-pfc_thresholds", str(RESUME_PACKETS), str(PAUSE_PACKETS)]
    command += ["-host_queue_type", "prio"]  # its default fails an assertion where a pause is short
    return Process(command, folder, lambda output: htsim_packet_hops(output, plane, pair_bytes))


def traffic_matrix(num_hosts: int, pair_bytes: int) -> str:
    """Write a flow from every host to every other, all at time 0; each host starts with the one after itself."""
    pairs = [(host, (host + step) % num_hosts) for step in range(1, num_hosts) for host in range(num_hosts)]
    lines = [f"Nodes {num_hosts}", f"Connections {len(pairs)}"]
    lines += [f"{source}->{target} start 0 size {pair_bytes}" for source, target in pairs]
    return "\n".join(lines) + "\n"


def topology(plane: Plane) -> str:
    """Write the plane with the links of ``clos72.toml``: 50 GB/s and 250 ns."""
    link = "Downlink_speed_Gbps 400\nDownlink_Latency_ns 250\n"
    return (
        f"Nodes {NUM_TERMINALS}\nTiers 2\nPodsize {NUM_TERMINALS}\n"
        f"Tier 0\nRadix_Down {plane.terminals_per_leaf}\nRadix_Up {plane.spines}\n"
        f"Oversubscribed {plane.terminals_per_leaf // plane.spines}\n{link}"
        f"Tier 1\nRadix_Down {plane.leaves}\n{link}"
    )


def htsim_packet_hops(output: str, plane: Plane, pair_bytes: int) -> int:
    """Return the packet-hops of the data packets, or refuse a run in which not each of them went once.

    The peer does not count them. Its acknowledgements and pause frames are left out.
    """
    finished = re.findall(r"finished at \S+ total bytes (\d+)", output)
    if len(finished) != NUM_PAIRS:
        raise RuntimeError(f"{len(finished)} of {NUM_PAIRS} flows of the peer finished by {END_US} us: raise END_US")
    if set(finished) != {str(pair_bytes)}:
        raise RuntimeError(f"flows of the peer had other sizes than {pair_bytes} bytes: give whole packets")
    if "Rtx: 0" not in output.splitlines()[-1]:
        raise RuntimeError("the peer sent packets again: more than its flows tell of, so packet-hops cannot be counted")
    return plane.packet_hops(pair_bytes)

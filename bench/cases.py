"""What the benchmark runs: fabrics, packet sizes, buffers and loads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabricsim.engine import backends
from fabricsim.engine.driver import Simulation
from fabricsim.fabrics import FabricSpec, load_fabric
from fabricsim.fabrics.network import Network
from fabricsim.workloads.collectives import collective
from fabricsim.workloads.moe import expert_weights
from fabricsim.workloads.schedule import Schedule

#: By name: of the catalog, or a file beside this one.
FABRICS: dict[str, str | Path] = {
    "nvl72": "nvl72",
    "cloudmatrix384": "cloudmatrix384",
    **{name: Path(__file__).with_name(f"{name}.toml") for name in ("clos72", "clos384", "clos768")},
}
PACKETS_BYTES = (256, 512, 4096)
BUFFERS = ("ample", "scarce")
LOADS = ("uniform", "skewed", "incast", "permutation")

#: Two packets of 4 KiB on cloudmatrix384, where full rate needs eight; 28 of 256 B on nvl72, where it needs 89.
SCARCE_BUFFER = "8320 B"

#: Packets of a load, about: a second or less of engine time, so that all cases together take minutes.
NUM_PACKETS = 1 << 18

#: Standard deviation of the logarithm of a target's popularity: the hottest of 72 gets 7 times the mean.
SKEW = 1.0
SEED = 1


@dataclass(frozen=True)
class Case:
    """A load on a fabric of given packet and buffer sizes: one row of the table."""

    fabric: str
    packet_bytes: int
    buffers: str
    load: str

    def __str__(self) -> str:
        return f"{self.fabric}-{self.packet_bytes}B-{self.buffers}-{self.load}"

    def simulation(self, *, kernel: str, num_packets: int = NUM_PACKETS) -> Simulation:
        """Prepare a run of about ``num_packets`` packets, on one thread."""
        network = network_of(self.fabric, self.packet_bytes, self.buffers)
        unit_bytes = network.num_planes * self.packet_bytes  # one full packet on every plane
        schedule = schedule_of(self.load, network.num_terminals, num_packets // network.num_planes, unit_bytes)
        return prepare(network, schedule, kernel=kernel)


CASES = tuple(Case(*values) for values in product(FABRICS, PACKETS_BYTES, BUFFERS, LOADS))


def compiled_kernels() -> tuple[str, ...]:
    """Name the kernels worth timing that can run here, the fastest first."""
    return tuple(kernel.name for kernel in backends.available() if kernel.usable and kernel.name != "python")


def prepare(network: Network, schedule: Schedule, *, kernel: str, threads: int = 1) -> Simulation:
    """Prepare a run with rank r on terminal r."""
    terminal_of_rank = np.arange(schedule.num_ranks, dtype=np.int32)
    return Simulation(network, schedule, terminal_of_rank, seed=SEED, kernel=kernel, threads=threads)


def bulk(fabric: str, size: str) -> tuple[Network, Schedule]:
    """Return a fabric of the catalog with its own packets and buffers, and an all_to_all of *size* over all of it."""
    network = load_fabric(fabric).network()
    return network, collective("all_to_all", size=size, ranks=network.num_terminals)


@functools.lru_cache(maxsize=4)
def network_of(fabric: str, packet_bytes: int, buffers: str) -> Network:
    """Build a fabric with packets of at most ``packet_bytes``, and with its own buffers (ample) or scarce ones."""
    tables = load_fabric(FABRICS[fabric]).model_dump(exclude_none=True)
    for key in ("max_payload", "stripe_min"):
        tables["packet"]["bulk"][key]["value"] = f"{packet_bytes} B"
    if buffers == "scarce":
        for link in tables["link"].values():
            link["buffer"]["value"] = SCARCE_BUFFER
    return FabricSpec(**tables).network()


def uniform_packets(fabric: str, packet_bytes: int, packets_per_share: int) -> int:
    """Return the packets of a uniform load that sends so many over every plane for every pair of terminals."""
    network = network_of(fabric, packet_bytes, "ample")
    return packets_per_share * network.num_planes * network.num_terminals * (network.num_terminals - 1)


@functools.lru_cache(maxsize=4)
def schedule_of(load: str, num_ranks: int, num_units: int, unit_bytes: int) -> Schedule:
    """Make the messages of a load of about ``num_units`` units."""
    return collective("all_to_all_v", splits=split_units(load, num_ranks, num_units) * unit_bytes, ranks=num_ranks)


def split_units(load: str, num_ranks: int, num_units: int) -> npt.NDArray[np.int64]:
    """Say how many units each rank (row) sends to each other (column), about ``num_units`` in all.

    Uniform: the same to all, at least one. Skewed: all ranks prefer the same targets, as popular as the experts of a
    mixture-of-experts layer, the least popular may get none. Incast: all send to rank 0. Permutation: each to one.
    """
    per_rank = num_units // num_ranks
    units = np.zeros((num_ranks, num_ranks), dtype=np.int64)
    generator = np.random.PCG64(SEED)
    if load == "uniform":
        units[:] = max(1, per_rank // (num_ranks - 1))
    elif load == "skewed":
        weights = expert_weights(num_ranks, SKEW, generator)
        units[:] = (2 * per_rank * weights + weights.sum()) // (2 * weights.sum())  # rounded to the nearest
    elif load == "incast":
        units[:, 0] = per_rank
    else:
        circle = np.argsort(generator.random_raw(num_ranks), kind="stable")
        units[circle, np.roll(circle, 1)] = per_rank  # one circle over all ranks, so none sends to itself
    np.fill_diagonal(units, 0)
    return units

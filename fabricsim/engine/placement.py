"""Which terminal each rank sits at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabricsim.errors import ConfigError
from fabricsim.units import whole_number

Int32 = npt.NDArray[np.int32]
Placement = str | os.PathLike[str] | Sequence[int] | npt.NDArray[np.integer]

LINEAR = "linear"
SCATTER = "scatter"
RECORDED = "recorded"
EXPLICIT = "explicit"


def placement_name(placement: Placement | None, recorded: Sequence[int] | None) -> str:
    """Name a placement for the summary: as it was given, ``explicit`` for a sequence, ``recorded`` for the trace's."""
    if placement is None:
        return LINEAR if recorded is None else RECORDED
    return os.fspath(placement) if isinstance(placement, str | os.PathLike) else EXPLICIT


def terminal_of_rank(
    placement: Placement | None,
    *,
    num_ranks: int,
    num_terminals: int,
    fabric: str,
    recorded: Sequence[int] | None = None,
) -> Int32:
    """Place every rank at a terminal of its own.

    Parameters
    ----------
    placement
        ``"linear"`` (rank r at terminal r), ``"scatter"`` (spread evenly: rank r at terminal
        floor(r * terminals / ranks)), a sequence of terminals, or the path of a file with one terminal per line
        (line = rank). ``None`` is *recorded* if there is one, else ``"linear"``.
    recorded
        The placement that the workload brings along.
    num_ranks, num_terminals, fabric
        What is to be placed, and where; the name is for messages.

    Returns
    -------
    numpy.ndarray
        Shape (ranks,), int32.

    Raises
    ------
    ConfigError
        More ranks than terminals; a placement that is not one, or not of whole numbers; a scatter that differs in
        nothing from linear.
    """
    if num_ranks > num_terminals:
        raise ConfigError(
            f"{num_ranks} ranks do not fit on {fabric}, which has {num_terminals} terminals; "
            f"use at most {num_terminals} ranks or a larger fabric"
        )
    ranks = np.arange(num_ranks, dtype=np.int32)
    chosen: Placement = LINEAR
    source, remedy = "placement", ""
    if placement is not None:
        chosen = placement
    elif recorded is not None:
        chosen, source = recorded, "the trace's fabricsim.placement"
        remedy = ", or choose another placement than the recorded one, such as linear"
    if isinstance(chosen, str) and chosen == LINEAR:
        return ranks
    if isinstance(chosen, str) and chosen == SCATTER:
        scattered = (ranks.astype(np.int64) * num_terminals // num_ranks).astype(np.int32)
        if np.array_equal(scattered, ranks):
            raise ConfigError(
                f"placement scatter has no effect here: {num_ranks} ranks on the {num_terminals} terminals of {fabric} "
                "sit as in linear; leave it out"
            )
        return scattered
    if isinstance(chosen, str | os.PathLike):
        entries, wheres, source = _read_file(Path(chosen))
    else:
        try:
            given = list(chosen)
        except TypeError:
            raise ConfigError(
                f"placement is {chosen!r}; give linear, scatter, the path of a file, or a list of one terminal per rank"
            ) from None
        wheres = [f"{source}[{rank}]" for rank in range(len(given))]
        entries = [whole_number(where, terminal) for where, terminal in zip(wheres, given, strict=True)]
    if len(entries) != num_ranks:
        raise ConfigError(
            f"{source} places {len(entries)} ranks, but the workload has {num_ranks}; give one terminal per rank"
        )
    first_at: dict[int, str] = {}
    for terminal, where in zip(entries, wheres, strict=True):
        if not 0 <= terminal < num_terminals:
            raise ConfigError(
                f"{where}: there is no terminal {terminal} on {fabric}; terminals are 0 to {num_terminals - 1}{remedy}"
            )
        if terminal in first_at:
            raise ConfigError(
                f"{where}: terminal {terminal} is already taken by {first_at[terminal]}; "
                f"give every rank a terminal of its own{remedy}"
            )
        first_at[terminal] = where
    return np.array(entries, np.int32)


def _read_file(path: Path) -> tuple[list[int], list[str], str]:
    """Terminals of a placement file, where each stands, and what to call the whole."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"cannot read the placement file {path}: {error.strerror}; "
            "--placement takes linear, scatter or a file with one terminal index per line"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"placement file {path} is not text; write one terminal index per line") from error
    entries = []
    wheres = []
    for number, line in enumerate(lines, start=1):
        where = f"placement file {path}, line {number}"
        text = line.strip()
        if not (text.isascii() and text.isdigit()):
            raise ConfigError(f"{where}: {text!r} is not a terminal index; write one whole number per line")
        entries.append(int(text))
        wheres.append(where)
    return entries, wheres, f"placement file {path}"

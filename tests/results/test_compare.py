from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fabricsim as fs
from fabricsim import cli
from fabricsim.results.attribution import KEYS


def written(
    folder: Path,
    fabric: Any = "nvl72",
    *,
    size: str = "256KiB",
    op: str = "all_to_all",
    ranks: int = 8,
    format: str = "arrow",
    **options: Any,
) -> Path:
    """Run a collective and write its result."""
    algorithm = options.pop("algorithm", None)
    result = fs.simulate(fabric, fs.collective(op, size=size, ranks=ranks, algorithm=algorithm), **options)
    result.write(folder, format=format)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of one all-to-all: as it is, with a rank that is 20 us late, on another fabric."""
    folder = tmp_path_factory.mktemp("results")
    return {
        "nvl72": written(folder / "nvl72"),
        "late": written(folder / "late", faults=["arrival_skew:3=20us"]),
        "clos": written(folder / "clos", "cloudmatrix384", format="parquet"),
    }


def test_a_late_rank_is_where_the_time_moved(results: dict[str, Path]) -> None:
    """20 us more of waiting, the operation as long as before, and all ranks but the late one longer in it."""
    found = fs.compare(results["nvl72"], results["late"])
    assert found["time_us"]["change"] == pytest.approx(20, rel=0.02)
    assert found["attribution_us"]["dependency_wait"] == {"a": 0, "b": 20, "change": 20}
    changes = [found["attribution_us"][key]["change"] for key in KEYS]
    assert sum(changes) == pytest.approx(found["time_us"]["change"])
    (op,) = found["ops"]
    assert abs(op["time_us"]["change"]) < 1
    assert not found["same_times"]
    in_operations = [row["in_operations_us"]["change"] for row in found["ranks"]]
    assert min(in_operations[:3] + in_operations[4:]) > 15 > 1 > abs(in_operations[3])
    assert found["b"]["bottleneck"]["cause"] == "straggler"
    assert found["b"]["faults"] == ["arrival_skew:3=20us"]
    assert found["differ"] == ["faults"]


def test_the_same_result_has_not_moved(results: dict[str, Path]) -> None:
    """Compared with itself, as a folder and as a summary alone, nothing changes; a summary has no ranks."""
    found = fs.compare(results["nvl72"], str(results["nvl72"] / "summary.json"))
    assert found["same_times"]
    assert found["time_us"]["change"] == 0
    assert found["ranks"] is None
    found = fs.compare(results["nvl72"], str(results["nvl72"]))
    assert all(row["in_operations_us"]["change"] == 0 for row in found["ranks"])


def test_other_fabrics_have_other_classes(results: dict[str, Path]) -> None:
    """Classes that one of the two fabrics lacks are there with what the other says; files may be of another format."""
    found = fs.compare(results["nvl72"], results["clos"])
    assert (found["a"]["fabric"], found["b"]["fabric"]) == ("nvl72", "cloudmatrix384")
    assert len(found["ranks"]) == 8
    assert {name for name, used in found["utilization"].items() if used["a"] is None}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "512KiB"}, "operation 0 differs in its size_bytes, 262144 and 524288; compare runs of the same"),
        ({"op": "all_gather"}, "operation 0 differs in its name, all_to_all and all_gather"),
    ],
)
def test_other_workloads_are_refused(
    results: dict[str, Path], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """Another size or operation is no comparison, and the sentence says what differs."""
    with pytest.raises(fs.ConfigError, match=words):
        fs.compare(results["nvl72"], written(tmp_path / "other", **options))


def test_other_messages_are_refused_but_for_another_algorithm(results: dict[str, Path], tmp_path: Path) -> None:
    """An all-to-all in lock step has the same operation; one of other bytes under the same name is refused."""
    found = fs.compare(results["nvl72"], written(tmp_path / "rotated", algorithm="rotated"))
    assert found["ops"][0]["algorithm"] == {"a": "direct", "b": "rotated"}
    assert found["differ"] == ["algorithms"]
    summary = json.loads((results["nvl72"] / "summary.json").read_bytes())
    summary["workload"]["message_bytes"] += 1
    (tmp_path / "other.json").write_text(json.dumps(summary))
    with pytest.raises(fs.ConfigError, match="they differ in message bytes"):
        fs.compare(results["nvl72"], tmp_path / "other.json")


def test_what_is_no_result_is_refused(results: dict[str, Path], tmp_path: Path) -> None:
    """A folder of several results, an empty one, none, other documents, older or damaged ones: each with its remedy."""
    good = results["nvl72"]
    with pytest.raises(fs.ConfigError, match=r"holds several results \(clos, late, nvl72\): name one, as "):
        fs.compare(good.parent, good)
    with pytest.raises(fs.ConfigError, match=r"holds no complete result: there is no summary"):
        fs.compare(good, tmp_path)
    with pytest.raises(fs.ConfigError, match="there is no result "):
        fs.compare(good, tmp_path / "nothing")
    summary = json.loads((good / "summary.json").read_bytes())
    for text, error, words in (
        (json.dumps({"results": [summary] * 2}), fs.ConfigError, "holds 2 results: write each with -o"),
        ('{"schema": "fabricsim.doctor/1"}', fs.ConfigError, "is no result of a run"),
        (json.dumps({**summary, "attribution": 0} | {"schema": 1}), fs.ConfigError, "is no result of a run"),
        ("{", fs.TraceError, "cannot be read"),
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(error, match=words):
            fs.compare(good, tmp_path / "other.json")
    del summary["attribution"]
    (tmp_path / "older.json").write_text(json.dumps(summary))
    with pytest.raises(fs.ConfigError, match="which did not yet say where the time goes; run it again"):
        fs.compare(tmp_path / "older.json", good)


def test_the_command_prints_what_moved(results: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Inside 80 columns; as JSON it is the document. What is not comparable ends with code 2."""
    assert cli.main(["compare", str(results["nvl72"]), str(results["late"])]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "dependency wait 0.000 20.00 +20.00" in words
    assert "0: all_to_all of 262,144 B" in words
    assert "B: Rank 3 is late, by 20 us: the critical path waits 20 us" in words
    assert cli.main(["compare", str(results["nvl72"]), str(results["late"]), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == fs.compare(results["nvl72"], results["late"])
    assert cli.main(["compare", str(results["nvl72"]), "nowhere"]) == 2


def test_the_command_says_what_differs_and_what_it_leaves_out(
    tmp_path: Path, results: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that are not the same, each with both values; more than ten ranks; equal times without tables."""
    one = written(tmp_path / "one", "cloudmatrix384", ranks=12, routing="adaptive")
    other = written(tmp_path / "other", "cloudmatrix384", ranks=12, endpoint="ideal", placement="scatter", seed=7)
    assert fs.compare(one, other)["differ"] == ["endpoint", "routing", "placement", "seed"]
    assert cli.main(["compare", str(one), str(other)]) == 0
    out = capsys.readouterr().out
    assert "endpoint: A fitted, B ideal\nrouting: A adaptive, B spray\nplacement: A linear, B scatter\n" in out
    assert "seed: A 1, B 7\n" in out
    assert "mode" not in out
    assert "2 more ranks changed less, or not; --json FILE has them all." in out
    assert cli.main(["compare", str(results["nvl72"]), str(results["nvl72"])]) == 0
    out = capsys.readouterr().out
    assert "All times are the same." in out
    assert "A and B: " in out
    assert not {"change", "utilization"} & set(out.split())

"""The README's figures are those of the committed logs, and its commands those that are run."""

import json
import re
import subprocess

from conftest import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "tests/benchmarks/results"


def _results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_quickstart_row_is_its_log():
    runs = _results("bench_quickstart")["runs"]
    assert [run["seed"] for run in runs] == list(range(6))
    errors = ", ".join(f"{100 * run['wrong'] / run['images']:.2f}" for run in runs)
    assert f"| {errors} % |" in README
    first = runs[0]
    error = 100 * first["wrong"] / first["images"]
    assert f"Test error  {error:.2f} %  ({first['wrong']} of {first['images']} images" in README


def test_the_building_rows_are_their_log():
    networks = _results("bench_build")["networks"]
    ours = networks["resnet152"]["median_seconds"]
    peer = networks["keras.applications.ResNet152(weights=None)"]["median_seconds"]
    assert f"| {ours:.1f} s against {peer:.1f} s |" in README
    deep = networks["cifar_resnet1202"]["median_seconds"]
    assert f"| {deep:.0f} s |" in README


def test_the_input_rows_are_their_log():
    log = _results("bench_input")
    rates = log["images_per_second"]
    told = [f"{rates['fused']:,.0f} images/s", f"{rates['cifar10']:,.0f} images/s"]
    told += [f"{ratio['measured']:.2f} x " for ratio in log["ratios"].values()]
    assert not [figure for figure in told if figure not in README]


def test_ci_runs_the_readme_test_command():
    (extract,) = re.findall(r"^command=\$\((.*)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    told = subprocess.run(
        ["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = told.stdout.strip()
    assert command.startswith("python3 -m venv .venv && ")
    assert command.endswith(" -m pytest")
    assert f"```bash\n{command}\n```" in README

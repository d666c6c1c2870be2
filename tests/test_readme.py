"""The README's figures are those of the committed logs, and its commands those that are run."""

import json

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


def test_ci_finds_the_test_command():
    section = README.split("## Tests\n")[1].split("\n## ")[0]
    command = section.split("```bash\n")[1].split("\n```")[0]
    assert command.startswith("python3 -m venv .venv")
    assert command.endswith("-m pytest")

"""The README's figures are those of the committed logs, and its commands those that are run."""

import dataclasses
import json
import re
import shlex
import subprocess

import pytest
from conftest import ROOT

from resnet_keras import command_line, config
from resnet_keras.reporting.experiments import EXPERIMENTS

README = (ROOT / "README.md").read_text()
GUIDES = ("README.md", "configs/README.md", "saved_models/README.md")
# Flags in them that are other programs'.
OTHERS = {
    "absl": "flagfile helpshort",
    "curl": "fail-with-body",
    "docker": "file gpus rm",
    "saved_model_cli": "all dir",
    "Slurm": "kill-on-bad-exit nodes ntasks-per-node requeue signal",
    "tensorboard": "logdir",
    "tensorflow_model_server": "enable_batching model_base_path model_name rest_api_port",
    "the client": "server",
}
RESULTS = ROOT / "tests/benchmarks/results"


def _results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _row(what: str) -> str:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {what}")]
    return row


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
    told = [f"{rates['fused']:,.0f} images/s"]
    told += [f"{ratio['measured']:.2f} x " for ratio in log["ratios"].values()]
    row = _row("training input at 224 ")
    assert not [figure for figure in told if figure not in row]
    assert f"| {rates['cifar10']:,.0f} images/s |" in _row("training input of CIFAR-10 ")


def _ratio(section: dict, name: str, digits: int = 2) -> str:
    return f"{section['ratios'][name]['ratio']:.{digits}f}"


def test_the_training_rows_are_their_log():
    sections = _results("bench_train")["sections"]
    steps = _row("training step of `resnet50` at 224, ")
    job = _row("whole training job of `cifar_resnet20`, ")
    for row, name, digits in ((steps, "resnet50", 1), (job, "cifar20", 0)):
        section = sections[name]
        told = [
            f"| {section['medians']['ours']:.{digits}f} images/s: ",
            f"{_ratio(section, 'ours / keras_fit')} x Keras",
            f"({_ratio(section, 'ours / keras_fit_as_installed')} x as it comes",
            f"{_ratio(section, 'ours / torch')} x PyTorch",
        ]
        assert not [figure for figure in told if figure not in row]
    share = sections["resnet50"]["ratios"]["ours_gflops / matmul_gflops"]["ratio"]
    assert f"{100 * share:.0f} % of the FLOP/s of a large matrix product" in steps


def test_the_rows_of_two_workers_are_their_log():
    sections = _results("bench_train")["sections"]
    for row, name, unit, factor in (
        (_row("two workers of one core each, `resnet50`, "), "resnet50", "s", 1),
        (_row("the same, `cifar_resnet20`, 128 images a worker "), "cifar20", "ms", 1000),
    ):
        workers = sections[f"workers_{name}"]["medians"]
        digits = 1 if unit == "s" else 0
        told = [
            f"| {workers['two'] / workers['one']:.2f} x",
            f"a step is {factor * workers['step_longer_by']:.{digits}f} {unit} longer",
            f" {factor * workers['all_reduce']:.{digits}f} {unit} |",
        ]
        assert not [figure for figure in told if figure not in row]


def test_the_rows_of_whole_jobs_are_their_log():
    sections = _results("bench_train")["sections"]
    medians = sections["restart"]["medians"]
    starts = ", ".join(f"{medians[f'folder_at_{image}']:.1f}" for image in (0, 5000, 9900))
    assert f"| {starts} s (once each) |" in _row("restart of `resnet50` ")
    loops = [
        f"{100 * (sections[f'loop_{name}']['ratios']['bare / whole']['ratio'] - 1):.1f} %"
        for name in ("cifar20", "resnet50")
    ]
    assert f"| {' and '.join(loops)} more time" in _row("whole job over its bare steps, ")
    saving = []
    for name in ("resnet50", "cifar20"):
        ratios = sections[f"loop_checkpoint_{name}"]["ratios"]
        saving.append(f"{100 * ratios['checkpoint / 500_steps']['ratio']:.2f} %")
    assert f"| {' and '.join(saving)} of the time |" in _row("a checkpoint every 500 steps, ")
    idle = [
        f"{sections['loop_evaluation']['medians'][f'{name}_idle']:.1f} s"
        for name in ("resnet50", "cifar20")
    ]
    assert f"| {' and '.join(idle)} outside the network" in _row("evaluation of 300 photographs ")


def test_the_memory_rows_are_their_log():
    log = _results("bench_memory")
    medians = log["comparison"]["medians"]
    peaks = [medians[name]["peak_mib"] for name in ("recomputed", "plain")]
    ratio = log["comparison"]["recomputed_to_plain"]["step_seconds"]
    told = [f"{peaks[0]:,.0f} of {peaks[1]:,.0f} MiB, {ratio:.2f} x the time a step"]
    deep = log["deep"]
    told.append(f"{deep['peak_mib'] / 1024:.1f} GiB, {deep['step_seconds']:.0f} s a step")
    told.append(f"{deep['build_seconds'] + deep['trace_seconds']:.0f} s to build and trace")
    assert not [figure for figure in told if figure not in README]
    lines = (ROOT / "saved_models/cifar_r1202/log.jsonl").read_text().splitlines()
    peak = max(json.loads(line).get("peak_memory", 0) for line in lines)
    assert f"; {peak / 2**30:.1f} GiB in a [whole job](" in _row("`cifar_resnet1202` at batch 128 ")


def test_the_serving_rows_are_their_log():
    sections = _results("bench_serve")["sections"]
    batches, single = sections["batch32"], sections["batch1"]
    peers = ("keras_export", "onnxruntime", "openvino", "torch")
    told = [f"{_ratio(batches, f'ours / {peer}')} x " for peer in peers]
    told.append(f"| {batches['medians']['ours']:.1f} images/s: {told[0]}the export of Keras")
    row = _row("answers of an exported `resnet50` at batch 32, ")
    assert not [figure for figure in told if figure not in row]
    latency = single["medians"]
    assert (
        f"| median {latency['ours_median_ms']:.0f} ms, p99 {latency['ours_p99_ms']:.0f} ms: "
        f"{_ratio(single, 'ours / onnxruntime')} x the images/s of onnxruntime |"
    ) in _row("one image at a time ")


def test_the_load_row_is_its_log():
    load = _results("bench_serve")["sections"]["load"]
    found = load["medians"]
    ratio = load["ratios"]["memory_last_minute_mib / memory_second_minute_mib"]["ratio"]
    told = (
        f"| {found['images_per_second']:.1f} images/s, p99 {found['p99_ms']:.0f} ms, "
        f"{found['good_images']:,.0f} images answered, {found['refused']:,.0f} requests refused, "
        f"{found['faults']:.0f} faults; memory {ratio:.3f} x the second minute's |"
    )
    assert told in README


def test_the_evaluation_row_is_its_log():
    section = _results("bench_evaluate")["sections"]["cifar20"]
    crops = _ratio(section, "ten_crop / center", digits=1)
    assert f"| {section['medians']['center']:.1f} s; ten crops {crops} x |" in README


def test_ci_runs_the_readme_test_command():
    (extract,) = re.findall(r"^command=\$\((.*)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    told = subprocess.run(
        ["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = told.stdout.strip()
    assert command.startswith("python3 -m venv .venv && ")
    assert command.endswith(" -m pytest")
    assert f"```bash\n{command}\n```" in README


@pytest.mark.parametrize("guide", GUIDES)
def test_every_flag_that_a_guide_names_exists(guide):
    known = {field.name for field in dataclasses.fields(config.Config)}
    known |= {name for names in OTHERS.values() for name in names.split()}
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*)", (ROOT / guide).read_text())
    assert len(named) > 5
    assert set(named) <= known


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_of_a_guide_can_be_read(guide, monkeypatch):
    """As far as they can be without their runs and data; by bash, and by our own command line."""
    monkeypatch.chdir(ROOT)  # where the configurations are
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / guide).read_text(), re.M | re.S)
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for command in re.findall(r"resnet_keras\.main (.*)$", block.replace("\\\n", ""), re.M):
            # Slurm's is itself within quotes.
            whole = command.removesuffix("'") if command.count("'") % 2 else command
            command_line.read(shlex.split(whole, comments=True))
    assert blocks or guide == "configs/README.md"


def test_every_experiment_has_its_row():
    table = README.partition("| `--experiment` | what | measured |\n|---|---|---|\n")[2]
    rows = table.partition("\n\n")[0].splitlines()
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(EXPERIMENTS)

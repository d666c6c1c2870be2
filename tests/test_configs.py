"""The shipped .flags files: each parses, says what it is, and repeats nothing."""

import re

import pytest
from conftest import ROOT

from resnet_keras import command_line, config
from resnet_keras.models import complexity
from resnet_keras.reporting import results
from resnet_keras.reporting.experiments import EXPERIMENTS, STARTS_FROM

FILES = sorted((ROOT / "configs").glob("*.flags"))
LEAVES = [file for file in FILES if not file.stem.startswith("base_")]
NAMED = (
    "quickstart r18 r34 r50 r101 r152 plain18 plain34 cifar_r20 cifar_r32 cifar_r44 cifar_r56 "
    "cifar_r110 cifar_r1202 cifar_plain20 cifar_plain32 cifar_plain44 cifar_plain56 "
    "cifar_plain110 vgg_a vgg_b vgg_c vgg_d vgg_e lab_vgg16 lab_r50"
).split()


def _flags(file) -> dict[str, str]:
    """Return the flags of one file alone, without those of its base."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("--")]
    pairs = [line[2:].split("=", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), f"{file.name} names a flag twice"
    return dict(pairs)


def _parse(file, monkeypatch) -> config.Config:
    monkeypatch.setattr("pipelines.check", lambda *_: None)  # no data on this machine
    return command_line.parse([f"--flagfile={file}"])


def test_every_experiment_has_its_config():
    assert set(NAMED) <= {file.stem for file in LEAVES}


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_leaf_opens_with_source_command_cost_and_result(file, monkeypatch):
    first = file.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in first)
    assert first[1].startswith(f"# Run: python -m resnet_keras.main --flagfile=configs/{file.name}")
    assert first[2].startswith("# Cost: ")
    assert "ublished" in first[3]
    assert "not run" not in first[3], "what was run, the README's results say"
    parsed = _parse(file, monkeypatch)
    # By the name of its folder, a run belongs to its configuration.
    assert parsed.run_dir == f"runs/{file.stem}"
    start = STARTS_FROM.get(file.stem)
    assert parsed.init_from == (f"runs/{start}" if start else "")


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_the_published_numbers_are_those_of_the_tables(file):
    """In the file and in the README, which repeat some of what the reports compare with."""
    known = {
        number
        for name in EXPERIMENTS
        for row in EXPERIMENTS[name].rows
        for quantity in results.quantities(name)
        if row.runs == (file.stem,)
        for number in re.findall(r"[\d.]+", results.published(name, row, quantity)[1])
    }
    (row,) = [
        line.split("|")[3].strip()
        for line in (ROOT / "configs/README.md").read_text().splitlines()
        if line.startswith(f"| {file.stem} |")
    ]
    told = file.read_text().splitlines()[3].removeprefix("# Published: ")
    told = told.partition(". ")[0].rstrip(".")
    assert row.removesuffix(" published") == told
    # Those that the papers tell in their text alone.
    shares = set(re.findall(r"([\d.]+) %", told)) - {"7", "60", "80"}
    assert shares <= known
    assert bool(shares) == bool(known - {"400"})


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_leaf_holds_only_what_differs_from_its_base(file):
    flags = _flags(file)
    if "flagfile" in flags:
        base = file.parent / flags["flagfile"]
        inherited = _flags(base)
        if "flagfile" in inherited:
            inherited = _flags(base.parent / inherited["flagfile"]) | inherited
        repeated = {name for name in flags if inherited.get(name) == flags[name]}
        assert not repeated


# Sec. 3.4 and 4.2 of the ResNet paper, Sec. 3.1 of the VGG paper, and the lab report.
RECIPES = {
    "r152": {"batch_size": 256, "learning_rate": 0.1, "weight_decay": 1e-4, "momentum": 0.9,
             "train_steps": 600_000, "decay": "kernels"},
    "cifar_r20": {"batch_size": 128, "learning_rate": 0.1, "weight_decay": 1e-4, "momentum": 0.9,
                  "train_steps": 64_000, "lr_drops": (32_000, 48_000)},
    "vgg_d": {"batch_size": 256, "learning_rate": 1e-2, "weight_decay": 5e-4, "momentum": 0.9,
              "train_steps": 370_000},
    "lab_r50": {"learning_rate": 1e-2, "weight_decay": 5e-4, "momentum": 0.9, "decay": "all",
                "classes": ("airplane", "automobile", "bird"), "lr_drops": ()},
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_published_settings_arrive_in_the_config(name, monkeypatch):
    parsed = _parse(ROOT / "configs" / f"{name}.flags", monkeypatch)
    assert {key: getattr(parsed, key) for key in RECIPES[name]} == RECIPES[name]


@pytest.mark.parametrize("name", ["vgg_e", "r152", "plain18"])
def test_imagenet_rates_fall_at_plateaus_three_times(name, monkeypatch):
    """ResNet paper, Sec. 3.4, and VGG paper, Sec. 3.1: "decreased 3 times"."""
    parsed = _parse(ROOT / f"configs/{name}.flags", monkeypatch)
    assert (parsed.lr_schedule, parsed.plateau_drops, parsed.lr_drops) == ("plateau", 3, ())


def test_only_resnet_110_and_1202_warm_up(monkeypatch):
    """Sec. 4.2: at 0.01 until the training error is below 80 %."""
    warm = set()
    for file in LEAVES:
        parsed = _parse(file, monkeypatch)
        if parsed.warmup_until_error:
            assert (parsed.warmup_until_error, parsed.warmup_learning_rate) == (0.8, 0.01)
            warm.add(parsed.model)
    assert warm == {"cifar_resnet110", "cifar_resnet1202"}


def test_lab_runs_last_as_many_epochs_as_the_report_says(monkeypatch):
    for name, epochs in (("lab_vgg16", 20), ("lab_r50", 15)):
        parsed = _parse(ROOT / f"configs/{name}.flags", monkeypatch)
        assert 0 <= parsed.train_steps * parsed.batch_size - epochs * 15_000 < parsed.batch_size


@pytest.mark.parametrize("file", LEAVES, ids=lambda file: file.stem)
def test_the_cost_is_arithmetic(file, monkeypatch):
    """Three times the forward pass (one forward, two backward) of every image, of its size."""
    found = re.match(r"# Cost: (\S+) multiply-adds", file.read_text().splitlines()[2])
    if file.stem == "quickstart":
        assert not found  # measured, not counted
        return
    parsed = _parse(file, monkeypatch)

    def forward(side: int | None = None) -> int:
        rows = complexity.stages(
            parsed.model,
            classes=len(parsed.classes) or None,
            input_size=side,
            **parsed.architecture_arguments(),
        )
        return complexity.total(rows).multiply_adds

    passes = 4 if parsed.recompute else 3  # forward once more for activations that were not kept
    small = parsed.small_image_steps
    images = forward() * (parsed.train_steps - small)
    images += forward(parsed.small_image_size) * small if small else 0
    cost = passes * images * parsed.batch_size
    assert found[1] == f"{cost:.1e}"
    listed = (ROOT / "configs/README.md").read_text()
    (row,) = [line for line in listed.splitlines() if line.startswith(f"| {file.stem} |")]
    # NVIDIA/DeepLearningExamples: 3,170 images/s of ResNet-50 (4.09e9) on 8 V100 in float32.
    # Keras's example: 50,000 images of ResNet-110 (2.53e8) in 165 s on one GTX 1080 Ti.
    large = parsed.dataset == "imagenet2012"
    rate = 3_170 * 3 * 4.09e9 if large else 50_000 / 165 * 3 * 2.53e8
    hours = cost / rate / 3600
    told = f"{hours:{',.0f' if hours >= 10 else '.2g'}} h on {8 if large else 1}"
    assert row.endswith(f" {cost:.1e} multiply-adds | {told} |")

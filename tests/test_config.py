"""Flags: what is typed, what it becomes, and what is refused."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from resnet_keras import command_line, config
from resnet_keras.errors import InputError


def test_later_flags_win_over_the_flagfile(tmp_path):
    (tmp_path / "a.flags").write_text("--dataset=digits\n--batch_size=3\n--seed=1\n")
    parsed = command_line.parse([f"--flagfile={tmp_path}/a.flags", "--batch_size=5"])
    assert (parsed.batch_size, parsed.seed) == (5, 1)


def test_nested_flagfiles_are_relative_to_their_own_file(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.flags").write_text("--dataset=digits\n--batch_size=3\n")
    (tmp_path / "deep/leaf.flags").write_text("# a leaf\n\n--flagfile=../base.flags\n--seed=9\n")
    monkeypatch.chdir("/")
    parsed = command_line.parse(["--flagfile", str(tmp_path / "deep/leaf.flags")])
    assert (parsed.batch_size, parsed.seed) == (3, 9)


@pytest.mark.parametrize("line", ["seed=3", "--seed=3 # why", "batch 3"])
def test_a_flagfile_line_that_absl_would_misread_is_refused_with_its_number(tmp_path, line):
    (tmp_path / "a.flags").write_text(f"--dataset=digits\n{line}\n")
    with pytest.raises(InputError, match=r"Line 2 of .*a\.flags"):
        command_line.parse([f"--flagfile={tmp_path}/a.flags"])


def test_a_flagfile_that_includes_itself_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=a.flags\n")
    with pytest.raises(InputError, match="includes itself"):
        command_line.parse([f"--flagfile={tmp_path}/a.flags"])


REFUSED = [
    (["--model=resnet51"], "resnet50"),
    (["--model=cifar_resnet21"], "6n"),
    (["--batch_sise=3"], "--batch_size"),
    (["--batch_size=0"], "1 or more"),
    (["--batch_size=many"], "batch_size"),
    (["--learning_rate=nan"], "0 or more"),
    (["--momentum=1"], "< 1"),
    (["--label_smoothing=1"], "< 1"),
    (["--precision=float64"], "float32, bfloat16, float16, auto"),
    (
        ["--export_precision=float16"],
        "--export_precision=float16 is not one of: float32, bfloat16.",
    ),
    (["--lr_schedule=plateau", "--lr_drops=5"], "--lr_schedule=piecewise"),
    (["--warmup_steps=5", "--warmup_until_error=0.8"], "give one"),
    (["--warmup_until_error=80"], "1 or less"),
    (["--dataset=digits", "--model=cifar_resnet8", "--small_image_size=24"], "go together"),
    (
        ["--dataset=digits", "--model=vgg_a", "--small_image_size=24", "--small_image_steps=9"],
        "--model=vgg_a: leave one out",
    ),
    (
        [
            *("--dataset=digits", "--model=cifar_plain8"),
            *("--small_image_size=32", "--small_image_steps=9"),
        ],
        "less than the 32 pixels",
    ),
    (["--model=vgg_a", "--optimizer=muon"], "--model=vgg_a, which has no batch normalisation"),
    (["--optimizer=muon", "--learning_rate=0"], "give more than 0"),
    (["--dataset=digits", "--model=cifar_resnet8", "--alternate_flips"], "does not pad and flip"),
    (["--muon_learning_rate=0.05"], "or give --optimizer=muon"),
    (["--warmup_learning_rate=0.02"], "no place without --warmup_until_error"),
    (["--lr_schedule=cosine", "--plateau_drops=2"], "no place without --lr_schedule=plateau"),
    (["--profile_steps=7"], "20,25"),
    (["--profile_steps=7,5"], "20,25"),
    (["--strategy=central"], "multi_worker"),
    (["--accumulation_steps=0"], "1 or more"),
    (["--lr_drops=5,3"], "rising"),
    (["--lr_drops=5,x"], "whole iterations"),
    (["train"], "--flag=value"),
    (["--mode=fly"], "train, evaluate"),
    (["--model=plain34", "--shortcut=A"], "plain34"),
    (["--model=resnet18", "--stride_on=3x3"], "bottleneck"),
    (["--model=cifar_resnet20", "--stem_pool=ceil"], "stem"),
    (["--model=resnet50,resnet18"], "resnet50,resnet18"),
    (["--dataset=mnisst"], "digits"),
    (["--recipe=mine"], "imagenet"),
    (["--flagfile=/nowhere.flags"], "/nowhere.flags"),
    (["--flagfile"], "needs a file"),
    (["--mode=predict"], "--saved_model"),
    (["--mode=prepare", "--output_dir=x"], "--output_name"),
    (["--mode=prepare", "--validation_images=9"], "hold them out in training"),
    (["--mode=prepare", "--classes=1,2"], "those of all its classes"),
    (["--mode=evaluate", "--run_dir=/nowhere"], "holds no run"),
    (["--seed=4294967296"], "or less"),
    (["--dataset=/data/imagenet"], "'folder'"),
    (["--dataset="], "no name"),
    (
        ["--dataset=digits", "--model=vgg_d", "--batchnorm_statistics=true_average"],
        "vgg_d has no batch normalisation",
    ),
    (["--channel_mean=1,2"], "three numbers"),
    (["--channel_std=a,b,c"], "three numbers"),
    (["--data_service=host:5"], "grpc://"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED, ids=lambda x: " ".join(x))
def test_bad_flags_are_refused_in_one_sentence(arguments, told):
    given = ["--dataset=digits"] if not any("dataset" in a for a in arguments) else []
    with pytest.raises(InputError) as caught:
        command_line.parse([*given, *arguments])
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert message.endswith(".")


def test_default_directories_follow_model_and_data(monkeypatch):
    parsed = command_line.parse(["--model=cifar_resnet20", "--dataset=digits"])
    assert parsed.run_dir == "runs/cifar_resnet20_digits"
    assert parsed.export_dir == "saved_models/cifar_resnet20_digits"
    with_configuration = command_line.read(["--dataset=imagenet_resized/32x32"])
    assert with_configuration.run_dir == "runs/resnet50_imagenet_resized_32x32"
    named = command_line.parse(["--dataset=digits", "--run_dir=elsewhere/mine"])
    assert named.export_dir == "saved_models/mine"


def _write_run(folder, flags):
    """Write of a run what a command line looks at."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"flags": dataclasses.asdict(flags)}))
    (folder / "checkpoint").touch()


def test_evaluate_takes_the_settings_of_the_run(tmp_path):
    saved = command_line.parse(["--model=cifar_resnet32", "--dataset=digits", "--lr_drops=7,9"])
    _write_run(tmp_path, saved)
    parsed = command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}", "--seed=4"])
    assert (parsed.model, parsed.dataset, parsed.lr_drops) == ("cifar_resnet32", "digits", (7, 9))
    assert (parsed.seed, parsed.mode, parsed.run_dir) == (4, "evaluate", str(tmp_path))


@pytest.mark.parametrize("mode", ["evaluate", "export", "responses"])
def test_a_run_without_checkpoints_is_told_before_its_data_are_missed(tmp_path, mode):
    """Of committed runs there are only texts, and the data lay on another machine."""
    flags = config.Config(dataset="folder", data_dir=str(tmp_path / "gone"), model="cifar_resnet8")
    _write_run(tmp_path / "run", flags)
    asked = [f"--mode={mode}", f"--run_dir={tmp_path}/run"]
    with pytest.raises(InputError, match=r"no folder .*gone"):
        command_line.parse(asked)
    with pytest.raises(InputError, match=r"run/best holds no checkpoint"):
        command_line.parse([*asked, "--checkpoint=best"])
    (tmp_path / "run/checkpoint").unlink()
    with pytest.raises(InputError, match=r"run holds no checkpoint: name the --run_dir of a run"):
        command_line.parse(asked)
    (tmp_path / "run/1").mkdir()
    (tmp_path / "run/1/saved_model.pb").touch()
    with pytest.raises(InputError, match=rf"ask its export, --saved_model={tmp_path}/run, or"):
        command_line.parse(asked)


def test_an_export_follows_the_name_that_a_run_has_now(tmp_path):
    saved = command_line.parse(["--dataset=digits", "--model=cifar_resnet8", "--run_dir=runs/a"])
    assert saved.export_dir == "saved_models/a"
    _write_run(tmp_path / "renamed", saved)
    parsed = command_line.parse(["--mode=export", f"--run_dir={tmp_path}/renamed"])
    assert parsed.export_dir == "saved_models/renamed"
    _write_run(tmp_path / "renamed", dataclasses.replace(saved, export_dir="elsewhere/a"))
    parsed = command_line.parse(["--mode=export", f"--run_dir={tmp_path}/renamed"])
    assert parsed.export_dir == "elsewhere/a"


def test_responses_are_of_the_images_that_each_run_held_out_in_any_order(tmp_path):
    for name, held_out in (("a", 0), ("b", 90)):
        flags = ["--dataset=digits", "--model=cifar_resnet8", f"--validation_images={held_out}"]
        _write_run(tmp_path / name, command_line.parse(flags))
    for order in ("ab", "ba"):
        asked = ["--mode=responses", "--runs=" + ",".join(f"{tmp_path}/{name}" for name in order)]
        for flags, expected in (
            ([], {"a": 0, "b": 90}),
            (["--validation_images=0"], {"a": 0, "b": 0}),
        ):
            runs = command_line.runs_compared(command_line.parse([*asked, *flags]))
            assert {run.run_dir[-1]: run.validation_images for run in runs} == expected


def test_what_a_training_was_asked_about_tests_is_not_kept(tmp_path):
    asked = ["--scales=24,32", "--views=dense", "--checkpoint=best", "--output_dir=elsewhere"]
    saved = command_line.parse(["--model=cifar_resnet32", "--dataset=digits", *asked])
    _write_run(tmp_path, saved)
    parsed = command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}"])
    assert (parsed.views, parsed.scales) == (("center",), ())
    assert (parsed.checkpoint, parsed.output_dir) == ("latest", "")


def test_alternating_flips_are_of_the_training_alone(tmp_path):
    """The run's evaluation may have a recipe that flips nothing."""
    flags = ["--model=cifar_resnet8", "--dataset=digits", "--recipe=cifar", "--alternate_flips"]
    saved = command_line.parse(flags)
    assert saved.make_recipe().alternate_flips
    _write_run(tmp_path, saved)
    parsed = command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}", "--recipe=digits"])
    assert not parsed.make_recipe().alternate_flips


def test_the_papers_schedule_is_the_default():
    """Sec. 3.4: "divided by 10 when the error plateaus"; CIFAR's drops (Sec. 4.2) are named."""
    digits = ["--model=cifar_resnet8", "--dataset=digits"]
    assert command_line.parse(digits).lr_schedule == "plateau"
    assert command_line.parse([*digits, "--lr_drops=5,9"]).lr_schedule == "piecewise"
    for name in config.LR_SCHEDULES:
        assert command_line.parse([*digits, f"--lr_schedule={name}"]).lr_schedule == name


def test_an_ensemble_is_not_exported(tmp_path):
    _write_run(tmp_path, command_line.parse(["--model=cifar_resnet32", "--dataset=digits"]))
    export = ["--mode=export", f"--run_dir={tmp_path}"]
    assert command_line.parse(export).mode == "export"
    with pytest.raises(InputError, match="--ensemble=a,b has no place in --mode=export"):
        command_line.parse([*export, "--ensemble=a,b"])


def test_flags_may_not_contradict_the_run_that_is_evaluated(tmp_path):
    saved = command_line.parse(["--model=cifar_resnet32", "--dataset=digits"])
    _write_run(tmp_path, saved)
    with pytest.raises(InputError, match="--model=cifar_resnet32"):
        command_line.parse(["--mode=export", f"--run_dir={tmp_path}", "--model=cifar_resnet20"])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no run's config"):
        command_line.parse(["--mode=export", f"--run_dir={tmp_path}"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", "many"), ("lr_drops", None), ("export", "yes"), ("classes", "3"),
     ("learning_rate", "fast"), ("seed", True), ("model", 3), ("stride_on", None)],
)  # fmt: skip
def test_a_damaged_setting_of_a_run_is_named_with_its_file(tmp_path, name, value):
    saved = dataclasses.asdict(command_line.parse(["--dataset=digits", "--model=cifar_resnet8"]))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"flags": saved | {name: value}}))
    (tmp_path / "checkpoint").touch()
    for command in (
        lambda: command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}"]),
        lambda: command_line.read_run(str(tmp_path)),
    ):
        with pytest.raises(InputError, match=rf"^{re.escape(str(file))} has no readable '{name}'"):
            command()
    older = {name: saved[name] for name in ("model", "dataset", "batch_size")}
    file.write_text(json.dumps({"flags": older}))
    assert command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}"]).lr_drops == ()
    file.write_text('{"flags": {}}')
    with pytest.raises(InputError, match="has no readable 'model'"):
        command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}"])


def test_the_data_of_another_run_may_be_gone(tmp_path):
    """A run starts from it (--init_from) on the same images, which lie elsewhere now."""
    other = config.Config(dataset="folder", data_dir="pictures", model="cifar_resnet8")
    _write_run(tmp_path, other)
    asked = command_line.parse(["--dataset=digits", f"--data_dir={tmp_path}"])
    assert command_line.of_run(asked, str(tmp_path))[0].dataset == "folder"


def test_what_decides_the_rate_may_not_change_on_resume():
    free = {
        name: config.resumable(command_line.parse(["--dataset=digits", f"--lr_schedule={name}"]))
        for name in config.LR_SCHEDULES
    }
    assert {"train_steps", "evaluate_every", "log_every"} <= free["piecewise"]
    assert "evaluate_every" not in free["plateau"]
    assert "train_steps" not in free["cosine"]
    assert not {"batch_size", "precision", "seed", "accumulation_steps"} & free["piecewise"]


def test_a_tilde_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    parsed = command_line.parse(["--dataset=digits", "--run_dir=~/a", "--export_dir=~/b"])
    assert (parsed.run_dir, parsed.export_dir) == ("/home/somebody/a", "/home/somebody/b")


def _run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--helpshort"], 0), (["--version"], 0), (["--modell=resnet50"], 2), (["--seed=x"], 2),
     (["--model=resnet51"], 2), (["stray"], 2), (["--dataset=imagenet2012", "--data_dir=/no"], 2)],
)  # fmt: skip
def test_wrong_flags_are_answered_without_tensorflow(arguments, code):
    done = _run(
        "import sys; from resnet_keras.main import main; "
        f"code = main({arguments!r}); "
        "heavy = {'tensorflow', 'keras', 'tensorflow_datasets', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_manual_fits_a_terminal():
    assert max(map(len, config.manual().splitlines())) <= 100

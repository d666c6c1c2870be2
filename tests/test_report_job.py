"""--mode=report from the command line: page, Markdown, README; on written runs and a real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import ROOT
from PIL import Image
from processes import TINY, done_here
from report_fixtures import evaluated, train, write_evaluation, write_run

from resnet_keras import report_job
from resnet_keras.main import main
from resnet_keras.reporting import readme, results
from resnet_keras.reporting.readme import BEGIN, END
from resnet_keras.reporting.standing import judge

BFLOAT16 = {"precision": "bfloat16"}
STEPS = range(4_000, 64_001, 4_000)
VOID = {"meta", "img", "use", "path", "image", "br"}


class Page(HTMLParser):
    """Collect what a page shows and refers to; unbalanced tags raise."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open += [] if tag in VOID else [tag]
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _records(wrong: int):
    found = []
    for step in STEPS:
        share = 0.5 * 4_000 / step
        found += [
            train(step, share, images_per_second=400.0, input_wait=0.01, learning_rate=0.1),
            evaluated(step, wrong + round(10_000 * share), seconds=3.0),
        ]
    return found


@pytest.fixture(scope="module")
def plans():
    """Give what the configurations of this checkout ask for."""
    return report_job.read_plans(ROOT / "configs")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Give a folder with runs of Table 6, Fig. 6 and 7, one of our own, and one just begun."""
    folder = tmp_path_factory.mktemp("work")
    write_run(folder / "runs/cifar_r20", _records(500))
    write_run(folder / "runs/cifar_r20_seed1", _records(520), seed=1)
    write_run(folder / "runs/cifar_plain20", _records(900), model="cifar_plain20")
    odd = {"class_names": ["<script>alert(1)</script>", "a|b & $x$"]}
    records = [train(50, images_per_second=10.0, peak_memory=3 * 2**29),
               train(100, images_per_second=10.0, peak_memory=2**29)]  # fmt: skip
    own = write_run(
        folder / "runs/own", [*records, evaluated(100, 3, images=10)], odd, train_steps=100
    )
    write_evaluation(own / "evaluation/test_center", [{"place": "own", "step": 100}], 3)
    start = {"kind": "start", "step": 0, "init_from": "constructed_plain20", "init_step": 64_000,
             "relative_difference": 1.23e-6, "error": 0.125,
             "init_error": 0.125, "batch_error": 0.375, "init_batch_error": 0.25}  # fmt: skip
    write_run(folder / "runs/constructed_plain56", [start, *_records(500)])
    write_run(folder / "runs/begun", [])
    (folder / "runs/begun/log.jsonl").unlink()
    table = "run,step,layer,name,std,sorted_std\n"
    table += "".join(
        f"x/{name},64000,{i},l{i},{std},{std}\n"
        for name in ("cifar_r20", "cifar_plain20")
        for i, std in enumerate((0.5, 0.25), 1)
    )
    (folder / "runs/cifar_r20/responses").mkdir()
    (folder / "runs/cifar_r20/responses/responses.csv").write_text(table)
    Image.new("RGB", (2, 2)).save(folder / "runs/own/grid.png")
    return folder


def _told(capsys, monkeypatch, place, *arguments):
    monkeypatch.chdir(place)
    code = main(["--mode=report", *arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def report(place):
    """Give the page of all runs and its Markdown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["--mode=report", "--output_dir=out"]) == 0
    return (place / "out/report.html").read_text(), (place / "out/report.md").read_text()


def test_the_page_needs_nothing_but_itself(report):
    page = Page(report[0])
    assert "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids), "ids of several figures must not meet"
    for reference in page.references:
        inside = reference.startswith("#") and reference[1:] in page.ids
        assert inside or reference.startswith("data:image/png;base64,"), reference
    for reference in re.findall(r"url\(#(.*?)\)", report[0]):
        assert reference in page.ids
    assert not re.search(r"@import|url\((?!#)", report[0])


def test_names_from_data_are_text(report):
    page, text = report
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a|b & $x$" in Page(page).text
    assert r"\<script\>" in text
    (line,) = [x for x in text.splitlines() if x.startswith(r"| class_names | \<script\>")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3  # a line upright in a name ends no cell


def test_what_is_measured_stands_beside_what_is_published(report):
    """Seeds 0 and 1: 500 and 520, and 312, of 10,000 wrong at the end."""
    for text in (Page(report[0]).text, report[1]):
        assert "8.22 ± 0.14 (8.12, 8.32)" in text
        assert "-0.53" in text  # 8.22 - 8.75
        assert "not run: 9.3e+16 multiply-adds" in text  # ResNet-1202, forward once more
    (line,) = [x for x in report[1].splitlines() if x.startswith("| ResNet-20 | error (%)")]
    assert "| 2 | measured | " in line
    assert "| 0123456789 | a CPU, 1 device |" in line
    assert report[1].count("--experiment=table2`") == 1


def test_the_iterations_to_an_error_are_told(report):
    (line,) = [x for x in report[1].splitlines() if x.startswith("| plain-20 | 8,000")]
    # 9 % + 50 % * 4,000 / step: 59, 34, 25.7, 21.5, 19, ...; 15 at 32,000 or 36,000.
    assert line == "| plain-20 | 8,000 | 12,000 | 20,000 | 36,000 | — |"


def test_a_run_tells_its_peak_memory_where_its_log_does(report):
    lines = report[1].splitlines()
    header = "| images/s, whole job | waiting for input | evaluating | saving | whole time | "
    found = [lines[i + 2] for i, line in enumerate(lines) if line.startswith(header)]
    assert [line.split(" | ")[-1] for line in found if line.startswith("| 10.0 |")] == ["1.5 GiB |"]
    assert {line.split(" | ")[-1] for line in found if "| 10.0 |" not in line} == {"— |"}


def test_the_files_of_the_markdown_are_there(report, place):
    shown = set(re.findall(r"\]\((figures/.*?)\)", report[1]))
    files = {f"figures/{file.name}" for file in (place / "out/figures").iterdir()}
    assert shown == files
    assert {"figures/grid-own.png", "figures/responses-1.svg"} <= shown
    assert (place / "out/figures/fig1_fig6-curves-1.svg").read_text().startswith("<?xml")


def test_a_constructed_net_is_told_beside_what_it_starts_from(report):
    """Equal outputs in evaluation; by the batch's statistics, worse: shares as per cent."""
    (line,) = [x for x in report[1].splitlines() if "(constructed_plain56)" in x]
    assert line.endswith("| 1.2e-06 | 12.50 % | 12.50 % | 25.00 % | 37.50 % |")
    for what in ("training error", "test error"):
        assert what in report[1].split('## <a id="constructed_solution"')[1]


def test_an_epoch_between_evaluations_is_what_imagenet_is_asked_for(checkout, plans):
    """1,281,167 images in batches of 256 are 5,005 steps, and 10,010 are two epochs."""
    for name, every, told in (
        ("r50", 5_005, "measured"),
        ("r101", 10_010, "measured; deviations: --evaluate_every=10010 (5005)"),
    ):
        records = [train(600_000), evaluated(600_000, 12_000, images=50_000)]
        flags = plans[name].flags | {"evaluate_every": every}
        place = write_run(
            checkout / "saved_models" / name, records, {"training_images": 1_281_167}, **flags
        )
        (run,), _ = report_job.find([str(place)])
        assert str(judge(run, plans, {})) == told


@pytest.mark.parametrize(
    ("flags", "made", "wrong", "told"),
    [
        ({}, {"recipe": "cifar", "image_size": 32, "precision": "float32"}, 815, ""),
        ({}, {"recipe": "lab"}, 900, "tested with --recipe=lab (cifar)"),
        ({}, {"image_size": 40}, 900, "tested with --image_size=40 (32)"),
        ({}, {"precision": "bfloat16"}, 900, "tested with --precision=bfloat16 (float32)"),
        (BFLOAT16, BFLOAT16, 815, "--precision=bfloat16 (float32)"),
        ({}, {"dataset": "cifar100"}, 900, "tested with --dataset=cifar100 (cifar10)"),
    ],
)
def test_a_test_is_compared_with_how_its_run_was_made(flags, made, wrong, told, checkout, plans):
    """One that is another measurement does not contradict the log, in which 812 were wrong."""
    place = write_run(checkout / "saved_models/cifar_r20", _records(500), **flags)
    member = {"place": "cifar_r20", "step": 64_000, "scales": {"center": [32]}, **made}
    metrics = {"dataset": made.get("dataset", "cifar10"), "images": 10_000}
    write_evaluation(place / "evaluation/test_center", [member], wrong, **metrics)
    runs, _ = report_job.find([str(place)])
    (line,) = [x for x in results.lines("table6", runs, {}, plans) if x.values]
    assert str(line.standing) == (f"measured; deviations: {told}" if told else "measured")
    assert line.values == pytest.approx((wrong / 100,))


def test_a_run_that_has_just_begun_is_told(report):
    assert "The log has no step yet." in Page(report[0]).text
    assert "begun" in report[1]


def test_the_same_runs_give_the_same_bytes_without_tensorflow(place):
    """In two processes, whose sets have other orders."""
    program = (
        "import sys; from resnet_keras.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'tensorflow' in sys.modules)"
    )
    found = []
    for number in (1, 2):
        subprocess.run(
            [sys.executable, "-c", program, "--mode=report", f"--output_dir=same{number}"],
            cwd=place, check=True, env=os.environ | {"PYTHONHASHSEED": str(number)},
        )  # fmt: skip
        files = sorted(file for file in (place / f"same{number}").rglob("*") if file.is_file())
        found.append({file.name: file.read_bytes() for file in files})
    assert len(found[0]) > 10
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runs=nowhere/*"], "--runs=nowhere/* matches no run's directory"),
        (["--runs=runs/*,out*"], "--runs=out* matches no run's directory"),
        (["--runs=runs/*,copy/*"], "are two runs of one name: leave one out"),
        (["--format=readme", "--runs=runs/*"], "--format=readme is for --mode=report alone"),
    ],
)
def test_what_cannot_be_reported_is_refused(arguments, sentence, capsys, monkeypatch, place):
    shutil.copytree(place / "runs/own", place / "copy/own", dirs_exist_ok=True)
    code, output, complaint = _told(capsys, monkeypatch, place, *arguments)
    assert (code, output) == (2, "")
    assert sentence in complaint
    assert complaint.count("\n") == 1


def test_without_configurations_runs_are_told_but_not_judged(capsys, monkeypatch, place):
    monkeypatch.setattr("resnet_keras.reproduce.CONFIGS", place / "nowhere")
    code, _, complaint = _told(capsys, monkeypatch, place, "--runs=runs/cifar_r20")
    assert code == 0
    assert f"{place / 'nowhere'} is missing: runs are told of, but not compared" in complaint
    text = (place / "report/report.md").read_text()
    assert (
        "| ResNet-20 | error (%) | 8.12 | 8.75 | — | 1 | no configuration to compare with" in text
    )


# The README.


def test_the_readmes_table_is_that_of_the_committed_runs(plans):
    """Mended by: python -m resnet_keras.main --mode=report --format=readme."""
    _, _, rest = (ROOT / "README.md").read_text().partition(BEGIN + "\n")
    part, end, _ = rest.partition("\n" + END)
    assert end
    text, files = report_job.results_part(ROOT, plans)
    assert part == text
    shown = {file.name: file.read_bytes() for file in (ROOT / readme.FIGURES).glob("*")}
    assert set(shown) == set(files)
    for name, content in files.items():
        # Another matplotlib may draw otherwise; of which runs a file is, it says itself.
        told = [
            re.findall(rb'matplotlib [\w.]+|aria-label="[^"]*"', x) for x in (shown[name], content)
        ]
        assert told[0][1:] == told[1][1:]
        assert told[0] != told[1] or shown[name] == content


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Give a checkout with a README and a committed run."""
    monkeypatch.setattr(report_job, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_run(tmp_path / "saved_models/cifar_r20", _records(500))
    (tmp_path / "saved_models/export/1").mkdir(parents=True)
    (tmp_path / "saved_models/figures").mkdir()
    (tmp_path / "saved_models/figures/old.svg").write_text("of runs that are there no more")
    return tmp_path


def test_the_readme_is_rewritten_between_its_marks(checkout, capsys):
    assert main(["--mode=report", "--format=readme"]) == 0
    changes = capsys.readouterr().out
    text = (checkout / "README.md").read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    (line,) = [line for line in text.splitlines() if "ResNet-20, error" in line]
    assert line.startswith("| table6 | ResNet-20, error (%) | 8.75 | 8.12 | -0.63 | measured")
    # 8.192 million images at 400 a second, and 16 tests of 3 s.
    assert " | 5.7 h; a CPU, 1 device; 0123456789 | " in line
    (head,) = re.findall(
        r" \| \[cifar_r20\]\(saved_models/cifar_r20/log.jsonl\) (\w{12}) \|$", line
    )
    # The other rows of the table, each with what it costs and its command: 44 layers have 97.2
    # million multiply-adds, 20 layers 40.6, so that 8.192 million images at 400 x 40.6 / 97.2 a
    # second take 13.6 hours.
    (other,) = [line for line in text.splitlines() if "ResNet-44, error" in line]
    assert other == (
        "| table6 | ResNet-44, error (%) | 7.17 | — | — | not run: 2.4e+15 multiply-adds, 14 h on "
        "a CPU, 1 device, 2.9 h on one GTX 1080 Ti |  | `--flagfile=configs/cifar_r44.flags` |"
    )
    # Those of a figure, in one line.
    (rest,) = [line for line in text.splitlines() if "`--experiment=fig1_fig6`" in line]
    assert rest == (
        "| ResNet paper, Fig. 1 and 6: CIFAR-10, plain against residual nets | 9 | 2.8e+16 | 159 h "
        "on a CPU, 1 device | 34 h on one GTX 1080 Ti | `--experiment=fig1_fig6` |"
    )
    # The curve is a file, which names the log it is of.
    (picture,) = re.findall(r"!\[.*\]\((saved_models/figures/fig1_fig6-curves-1\.svg)\)", text)
    assert f'aria-label="fig1_fig6 error (%) {head}"' in (checkout / picture).read_text()
    assert [file.name for file in (checkout / "saved_models/figures").iterdir()] == [
        "fig1_fig6-curves-1.svg"  # of the errors alone, and no figure that was there before
    ]
    assert "-old" in changes
    assert f"+{line}" in changes
    assert main(["--mode=report", "--format=readme"]) == 0
    assert capsys.readouterr().out.endswith("README.md is as its logs say.\n")


def test_smoke_runs_are_one_line_an_experiment_without_their_numbers(checkout, plans):
    """Fig. 1 and 6 have all three, Table 6, of which a row was measured, one each; no number.

    Of a run that was not tested, nobody knows that its test works.
    """
    records = [train(500), evaluated(500, 5_000)]
    write_run(checkout / "saved_models/r18", [train(2)], train_steps=2, model="resnet18")
    for name, model in (("plain32", "plain32"), ("r32", "resnet32"), ("r44", "resnet44")):
        place = checkout / f"saved_models/cifar_{name}"
        rate = 0.001 if name == "plain32" else 0.1
        write_run(
            place, records, train_steps=500, model=f"cifar_{model}", learning_rate=rate
        )  # fmt: skip
    text, _ = report_job.results_part(checkout, plans)
    flags = "--dataset=cifar10 --train_steps=500 --learning_rate=0.001"
    start = f"| fig1_fig6 | 3 | `{flags}` | "
    shown, folded = text.split("<details>")
    assert "cifar_plain32" not in shown
    (line,) = [x for x in folded.splitlines() if x.startswith(start)]
    assert re.findall(r"\(saved_models/cifar_(\w+)/log.jsonl\)", line) == ["plain32", "r32", "r44"]
    # They cost what they did before.
    (rest,) = [line for line in text.splitlines() if "`--experiment=fig1_fig6`" in line]
    assert "| 9 | 2.8e+16 |" in rest
    for depth, published in ((32, 7.51), (44, 7.17)):
        start = (
            f"| table6 | ResNet-{depth}, error (%) | {published} | — | — | smoke only: 500 of "
            "64,000 steps; a whole run: "
        )
        (line,) = [x for x in text.splitlines() if x.startswith(start)]
        assert f"| [cifar_r{depth}](saved_models/cifar_r{depth}/log.jsonl) " in line
        assert line.endswith(f" `--flagfile=configs/cifar_r{depth}.flags` |")
    assert "50.00" not in text
    assert "saved_models/r18" not in text
    # One fingerprint is of all of them.
    write_run(checkout / "saved_models/cifar_r44", [train(500, 0.1), records[1]],
              train_steps=500, model="cifar_resnet44")  # fmt: skip
    (changed,) = [
        x for x in report_job.results_part(checkout, plans)[0].splitlines()
        if x.startswith("| fig1_fig6 | 3 |")
    ]  # fmt: skip
    (before,) = [x for x in text.splitlines() if x.startswith("| fig1_fig6 | 3 |")]
    assert changed[:-15] == before[:-15]
    assert changed != before


def test_an_unfinished_run_shows_no_number_but_what_is_left(checkout, plans):
    write_run(
        checkout / "saved_models/cifar_r44", _records(500)[:-4], model="cifar_resnet44"
    )  # fmt: skip
    text, _ = report_job.results_part(checkout, plans)
    (line,) = [x for x in text.splitlines() if x.startswith("| table6 | ResNet-44")]
    assert "| 7.17 | — | — | unfinished: at step 56,000 of 64,000; a whole run: 2.4e+15 " in line
    assert line.endswith(" `--flagfile=configs/cifar_r44.flags` |")


def test_the_responses_of_whole_runs_are_a_figure(checkout, plans):
    """Of three nets, one not finished; one run's directory holds the responses of two."""
    for name, steps in (("plain20", 6_400), ("r20", 3_000)):
        model = name.replace("r20", "resnet20")
        place = checkout / f"saved_models/fig6_{name}"
        records = [train(steps), evaluated(steps, 1_000)]
        write_run(
            place, records, train_steps=6_400, lr_drops=[3_200, 4_800], model=f"cifar_{model}"
        )
        (place / "responses").mkdir()
        rows = ["run,step,layer,name,std,sorted_std"]
        rows += [f"fig6_{name},{steps},{layer},conv,0.{layer},0.{layer}" for layer in (1, 2)]
        rows += [f"fig6_r56,6400,{layer},conv,0.{layer},0.{layer}" for layer in (1, 2)]
        (place / "responses/responses.csv").write_text("\n".join(rows) + "\n")
    write_run(
        checkout / "saved_models/fig6_r56", [train(6_400), evaluated(6_400, 900)],
        train_steps=6_400, lr_drops=[3_200, 4_800], model="cifar_resnet56",
    )  # fmt: skip
    text, files = report_job.results_part(checkout, plans)
    names = re.findall(r"\(saved_models/figures/(fig7_short-\d\.svg)\)", text)
    assert names == ["fig7_short-1.svg", "fig7_short-2.svg"]  # in order, and by magnitude
    for name in names:
        assert b">plain-20<" in files[name]
        assert b">ResNet-56<" in files[name]
        assert b"ResNet-20" not in files[name]


def test_a_number_changed_by_hand_shows(checkout, plans):
    """In the log, so that its counts no longer fit; with them, so that the README is stale."""
    log = checkout / "saved_models/cifar_r20/log.jsonl"
    before = report_job.results_part(checkout, plans)
    *lines, last = log.read_text().splitlines()
    record = json.loads(last) | {"wrong": 700, "top1_error": 0.07}
    log.write_text("\n".join([*lines, json.dumps(record)]) + "\n")
    assert report_job.results_part(checkout, plans) != before
    first = json.loads(lines[0]) | {"loss": 0.9}
    log.write_text("\n".join([json.dumps(first), *lines[1:], last]) + "\n")
    assert report_job.results_part(checkout, plans) != before


def test_a_readme_without_marks_is_refused(checkout, capsys):
    (checkout / "README.md").write_text("no marks\n")
    assert main(["--mode=report", "--format=readme"]) == 2
    assert "has no lines '<!-- results: begin -->'" in capsys.readouterr().err


def test_a_real_run_is_reported(tmp_path, monkeypatch):
    done_here([*TINY, "--train_steps=20", "--log_every=5", "--evaluate_every=10",
               "--run_dir=runs/cifar_r20", "--export=false"], tmp_path)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for mode in ("evaluate", "responses"):
        assert main([f"--mode={mode}", "--run_dir=runs/cifar_r20"]) == 0
    assert main(["--mode=report"]) == 0
    text = (tmp_path / "report/report.md").read_text()
    last = json.loads((tmp_path / "runs/cifar_r20/log.jsonl").read_text().splitlines()[-1])
    (line,) = [x for x in text.splitlines() if x.startswith("| ResNet-20 | error (%)")]
    assert f"| {100 * last['top1_error']:.2f} | 8.75 | — | 1 |" in line
    assert "smoke only: on --dataset=digits (cifar10), 20 of 64,000 steps; deviations: " in line
    assert "--model=cifar_resnet8 (cifar_resnet20)" in line
    assert "test_center | 20 | 360 |" in text

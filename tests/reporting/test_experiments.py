"""The experiments against the published tables they answer."""

import pytest
from conftest import ROOT

from resnet_keras.reporting.experiments import (
    DEVIATES_FROM,
    EXPERIMENTS,
    STARTS_FROM,
    Row,
    answering_together,
    configuration,
    needed_runs,
)
from resnet_keras.reporting.paper import TABLES, VOC_CLASSES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_stands_in_its_published_table(name):
    experiment = EXPERIMENTS[name]
    if experiment.table:
        assert {row.name for row in experiment.rows} <= set(TABLES[experiment.table].rows)


@pytest.mark.parametrize("name", TABLES)
def test_every_published_row_has_a_value_for_each_column(name):
    table = TABLES[name]
    assert {len(values) for values in table.rows.values()} == {len(table.columns)}


def test_the_classes_of_voc_average_to_the_printed_means():
    # An error of copying a digit shows in the mean, which the paper prints to one decimal.
    for name in ("resnet_table10", "resnet_table11"):
        for mean, *classes in TABLES[name].rows.values():
            assert len(classes) == len(VOC_CLASSES) == 20
            assert abs(sum(classes) / 20 - mean) <= 0.05 + 1e-9


def test_all_residual_rows_of_the_paper_are_measured():
    for experiment, table in (("table3", "resnet_table3"), ("table6", "resnet_table6")):
        ours = {row.name for row in EXPERIMENTS[experiment].rows}
        assert {name for name in TABLES[table].rows if name.startswith("ResNet")} <= ours


def test_a_seed_is_part_of_a_name():
    assert configuration("r152_seed1") == ("r152", 1)
    assert configuration("cifar_r20") == ("cifar_r20", None)


def test_a_run_is_made_from_one_that_starts_without_it():
    for run in STARTS_FROM:
        chain = [run]
        while chain[-1] in STARTS_FROM:
            chain.append(STARTS_FROM[chain[-1]])
            assert len(chain) < 5, "it goes round"


def test_what_a_run_starts_from_is_trained_before_it_and_once():
    rows = [Row("jitter", ("vgg_d_jitter",)), Row("both", ("vgg_e", "vgg_d"))]
    assert needed_runs(rows) == ["vgg_a", "vgg_d", "vgg_d_384", "vgg_d_jitter", "vgg_e"]


def test_each_seed_is_trained_and_tested_by_itself():
    row = Row("a recipe", ("cifar_r20",), seeds=(0, 1, 2))
    runs = ["cifar_r20", "cifar_r20_seed1", "cifar_r20_seed2"]
    assert needed_runs([row]) == runs
    assert answering_together(row) == [(run,) for run in runs]
    assert answering_together(Row("together", ("r50", "r101"))) == [("r50", "r101")]


def test_what_deviates_is_not_the_papers_own():
    for ours, papers in DEVIATES_FROM.items():
        assert papers not in DEVIATES_FROM
        assert {ours, papers} <= {file.stem for file in (ROOT / "configs").glob("*.flags")}

"""The experiments against the published tables they answer."""

import pytest

from resnet_keras.reporting.experiments import (
    EXPERIMENTS,
    STARTS_FROM,
    Row,
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

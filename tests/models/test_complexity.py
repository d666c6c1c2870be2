"""Counts by arithmetic against the papers, other libraries and the golden file."""

import json

import pytest

from resnet_keras.models.architectures import ARCHITECTURES
from resnet_keras.models.complexity import stages, total


def test_golden_counts(shared):
    networks = json.loads((shared / "facts" / "golden.json").read_text())["networks"]
    assert len(networks) > 40
    for key, golden in networks.items():
        name, *options = key.split()
        counts = total(stages(name, **dict(option.split("=") for option in options)))
        assert counts.parameters == golden["trainable_params"], key
        assert counts.batchnorm_statistics == golden["batchnorm_statistics"], key
        assert counts.multiply_adds == golden["multiply_adds"], key
        if "multiply_adds_convolutions_only" in golden:
            convolutions = total(stages(name)[:-1]).multiply_adds
            assert convolutions == golden["multiply_adds_convolutions_only"], key


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        # torchvision's documentation of its model weights: num_params
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("resnet101", {}, 44_549_160),
        ("resnet152", {}, 60_192_808),
        ("vgg_a", {}, 132_863_336),
        ("vgg_b", {}, 133_047_848),
        ("vgg_d", {}, 138_357_544),
        ("vgg_e", {}, 143_667_240),
        # the lab report
        ("lab_vgg16", {}, 33_617_987),
        ("lab_resnet50", {}, 23_510_339),
    ],
)
def test_published_exact_parameters(name, options, parameters):
    assert total(stages(name, **options)).parameters == parameters


@pytest.mark.parametrize(
    ("name", "millions"),  # Table 6
    [
        ("cifar_resnet20", "0.27"),
        ("cifar_resnet32", "0.46"),
        ("cifar_resnet44", "0.66"),
        ("cifar_resnet56", "0.85"),
        ("cifar_resnet110", "1.7"),
        ("cifar_resnet1202", "19.4"),
        # VGG paper, Table 2
        ("vgg_a_lrn", "133"),
        ("vgg_c", "134"),
        ("vgg_d", "138"),
    ],
)
def test_published_rounded_parameters(name, millions):
    decimals = len(millions.partition(".")[2])
    assert f"{total(stages(name)).parameters / 1e6:.{decimals}f}" == millions


@pytest.mark.parametrize(
    ("name", "billions"),  # Table 1
    [
        ("resnet18", 1.8),
        ("resnet34", 3.6),
        ("resnet50", 3.8),
        ("resnet101", 7.6),
        ("resnet152", 11.3),
    ],
)
def test_published_multiply_adds(name, billions):
    # 3.663 and 3.858 are printed as 3.6 and 3.8: the paper cuts, so 0.1 is its precision.
    assert 0 <= total(stages(name)).multiply_adds / 1e9 - billions + 0.05 < 0.12


def test_the_34_layer_net_has_18_percent_of_vgg_19():
    ratio = total(stages("plain34")).multiply_adds / total(stages("vgg_e")).multiply_adds
    assert ratio == pytest.approx(0.18, abs=0.01)  # Sec. 3.3


def test_rows_are_those_of_table_1():
    rows = stages("resnet50")
    assert [row.stage for row in rows] == ["conv1", "conv2", "conv3", "conv4", "conv5", "head"]
    assert [row.output_size for row in rows] == [
        *((side, side) for side in (112, 56, 28, 14, 7)),
        (1, 1),
    ]
    assert [row.blocks for row in rows] == [0, 3, 4, 6, 3, 0]
    # conv1: 7x7x3x64 weights, 64 scales and 64 offsets; the head: 2048 x 1000 + 1000.
    assert rows[0].parameters == 7 * 7 * 3 * 64 + 128
    assert rows[-1].parameters == 2_049_000
    assert [row.output_size[0] for row in stages("vgg_a")] == [112, 56, 28, 14, 7, 1]
    assert [row.output_size[0] for row in stages("cifar_resnet20")] == [32, 32, 16, 8, 1]


def test_weighted_layers_are_counted_as_the_names_say():
    for name in ARCHITECTURES:
        digits = "".join(c for c in name.partition("_5x5")[0] if c.isdigit())
        if digits:
            assert total(stages(name)).layers == int(digits), name
    letters = {"vgg_a": 11, "vgg_b": 13, "vgg_c": 16, "vgg_d": 16, "vgg_e": 19, "vgg_b_5x5": 8}
    for name, layers in letters.items():  # VGG paper, Table 1
        assert total(stages(name)).layers == layers
    assert total(stages("resnet34", shortcut="C")).layers == 34


def test_options_change_what_they_say():
    default = total(stages("resnet50"))
    ten = total(stages("resnet50", classes=10))
    assert default.parameters - ten.parameters == 990 * 2049
    gray = total(stages("resnet50", input_channels=1))
    assert default.parameters - gray.parameters == 2 * 49 * 64
    # Twice the side: four times the convolutions' work, the same head.
    large = stages("resnet50", input_size=448)
    for row, double in zip(stages("resnet50")[:-1], large[:-1], strict=True):
        assert double.multiply_adds == 4 * row.multiply_adds
    assert stages("resnet18", input_size=(64, 96))[-2].output_size == (2, 3)
    # An odd side tells the two poolings apart: 225 -> 113 -> 56 or 57.
    assert stages("resnet18", input_size=225)[1].output_size == (56, 56)
    assert stages("resnet18", input_size=225, stem_pool="symmetric")[1].output_size == (57, 57)


def test_too_small_input_is_refused():
    with pytest.raises(ValueError, match=r"input_size=31.*at least 32"):
        stages("vgg_d", input_size=31)
    with pytest.raises(ValueError, match=r"input_channels=0"):
        stages("vgg_d", input_channels=0)

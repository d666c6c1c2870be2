"""Names, options and taps; checked without TensorFlow, as the flags are."""

import subprocess
import sys

import numpy as np
import pytest

from resnet_keras.models.architectures import ARCHITECTURES, architecture, feature_layers


def test_importing_the_tables_does_not_load_tensorflow():
    program = (
        "import sys, resnet_keras, resnet_keras.models\n"
        "import resnet_keras.models.architectures, resnet_keras.models.complexity\n"
        "from resnet_keras import ARCHITECTURES, architecture, feature_layers, __version__\n"
        "from resnet_keras.models import stages, total\n"
        "assert stages('resnet50') and ARCHITECTURES and 'build_model' in dir(resnet_keras)\n"
        "heavy = {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_resolves_and_others_do_not():
    import resnet_keras
    from resnet_keras import models

    for package in (resnet_keras, models):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = package.no_such_name
    assert resnet_keras.build_model is models.build_model


def test_table_1_of_the_resnet_paper():
    blocks = {
        "resnet18": ("basic", (2, 2, 2, 2)),
        "resnet34": ("basic", (3, 4, 6, 3)),
        "resnet50": ("bottleneck", (3, 4, 6, 3)),
        "resnet101": ("bottleneck", (3, 4, 23, 3)),
        "resnet152": ("bottleneck", (3, 8, 36, 3)),
    }
    for name, (block, numbers) in blocks.items():
        spec = architecture(name)
        assert (spec.block, spec.blocks, spec.shortcut) == (block, numbers, "B")
    assert architecture("plain34").shortcut is None
    assert architecture("cifar_resnet110").shortcut == "A"


@pytest.mark.parametrize(("depth", "n"), [(8, 1), (14, 2), (20, 3), (110, 18), (164, 27)])
def test_any_cifar_depth_of_6n_plus_2(depth, n):
    assert architecture(f"cifar_resnet{depth}").blocks == (n, n, n)
    plain = architecture(f"cifar_plain{depth}")
    assert (plain.blocks, plain.block, plain.shortcut) == ((n, n, n), "plain", None)


def test_options_change_the_row_and_none_does_not():
    assert architecture("resnet50", shortcut=None, classes=None) == ARCHITECTURES["resnet50"]
    spec = architecture("resnet50", shortcut="C", stride_on="3x3", classes=np.int64(7))
    assert (spec.shortcut, spec.stride_on, spec.classes) == ("C", "3x3", 7)
    assert ARCHITECTURES["resnet50"].shortcut == "B"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, "'resnet51'.*nearest name is 'resnet50'.*vgg_d.*6n"),
        ("vgg16", {}, "'vgg16'.*nearest name is 'lab_vgg16'.*vgg_d"),
        ("", {}, "Unknown network ''"),
        (None, {}, "Unknown network 'None'"),
        ("cifar_resnet2", {}, "6n \\+ 2"),
        ("cifar_resnet21", {}, "6n \\+ 2"),
        ("cifar_plain020", {}, "Unknown"),
        ("resnet50", {"classes": 0}, "classes=0.*at least 1"),
        ("resnet50", {"classes": 2.0}, "classes=2.0.*whole number"),
        ("resnet50", {"classes": True}, "classes=True"),
        ("resnet50", {"shortcut": "D"}, "shortcut='D'.*'A', 'B', 'C'"),
        ("plain34", {"shortcut": "A"}, "residual networks.*plain34"),
        ("vgg_d", {"shortcut": "B"}, "residual networks.*vgg_d"),
        ("resnet34", {"stride_on": "1x1"}, "bottleneck networks.*resnet34"),
        ("resnet50", {"stride_on": "5x5"}, "stride_on='5x5'.*'1x1', '3x3'"),
        ("cifar_resnet20", {"stem_pool": "ceil"}, "stem pools.*cifar_resnet20"),
        ("vgg_d", {"stem_pool": "ceil"}, "stem pools.*vgg_d"),
        ("resnet18", {"stem_pool": "same"}, "stem_pool='same'.*'ceil', 'symmetric'"),
        ("resnet18", {"initializer": "he"}, "initializer='he'.*'he_normal'"),
    ],
)
def test_errors_name_what_came_and_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        architecture(name, **options)


def test_feature_layers():
    assert feature_layers("resnet101") == {
        "c2": "conv2_block3_out",
        "c3": "conv3_block4_out",
        "c4": "conv4_block23_out",
        "c5": "conv5_block3_out",
    }
    assert list(feature_layers("cifar_plain20")) == ["c2", "c3", "c4"]
    assert feature_layers("vgg_d")["c5"] == "block5_conv3"
    assert feature_layers("lab_vgg16")["c2"] == "block2_conv2_relu"

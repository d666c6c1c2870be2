"""PyTorch's weights give PyTorch's answers; the authors' Caffe weights the authors' network's."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install '.[test]'")

import safetensors.torch  # noqa: E402
import torch_networks  # noqa: E402

from resnet_keras.errors import InputError  # noqa: E402
from resnet_keras.models import architecture, build_model, load_weights  # noqa: E402

TORCHVISION = {"stride_on": "3x3", "stem_pool": "symmetric"}


def load(file, name, *, input_shape=None, include_top=True, **options):
    """Build a network for logits, read the file into it, and return it with what is told."""
    model = build_model(
        name, input_shape=input_shape, include_top=include_top, classifier_activation=None,
        **options,
    )  # fmt: skip
    return model, load_weights(model, architecture(name, **options), file)


def images(*shape):
    return np.random.default_rng(1).normal(0, 1, shape).astype("float32")


def assert_same_answer(model, network, x, theirs=None):
    want = torch_networks.logits(network, x if theirs is None else theirs)
    got = np.asarray(model(x))
    assert np.std(want) > 0
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("depth", [18, 50, pytest.param(152, marks=pytest.mark.slow)])
def test_torchvision_resnet(tmp_path, depth):
    network = torch_networks.randomised(torch_networks.ResNet(depth))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    options = TORCHVISION if depth >= 50 else {"stem_pool": "symmetric"}
    model, told = load(
        tmp_path / "weights.pth", f"resnet{depth}", input_shape=(64, 96, 3), **options
    )
    assert "--channel_mean=0.485,0.456,0.406 --channel_std=0.229,0.224,0.225" in told
    assert_same_answer(model, network, images(2, 64, 96, 3))


def test_torchvision_vgg16(tmp_path):
    """More than one pixel is flattened, so that the order of the features counts."""
    network = torch_networks.randomised(torch_networks.VGG(64, 96))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    model, _ = load(tmp_path / "weights.safetensors", "vgg_d", input_shape=(64, 96, 3))
    assert_same_answer(model, network, images(2, 64, 96, 3))


def test_torchvision_vgg16_with_batch_norm(tmp_path):
    network = torch_networks.randomised(torch_networks.VGG(32, 32, classes=3, batch_norm=True))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    model, _ = load(tmp_path / "weights.pt", "lab_vgg16")
    assert_same_answer(model, network, images(2, 32, 32, 3))


@pytest.fixture(scope="module")
def resnet18():
    return torch_networks.randomised(torch_networks.ResNet(18, classes=7))


SMALL = {"input_shape": (32, 32, 3), "stem_pool": "symmetric", "classes": 7}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"epoch": 3, "arch": "resnet18", "state_dict": state, "optimizer": {}},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model._orig_mod.{n}": v for n, v in state.items()}},
    ],
)
def test_what_training_scripts_wrap_around_is_taken_off(tmp_path, resnet18, wrapped):
    torch.save(wrapped(dict(resnet18.state_dict())), tmp_path / "weights.pth")
    model, _ = load(tmp_path / "weights.pth", "resnet18", **SMALL)
    assert_same_answer(model, resnet18, images(2, 32, 32, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_are_widened(tmp_path, resnet18, dtype):
    halved = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in resnet18.state_dict().items()
    }
    torch.save(halved, tmp_path / "weights.pth")
    safetensors.torch.save_file(halved, tmp_path / "weights.safetensors")
    for file in tmp_path.iterdir():
        model, _ = load(file, "resnet18", **SMALL)
        kernel = model.get_layer("conv1_conv").kernel.numpy().transpose(3, 2, 0, 1)
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel, halved["conv1.weight"].float().numpy())


def test_another_number_of_classes_leaves_the_classifier_fresh(tmp_path, resnet18):
    torch.save(resnet18.state_dict(), tmp_path / "weights.pth")
    other = SMALL | {"classes": 5}
    model = build_model("resnet18", classifier_activation=None, **other)
    fresh = model.get_layer("predictions").get_weights()
    spec = architecture("resnet18", stem_pool="symmetric", classes=5)
    told = load_weights(model, spec, tmp_path / "weights.pth")
    assert "7 classes" in told
    assert "5 starts afresh" in told
    for before, after in zip(fresh, model.get_layer("predictions").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    pooled = model.get_layer("avg_pool").output
    import keras

    features = keras.Model(model.input, pooled)(images(2, 32, 32, 3))
    want = torch_networks.logits(resnet18, images(2, 32, 32, 3))
    fc = resnet18.state_dict()
    got = np.asarray(features) @ fc["fc.weight"].numpy().T + fc["fc.bias"].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    with pytest.raises(InputError, match="no classifier for 5 classes"):
        load_weights(model, spec, tmp_path / "weights.pth", need_classifier=True)


def test_a_body_takes_no_classifier(tmp_path, resnet18):
    torch.save(resnet18.state_dict(), tmp_path / "weights.pth")
    _, told = load(tmp_path / "weights.pth", "resnet18", include_top=False, stem_pool="symmetric")
    assert "classifier is left out" in told


@pytest.mark.parametrize("caffe", [False, True], ids=["torchvision", "caffe"])
def test_a_vgg_body_takes_no_classifier(tmp_path, caffe):
    network = torch_networks.randomised(torch_networks.VGG(32, 32, classes=10))
    if caffe:
        np.savez(tmp_path / "weights.npz", **caffe_vgg_arrays(network))
    else:
        torch.save(network.state_dict(), tmp_path / "weights.pth")
    (file,) = tmp_path.iterdir()
    model, told = load(file, "vgg_d", include_top=False)
    assert "classifier is left out" in told
    x = images(2, 64, 96, 3)
    features = np.transpose(model(x), (0, 3, 1, 2))
    want = torch_networks.logits(network.features, x[..., ::-1] if caffe else x)
    assert want.shape == features.shape == (2, 512, 2, 3)
    np.testing.assert_allclose(features, want, atol=1e-4 * np.abs(want).max())


def test_a_file_without_classifier_is_a_body(tmp_path, resnet18):
    body = {n: v for n, v in resnet18.state_dict().items() if not n.startswith("fc.")}
    torch.save(body, tmp_path / "weights.pth")
    _, told = load(tmp_path / "weights.pth", "resnet18", **SMALL)
    assert "no classifier" in told


@pytest.fixture(scope="module")
def resnet50_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("resnet50") / "weights.pth"
    torch.save(torch_networks.ResNet(50).state_dict(), file)
    return file


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("resnet50", {}, "give --stride_on=3x3 --stem_pool=symmetric"),
        ("resnet50", {"stride_on": "3x3"}, "give --stem_pool=symmetric"),
        ("resnet50", {**TORCHVISION, "shortcut": "A"}, "give --shortcut=B"),
        ("resnet50", {**TORCHVISION, "shortcut": "C"}, "give --shortcut=B"),
        ("resnet101", TORCHVISION, "give --model=resnet50"),
        ("resnet18", {}, "give --model=resnet50"),
        ("vgg_d", {}, "give --model=resnet50"),
    ],
)
def test_a_network_that_contradicts_the_format_is_told_the_flag(resnet50_file, name, options, told):
    with pytest.raises(InputError) as caught:
        load(resnet50_file, name, input_shape=(32, 32, 3), **options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_nets_take_no_residual_weights(tmp_path):
    torch.save(torch_networks.ResNet(18).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="--model=resnet18"):
        load(tmp_path / "weights.pth", "plain18", stem_pool="symmetric")


def test_lrn_is_not_torchvisions(tmp_path):
    torch.save(torch_networks.VGG(32, 32).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="--model=vgg_a"):
        load(tmp_path / "weights.pth", "vgg_a_lrn", input_shape=(32, 32, 3))


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "hook": Code()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="could run any code") as caught:
        load(tmp_path / "weights.pth", "resnet18", **SMALL)
    assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_a_whole_pickled_network_is_refused(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"save model\.state_dict\(\)"):
        load(tmp_path / "weights.pth", "resnet18", **SMALL)


def test_a_truncated_file_costs_one_sentence(tmp_path, resnet18):
    file = tmp_path / "weights.pth"
    torch.save(resnet18.state_dict(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read as weights") as caught:
        load(file, "resnet18", **SMALL)
    assert "\n" not in str(caught.value)


def caffe_arrays(network, separator, factor=3.0):
    """Write a network's state as Caffe's blobs: BatchNorm with its sums' factor, then Scale."""
    arrays = {}

    def put(layer, *blobs):
        for index, blob in enumerate(blobs):
            arrays[f"{layer}{separator}{index}"] = blob

    def norm(layer, scale, prefix):
        put(layer, state[f"{prefix}.running_mean"] * factor,
            state[f"{prefix}.running_var"] * factor, np.array([factor], np.float32))  # fmt: skip
        put(scale, state[f"{prefix}.weight"], state[f"{prefix}.bias"])

    state = {name: value.numpy() for name, value in network.state_dict().items()}
    put("conv1", state["conv1.weight"], state["conv1.bias"])
    norm("bn_conv1", "scale_conv1", "bn1")
    many = torch_networks.BLOCKS[152] if "layer3.35.conv1.weight" in state else None
    for name in state:
        stage, _, rest = name.removeprefix("layer").partition(".")
        if not name.startswith("layer") or not name.endswith(("0.weight", "conv1.weight")):
            continue
        block = int(rest.partition(".")[0])
        # Networks of up to 50 layers: a, b, c; the deep stages of 101 and 152 layers: a, b1, b2.
        letters = not many or stage in "14"
        called = chr(ord("a") + block) if letters else ("a" if not block else f"b{block}")
        called = f"{int(stage) + 1}{called}_branch"
        theirs = f"layer{stage}.{block}"
        if "downsample" in name:
            put(f"res{called}1", state[f"{theirs}.downsample.0.weight"])
            norm(f"bn{called}1", f"scale{called}1", f"{theirs}.downsample.1")
        else:
            for i, letter in enumerate("abc", start=1):
                put(f"res{called}2{letter}", state[f"{theirs}.conv{i}.weight"])
                norm(f"bn{called}2{letter}", f"scale{called}2{letter}", f"{theirs}.bn{i}")
    put("fc1000", state["fc.weight"], state["fc.bias"])
    return arrays


@pytest.mark.parametrize(
    ("depth", "separator"),
    [
        (50, "/"),
        pytest.param(50, "_", marks=pytest.mark.slow),
        pytest.param(152, "/", marks=pytest.mark.slow),
    ],
)
def test_the_authors_caffe_release(tmp_path, depth, separator):
    """Its network takes blue, green, red, pools without padding and strides on the first 1x1."""
    network = torch_networks.randomised(torch_networks.ResNet(depth, caffe=True))
    np.savez(tmp_path / "weights.npz", **caffe_arrays(network, separator))
    model, told = load(tmp_path / "weights.npz", f"resnet{depth}", input_shape=(64, 96, 3))
    assert "Caffe" in told
    x = images(2, 64, 96, 3)
    assert_same_answer(model, network, x, x[..., ::-1])
    with pytest.raises(InputError, match="--stride_on=1x1 --stem_pool=ceil"):
        load(tmp_path / "weights.npz", f"resnet{depth}", input_shape=(64, 96, 3), **TORCHVISION)


def caffe_vgg_arrays(network):
    """Early Caffe keeps four axes, whatever a blob holds."""
    arrays = {}
    convolutions = [layer for layer in network.features if hasattr(layer, "weight")]
    names = [f"conv{g}_{i}" for g, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    for name, layer in zip(names, convolutions, strict=True):
        arrays[f"{name}/0"] = layer.weight.detach().numpy()
        arrays[f"{name}/1"] = layer.bias.detach().numpy()[None, None, None]
    for name, index in (("fc6", 0), ("fc7", 3), ("fc8", 6)):
        arrays[f"{name}/0"] = network.classifier[index].weight.detach().numpy()[None, None]
        arrays[f"{name}/1"] = network.classifier[index].bias.detach().numpy()[None, None, None]
    return arrays


def test_the_vgg_authors_caffe_release(tmp_path):
    network = torch_networks.randomised(torch_networks.VGG(64, 96))
    np.savez(tmp_path / "weights.npz", **caffe_vgg_arrays(network))
    model, _ = load(tmp_path / "weights.npz", "vgg_d", input_shape=(64, 96, 3))
    x = images(2, 64, 96, 3)
    assert_same_answer(model, network, x, x[..., ::-1])

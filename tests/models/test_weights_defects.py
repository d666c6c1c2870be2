"""What is wrong with a file of weights is told whole, in one sentence, and changes nothing."""

import builtins
import re

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from resnet_keras.errors import InputError
from resnet_keras.models import architecture, build_model, load_weights
from resnet_keras.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def model():
    return build_model("cifar_resnet8")


def arrays_of(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def refusal(model, file) -> str:
    """Return the sentence that a file costs; the model must be as before."""
    before = model.get_weights()
    with pytest.raises(InputError) as caught:
        load_weights(model, architecture("cifar_resnet8"), file)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    assert str(file) in told
    return told


def test_all_that_does_not_fit_is_told_at_once(tmp_path, model):
    arrays = arrays_of(model)
    del arrays["conv2_block1_1_bn/beta"]
    arrays["conv2_block1_1_bn/momentum"] = np.ones(3, np.float32)
    arrays["stray"] = np.ones(3, np.float32)
    arrays["conv1_conv/kernel"] = np.ones((3, 3, 3, 8), np.float32)
    arrays["conv1_bn/gamma"] = np.ones(16, np.int8)
    arrays["conv1_bn/beta"] = np.full(16, np.nan, np.float32)
    np.savez(tmp_path / "weights.npz", **arrays)
    told = refusal(model, tmp_path / "weights.npz")
    for part in (
        "1 missing (conv2_block1_1_bn/beta)",
        "2 unexpected (conv2_block1_1_bn/momentum, stray)",
        "conv1_conv/kernel (3, 3, 3, 8) instead of (3, 3, 3, 16)",
        "conv1_bn/gamma int8 instead of float32",
        "1 not finite (conv1_bn/beta)",
    ):
        assert part in told


def test_long_lists_are_cut_with_their_count(tmp_path, model):
    arrays = {name: value for name, value in arrays_of(model).items() if "_bn" not in name}
    np.savez(tmp_path / "weights.npz", **arrays)
    told = refusal(model, tmp_path / "weights.npz")
    assert "28 missing (" in told
    assert "and 18 more)" in told


def test_two_names_for_one_weight_are_refused(tmp_path, model):
    shapes = {"layer1.0.conv1.weight": (16, 16, 3, 3), "fc.weight": (10, 64),
              "linear.weight": (10, 64)}  # fmt: skip
    save_file({n: np.ones(s, np.float32) for n, s in shapes.items()}, tmp_path / "a.safetensors")
    assert "fc.weight and linear.weight" in refusal(model, tmp_path / "a.safetensors")


def test_foreign_names_are_shown(tmp_path, model):
    np.savez(tmp_path / "weights.npz", w1=np.ones(3), w2=np.ones(3))
    assert "named w1, w2" in refusal(model, tmp_path / "weights.npz")


@pytest.mark.parametrize(
    "name", ["a.npz", "a.safetensors", "a.h5", "a.weights.h5", "a.keras", "a.pth", "a.txt"]
)
@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"hello, world, this is text", b"\x89HDF\r\n"])
def test_a_file_of_another_kind(tmp_path, model, name, content):
    if name == "a.pth":
        pytest.importorskip("torch", reason="needs PyTorch: pip install '.[test]'")
    (tmp_path / name).write_bytes(content)
    told = refusal(model, tmp_path / name)
    assert re.search("no file of weights|cannot be read as weights|beside its weights", told)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["npz", "safetensors", "weights.h5", "keras"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_truncated_file(tmp_path, model, kind, share):
    file = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(file, **arrays_of(model))
    elif kind == "safetensors":
        save_file(arrays_of(model), file)
    elif kind == "keras":
        model.save(file)
    else:
        model.save_weights(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be read as weights" in refusal(model, file)


def test_a_damaged_checkpoint(tmp_path, model):
    Checkpoints(tmp_path, model, {}, {}).save(3)
    (data,) = tmp_path.glob("ckpt-3.data*")
    data.write_bytes(data.read_bytes()[:1000])
    assert "cannot be read as weights" in refusal(model, tmp_path / "ckpt-3")


def test_a_directory_without_checkpoint_and_a_missing_file(tmp_path, model):
    assert "without a checkpoint" in refusal(model, tmp_path)
    assert "There is no" in refusal(model, tmp_path / "nothing.npz")


def test_pickled_arrays_are_refused(tmp_path, model):
    np.savez(tmp_path / "a.npz", **{"conv1_conv/kernel": np.array([{}, []], dtype=object)})
    assert "cannot be read as weights" in refusal(model, tmp_path / "a.npz")


def test_hdf5_that_keras_did_not_write(tmp_path, model):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.ones(3)
    assert "no weights of Keras" in refusal(model, tmp_path / "a.h5")


def test_pytorchs_files_need_pytorch(tmp_path, model, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name == "torch":
            raise ImportError(name)
        return real(name, *arguments, **options)

    (tmp_path / "a.pth").write_bytes(b"\x80\x02")
    monkeypatch.setattr(builtins, "__import__", without_torch)
    told = refusal(model, tmp_path / "a.pth")
    assert "install torch" in told

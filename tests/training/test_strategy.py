import pytest
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.training.strategy import check_batch_size, make_strategy


def test_auto_is_one_device_without_gpus():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert make_strategy("auto").num_replicas_in_sync == 1


def test_mirrored_takes_every_device(cpus):
    assert make_strategy("mirrored").num_replicas_in_sync == len(cpus)


def test_a_batch_that_does_not_divide_names_the_next_sizes(cpus):
    strategy = make_strategy("mirrored")
    check_batch_size(strategy, 8, "batch_size")
    with pytest.raises(InputError, match=r"--batch_size=6 .* 4 devices: give 4 or 8"):
        check_batch_size(strategy, 6, "batch_size")
    with pytest.raises(InputError, match=r"give 4\."):
        check_batch_size(strategy, 3, "batch_size")

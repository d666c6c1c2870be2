import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.training.strategy import (
    check_batch_size,
    choose_precision,
    make_strategy,
    peak_memory,
)


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
    check_batch_size(strategy, 24, "batch_size", 3)
    with pytest.raises(InputError, match=r"among 4 devices with 3 parts each: give 12 or 24\."):
        check_batch_size(strategy, 16, "batch_size", 3)


def test_auto_precision_is_bfloat16_where_the_cpu_has_its_instructions(monkeypatch):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    grep = ["grep", "-qwE", "avx512_bf16|amx_bf16|bf16", "/proc/cpuinfo"]
    here = subprocess.run(grep, check=False).returncode == 0
    assert choose_precision("auto") == ("bfloat16" if here else "float32")
    # The other kind of CPU, by what Linux calls its features.
    features = ["avx2"] if here else ["avx2", "amx_bf16"]
    monkeypatch.setattr("resnet_keras.training.strategy.instructions", lambda: features)
    assert choose_precision("auto") == ("float32" if here else "bfloat16")
    assert choose_precision("float16") == "float16"


def test_peak_memory_counts_what_was_given_back():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU, whose memory is told")
    if not Path("/proc/self/statm").is_file():
        pytest.skip("only Linux tells what a process holds now")
    page = os.sysconf("SC_PAGE_SIZE")
    held = page * int(Path("/proc/self/statm").read_text().split()[1])
    block = np.ones(2**28, np.uint8)  # a quarter of a GiB
    del block
    machine = page * os.sysconf("SC_PHYS_PAGES")
    assert held + 2**28 * 0.99 < peak_memory() < machine

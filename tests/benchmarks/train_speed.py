"""Sections of bench_train.py: images a second beside the peers."""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import whole_job
from turns import Contender, Target, Turns, environment, summary, surroundings, take_turns

from resnet_keras.models import complexity

# Forward pass, and two of its size backward: for the inputs and for the weights. The gradient of
# the images is counted, too, though nobody computes it (1 % of resnet50); a multiply-add is two.
FLOPS_PER_MULTIPLY_ADD = 2 * 3
# Keras as it comes: where a CPU lacks AVX-512, TensorFlow's faster convolutions are off.
AS_INSTALLED = {"keras_fit_as_installed": {"TF_ENABLE_ONEDNN_OPTS": None}}
TRAINING = f"{FLOPS_PER_MULTIPLY_ADD} x multiply-adds of resnet_keras.models.complexity"


def resnet50(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare steps of ResNet-50 at 224 in float32, on a batch in memory."""
    shape = ["--network=resnet50", f"--batch_size={batch_size}"]
    contenders = {
        "ours": ["steps_ours.py", *shape],
        "keras_fit": ["peers_keras.py", *shape],
        "keras_fit_as_installed": ["peers_keras.py", *shape],
        "torch": ["peers_torch.py", *shape],
    }
    targets = [
        Target("ours", "keras_fit", 1.30),
        Target("ours", "keras_fit_as_installed", 1.30),
        Target("ours", "torch", 1.10),
        Target("ours_gflops", "matmul_gflops", 0.80),
    ]
    return _steps_and_product(contenders, targets, "float32", 4096, turns, steps, batch_size)


def resnet50_bfloat16(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare steps of ResNet-50 at 224 in mixed bfloat16; Keras stays in float32."""
    shape = ["--network=resnet50", f"--batch_size={batch_size}"]
    contenders = {
        "ours": ["steps_ours.py", *shape, "--precision=bfloat16"],
        "keras_fit_float32": ["peers_keras.py", *shape],
        "torch": ["peers_torch.py", *shape, "--precision=bfloat16"],
    }
    targets = [
        Target("ours", "torch", 0.97),
        Target("ours", "keras_fit_float32", 2.2),
        Target("ours_gflops", "matmul_gflops", 0.75),
    ]
    size = 4096 if environment()["hardware_bfloat16"] else 1024
    return _steps_and_product(contenders, targets, "bfloat16", size, turns, steps, batch_size)


def _steps_and_product(
    commands: dict[str, list[str]],
    targets: list[Target],
    precision: str,
    size: int,
    turns: int,
    steps: int,
    batch_size: int,
) -> dict[str, Any]:
    flops = FLOPS_PER_MULTIPLY_ADD * complexity.total(complexity.stages("resnet50")).multiply_adds
    product = ["matrix_products.py", f"--size={size}", f"--precision={precision}"]
    with contextlib.ExitStack() as stack:
        started = _started(stack, {**commands, "matmul_gflops": product})

        def images_per_second(name: str) -> float:
            return steps * batch_size / started[name].run(steps)

        def gflops() -> float:
            return 10 * 2e-9 * size**3 / started["matmul_gflops"].run(10)

        measures = {name: lambda name=name: images_per_second(name) for name in commands}
        rates = take_turns({**measures, "matmul_gflops": gflops}, turns)
    rates["ours_gflops"] = [rate * flops * 1e-9 for rate in rates["ours"]]
    return summary(
        rates,
        targets,
        unit="images/s; GFLOP/s where it says so",
        precision=precision,
        hardware_bfloat16=environment()["hardware_bfloat16"],
        batch_size=batch_size,
        image_size=224,
        steps_a_turn=steps,
        matrix_size=size,
        training_flops=f"{flops:,} an image: {TRAINING}",
    )


def cifar20(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the whole training of ResNet-20 on CIFAR-10 in float32, input included."""
    targets = [
        Target("ours", "torch", 1.15),
        Target("ours", "keras_fit", 1.4),
        Target("ours", "keras_fit_as_installed", 1.4),
    ]
    return _cifar20("float32", targets, turns, steps, batch_size)


def cifar20_bfloat16(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the whole training of ResNet-20 on CIFAR-10 in mixed bfloat16."""
    return _cifar20("bfloat16", [Target("ours", "torch", 0.97)], turns, steps, batch_size)


def _cifar20(
    precision: str, targets: list[Target], turns: int, steps: int, batch_size: int
) -> dict[str, Any]:
    window = max(steps // 2, 1)
    flags = whole_job.cifar_flags(steps=3 * window, log_every=window, precision=precision)
    flags.append(f"--batch_size={batch_size}")
    waits: list[float] = []

    def ours() -> float:
        done = whole_job.run(flags)
        waits.append(done.input_wait)
        return done.images_per_second

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        images = decoded_cifar(Path(folder) / "train.npz")
        shape = ["--network=cifar_resnet20", f"--batch_size={batch_size}", f"--images={images}"]
        torch = ["peers_torch.py", *shape, f"--precision={precision}"]
        commands = {
            "torch_no_workers": [*torch, "--workers=0"],
            "torch_2_workers": [*torch, "--workers=2"],
            "torch_channels_first": [*torch, "--channels_first"],
        }
        if precision == "float32":
            commands["keras_fit"] = ["peers_keras.py", *shape]
            commands["keras_fit_as_installed"] = ["peers_keras.py", *shape]
        peers = _started(stack, commands)
        measures = {
            name: lambda peer=peer: steps * batch_size / peer.run(steps)
            for name, peer in peers.items()
        }
        rates = take_turns({"ours": ours, **measures}, turns)
    best = _best(rates, *(name for name in commands if name.startswith("torch")))
    rates["torch"] = rates[best]
    rates["input_wait"] = waits
    return summary(
        rates,
        targets,
        unit="images/s; input_wait is our share of the time spent waiting for input",
        precision=precision,
        hardware_bfloat16=environment()["hardware_bfloat16"],
        batch_size=batch_size,
        steps_a_turn=2 * window,
        best_torch=best,
    )


def _started(stack: contextlib.ExitStack, commands: dict[str, list[str]]) -> dict[str, Contender]:
    """Start the contenders; the stack ends them."""
    return {
        name: stack.enter_context(
            contextlib.closing(Contender(*command, environment=AS_INSTALLED.get(name)))
        )
        for name, command in commands.items()
    }


def _best(rates: Turns, *names: str) -> str:
    return max(names, key=lambda name: sorted(rates[name])[len(rates[name]) // 2])


def decoded_cifar(file: Path) -> Path:
    """Write the training images and labels of CIFAR-10 as arrays."""
    program = (
        "import sys, numpy as np, pipelines;"
        "train = pipelines.open_source('cifar10', data_dir=sys.argv[1]).splits['train'];"
        "np.savez(sys.argv[2], images=train.images, labels=train.labels)"
    )
    command = [sys.executable, "-c", program, str(whole_job.SHARED / "tfds"), str(file)]
    subprocess.run(command, env=surroundings(), check=True, stderr=subprocess.DEVNULL)
    return file

"""The networks and training loops of a PyTorch user, as a contender of bench_train.py.

Eager PyTorch, channels last unless asked otherwise, fused SGD. The arithmetic is that of the
papers' networks, to the multiply-add: ResNet-50 with the stride on the first 1x1 convolution
(torchvision has it on the 3x3, which costs 6 % more), CIFAR ResNets with parameter-free
shortcuts. bfloat16 is `torch.autocast`.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from turns import serve


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; option A: subsample, and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + x, inplace=True)


def resnet50(classes: int = 1000) -> nn.Module:
    layers: list[nn.Module] = [
        conv(3, 64, 7, 2),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = 4 * width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def cifar_resnet20(classes: int = 10) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    channels = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(BasicBlock(channels, width, 2 if width > channels else 1))
            channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": resnet50,
    "cifar_resnet20": cifar_resnet20,
}


class Cifar(Dataset):
    """Decoded images, padded by 4 and cropped, flipped, with the per-pixel mean subtracted."""

    def __init__(self, file: Path) -> None:
        stored = np.load(file)
        self._images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(stored["labels"]).long()
        self._mean = self._images.float().mean(0)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = F.pad(self._images[index].float() - self._mean, (4, 4, 4, 4))
        y, x, mirrored = (int(torch.randint(high, ())) for high in (9, 9, 2))
        image = image[:, y : y + 32, x : x + 32]
        return (image.flip(2) if mirrored else image), self._labels[index]


def epochs(file: Path, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        Cifar(file),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet50")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--images", type=Path, help="decoded CIFAR-10; none: one batch in memory")
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    parser.add_argument("--channels_first", action="store_true")
    options = parser.parse_args()

    torch.manual_seed(0)
    layout = torch.contiguous_format if options.channels_first else torch.channels_last
    model = NETWORKS[options.network]().train()
    model.to(memory_format=layout)  # type: ignore[call-overload]  # missing in PyTorch's types
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )
    batches: Iterator[tuple[Tensor, Tensor]]
    if options.images:
        batches = epochs(options.images, options.batch_size, options.workers)
    else:
        images = torch.randn(options.batch_size, 3, options.image_size, options.image_size)
        labels = torch.randint(1000, (options.batch_size,))
        batches = itertools.repeat((images.to(memory_format=layout), labels))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16")
    loss_sum, right = torch.zeros(()), torch.zeros((), dtype=torch.long)

    def step() -> None:
        images, labels = next(batches)
        images = images.to(memory_format=layout)
        with autocast:
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum.add_(loss.detach())
        right.add_((logits.detach().argmax(1) == labels).sum())

    def run(steps: int) -> float:
        step()  # a process that has slept is cold
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - start

    run(1)
    serve(run)


if __name__ == "__main__":
    main()

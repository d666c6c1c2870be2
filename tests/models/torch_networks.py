"""ResNet and VGG as PyTorch users write them, with torchvision's names; random in every number."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}
# Output channels of VGG-16's convolutions; M is a pooling.
VGG16 = (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M")


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1; `early` puts the stride on the first 1x1."""

    def __init__(self, inputs: int, width: int, stride: int, deep: bool, early: bool) -> None:
        super().__init__()
        outputs = 4 * width if deep else width
        kernels = (1, 3, 1) if deep else (3, 3)
        strided = 0 if early or not deep else 1
        channels = [inputs, *[width] * (len(kernels) - 1), outputs]
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(
                channels[i], channels[i + 1], kernel, stride if i == strided else 1,
                padding=kernel // 2, bias=False,
            )  # fmt: skip
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.depth = len(kernels)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """torchvision's; `caffe` makes it the authors' own: early stride, ceil pooling, conv1 bias."""

    def __init__(self, depth: int, classes: int = 1000, caffe: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=caffe)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 0 if caffe else 1, ceil_mode=caffe)
        channels, deep = 64, depth >= 50
        for stage, blocks in enumerate(BLOCKS[depth]):
            rows = []
            for i in range(blocks):
                width = 64 * 2**stage
                rows.append(Block(channels, width, 2 if stage and not i else 1, deep, caffe))
                channels = 4 * width if deep else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*rows))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    """torchvision's VGG-16, with or without batch norm, for images of (height, width)."""

    def __init__(
        self, height: int, width: int, classes: int = 1000, batch_norm: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for item in VGG16:
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers.append(nn.Conv2d(channels, int(item), 3, padding=1))
            layers += [nn.BatchNorm2d(int(item))] if batch_norm else []
            layers.append(nn.ReLU())
            channels = int(item)
        self.features = nn.Sequential(*layers)
        features = 512 * (height // 32) * (width // 32)
        self.classifier = nn.Sequential(
            nn.Linear(features, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every scale, offset, bias and statistic a value of its own; ready to infer."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            bound = (6 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-bound, bound, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            tensor.uniform_(-0.3, 0.3, generator=generator)
        elif name.endswith("weight"):
            tensor.uniform_(0.3, 0.7, generator=generator)
    return network.eval()


def logits(network: nn.Module, images):
    """Return the answer to NumPy images [N, H, W, C]."""
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

"""PyTorch's inference of the same ResNet-50, eager and channels last: of bench_serve.py.

With --onnx it writes that network as an ONNX file for the other contenders instead.
"""

import argparse
from pathlib import Path

import torch
from peers_torch import resnet50
from torch import nn
from turns import serve_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--onnx", type=Path, help="write this file, and be done")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(resnet50(), nn.Softmax(1)).eval()
    images = torch.randn(arguments.batch_size, 3, 224, 224)
    if arguments.onnx:
        torch.onnx.export(
            model, (images,), str(arguments.onnx), input_names=["images"], dynamo=False
        )
        return
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in peers_torch
    images = images.to(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16")
    with torch.inference_mode(), autocast:
        serve_each(lambda: model(images))


if __name__ == "__main__":
    main()

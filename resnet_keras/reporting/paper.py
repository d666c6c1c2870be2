"""What the papers published, as data: every table that is reproduced or compared with.

Standard library only. Values are printed ones, in the unit of their column; None is a dash or an
empty cell. No code writes here: what is measured comes from logs.
"""

from __future__ import annotations

from dataclasses import dataclass

RESNET = "He et al. 2015, arXiv:1512.03385"
VGG = "Simonyan and Zisserman 2014, arXiv:1409.1556"
RELEASE = "the authors' release, github.com/KaimingHe/deep-residual-networks"
LAB = "lab report: VGG-16 and ResNet-50 on three classes of CIFAR-10"


@dataclass(frozen=True)
class Table:
    """Hold one published table: a row's name -> its values, in the order of ``columns``."""

    source: str
    number: str  # "Table 6"
    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]

    def value(self, row: str, column: str) -> float | None:
        """Return one cell; raises KeyError or ValueError where there is none."""
        return self.rows[row][self.columns.index(column)]


TOP1, TOP5 = "top-1 error (%)", "top-5 error (%)"
WARMUP = "iterations to 80 % training error"
VALIDATION, TEST = "val", "test"
VOC_CLASSES = (
    "aero bike bird boat bottle bus car cat chair cow table dog horse mbike person plant sheep "
    "sofa train tv"
).split()

TABLES: dict[str, Table] = {
    "resnet_table1": Table(
        RESNET, "Table 1", "Architectures for ImageNet",
        ("multiply-adds (1e9)",),
        {
            "ResNet-18": (1.8,), "ResNet-34": (3.6,), "ResNet-50": (3.8,), "ResNet-101": (7.6,),
            "ResNet-152": (11.3,),
        },
    ),
    "resnet_table2": Table(
        RESNET, "Table 2", "ImageNet validation, 10-crop, shortcuts A", (TOP1,),
        {
            "plain-18": (27.94,), "ResNet-18": (27.88,),
            "plain-34": (28.54,), "ResNet-34": (25.03,),
        },
    ),
    "resnet_table3": Table(
        RESNET, "Table 3", "ImageNet validation, 10-crop", (TOP1, TOP5),
        {
            "VGG-16": (28.07, 9.33), "GoogLeNet": (None, 9.15), "PReLU-net": (24.27, 7.38),
            "plain-34": (28.54, 10.02), "ResNet-34 A": (25.03, 7.76), "ResNet-34 B": (24.52, 7.46),
            "ResNet-34 C": (24.19, 7.40), "ResNet-50": (22.85, 6.71), "ResNet-101": (21.75, 6.05),
            "ResNet-152": (21.43, 5.71),
        },
    ),
    "resnet_table4": Table(
        RESNET, "Table 4", "ImageNet validation, single models, multi-scale", (TOP1, TOP5),
        {
            "VGG (ILSVRC'14), test": (None, 8.43), "GoogLeNet": (None, 7.89),
            "VGG (v5)": (24.4, 7.1), "PReLU-net": (21.59, 5.71), "BN-inception": (21.99, 5.81),
            "ResNet-34 B": (21.84, 5.71), "ResNet-34 C": (21.53, 5.60), "ResNet-50": (20.74, 5.25),
            "ResNet-101": (19.87, 4.60), "ResNet-152": (19.38, 4.49),
        },
    ),
    "resnet_table5": Table(
        RESNET, "Table 5", "ImageNet test, ensembles", (TOP5,),
        {
            "VGG (ILSVRC'14)": (7.32,), "GoogLeNet": (6.66,), "VGG (v5)": (6.8,),
            "PReLU-net": (4.94,), "BN-inception": (4.82,), "ResNet, six models": (3.57,),
        },
    ),
    "resnet_table6": Table(
        RESNET, "Table 6", "CIFAR-10 test", ("error (%)", "parameters (1e6)"),
        {
            "Maxout": (9.38, None), "NIN": (8.81, None), "DSN": (8.22, None),
            "FitNet-19": (8.39, 2.5), "Highway-19": (7.54, 2.3), "Highway-32": (8.80, 1.25),
            "ResNet-20": (8.75, 0.27), "ResNet-32": (7.51, 0.46), "ResNet-44": (7.17, 0.66),
            "ResNet-56": (6.97, 0.85), "ResNet-110": (6.43, 1.7), "ResNet-1202": (7.93, 19.4),
        },
    ),
    "resnet_table6_runs": Table(
        RESNET, "Table 6", "CIFAR-10 test, five runs", ("mean error (%)", "standard deviation (%)"),
        {"Highway-19": (7.72, 0.16), "ResNet-110": (6.61, 0.16)},
    ),
    "resnet_warmup": Table(
        # "about 400 iterations"
        RESNET, "Sec. 4.2", "ResNet-110 at a rate of 0.01", (WARMUP,), {"ResNet-110": (400,)},
    ),
    "resnet_table7": Table(
        RESNET, "Table 7", "PASCAL VOC, Faster R-CNN, mAP (%)",
        ("07+12, 07 test", "07++12, 12 test"),
        {"VGG-16": (73.2, 70.4), "ResNet-101": (76.4, 73.8)},
    ),
    "resnet_table8": Table(
        RESNET, "Table 8", "COCO validation, Faster R-CNN, mAP (%)", ("@.5", "@[.5, .95]"),
        {"VGG-16": (41.5, 21.2), "ResNet-101": (48.4, 27.2)},
    ),
    "resnet_table9": Table(
        RESNET, "Table 9", "COCO, improvements of Faster R-CNN, mAP (%)",
        ("val @.5", "val @[.5, .95]", "test-dev @.5", "test-dev @[.5, .95]"),
        {
            "baseline VGG-16": (41.5, 21.2, None, None),
            "baseline ResNet-101": (48.4, 27.2, None, None),
            "+ box refinement": (49.9, 29.9, None, None),
            "+ context": (51.1, 30.0, 53.3, 32.2),
            "+ multi-scale testing": (53.8, 32.5, 55.7, 34.9),
            "ensemble of three": (None, None, 59.0, 37.4),
        },
    ),
    "resnet_table10": Table(
        RESNET, "Table 10", "PASCAL VOC 2007 test, AP (%)", ("mAP", *VOC_CLASSES),
        {
            "baseline VGG-16, 07+12": (
                73.2, 76.5, 79.0, 70.9, 65.5, 52.1, 83.1, 84.7, 86.4, 52.0, 81.9, 65.7, 84.8, 84.6,
                77.5, 76.7, 38.8, 73.6, 73.9, 83.0, 72.6,
            ),
            "baseline ResNet-101, 07+12": (
                76.4, 79.8, 80.7, 76.2, 68.3, 55.9, 85.1, 85.3, 89.8, 56.7, 87.8, 69.4, 88.3, 88.9,
                80.9, 78.4, 41.7, 78.6, 79.8, 85.3, 72.0,
            ),
            "baseline+++ ResNet-101, COCO+07+12": (
                85.6, 90.0, 89.6, 87.8, 80.8, 76.1, 89.9, 89.9, 89.6, 75.5, 90.0, 80.7, 89.6, 90.3,
                89.1, 88.7, 65.4, 88.1, 85.6, 89.0, 86.8,
            ),
        },
    ),
    "resnet_table11": Table(
        RESNET, "Table 11", "PASCAL VOC 2012 test, AP (%)", ("mAP", *VOC_CLASSES),
        {
            "baseline VGG-16, 07++12": (
                70.4, 84.9, 79.8, 74.3, 53.9, 49.8, 77.5, 75.9, 88.5, 45.6, 77.1, 55.3, 86.9, 81.7,
                80.9, 79.6, 40.1, 72.6, 60.9, 81.2, 61.5,
            ),
            "baseline ResNet-101, 07++12": (
                73.8, 86.5, 81.6, 77.2, 58.0, 51.0, 78.6, 76.6, 93.2, 48.6, 80.4, 59.0, 92.1, 85.3,
                84.8, 80.7, 48.1, 77.3, 66.5, 84.7, 65.6,
            ),
            "baseline+++ ResNet-101, COCO+07++12": (
                83.8, 92.1, 88.4, 84.8, 75.9, 71.4, 86.3, 87.8, 94.2, 66.8, 89.4, 69.2, 93.9, 91.9,
                90.9, 89.6, 67.9, 88.2, 76.8, 90.3, 80.0,
            ),
        },
    ),
    "resnet_table12": Table(
        RESNET, "Table 12", "ImageNet detection, mAP (%)", ("val2", "test"),
        {
            "GoogLeNet (ILSVRC'14)": (None, 43.9), "ResNet, single model": (60.5, 58.8),
            "ResNet, ensemble": (63.6, 62.1),
        },
    ),
    "resnet_table13": Table(
        RESNET, "Table 13", "ImageNet localisation, validation, error (%)",
        ("given the true class", "top-5"),
        {
            "VGG-16, 1-crop": (33.1, None), "RPN ResNet-101, 1-crop": (13.3, None),
            "RPN ResNet-101, dense": (11.7, None),
            "RPN ResNet-101, dense, classes of ResNet-101": (None, 14.4),
            "RPN + R-CNN ResNet-101, dense": (None, 10.6), "ensemble": (None, 8.9),
        },
    ),
    "resnet_table14": Table(
        RESNET, "Table 14", "ImageNet localisation, top-5 error (%)", (VALIDATION, TEST),
        {
            "OverFeat (ILSVRC'13)": (30.0, 29.9), "GoogLeNet (ILSVRC'14)": (None, 26.7),
            "VGG (ILSVRC'14)": (26.9, 25.3), "ResNet (ILSVRC'15)": (8.9, 9.0),
        },
    ),
    "release": Table(
        RELEASE, "README", "ImageNet validation",
        ("1-crop top-1 (%)", "1-crop top-5 (%)", "10-crop top-1 (%)", "10-crop top-5 (%)"),
        {
            "ResNet-50": (24.7, 7.8, 22.9, 6.7), "ResNet-101": (23.6, 7.1, 21.8, 6.1),
            "ResNet-152": (23.0, 6.7, 21.4, 5.7),
        },
    ),
    "vgg_table2": Table(
        VGG, "Table 2", "Parameters", ("parameters (1e6)",),
        {
            "A": (133,), "A-LRN": (133,), "B": (133,), "C": (134,), "D": (138,), "E": (144,),
        },
    ),
    "vgg_table3": Table(
        VGG, "Table 3", "ImageNet validation, one test scale, dense", (TOP1, TOP5),
        {
            "A, S=256, Q=256": (29.6, 10.4), "A-LRN, S=256, Q=256": (29.7, 10.5),
            "B, S=256, Q=256": (28.7, 9.9),
            "C, S=256, Q=256": (28.1, 9.4), "C, S=384, Q=384": (28.1, 9.3),
            "C, S=[256;512], Q=384": (27.3, 8.8),
            "D, S=256, Q=256": (27.0, 8.8), "D, S=384, Q=384": (26.8, 8.7),
            "D, S=[256;512], Q=384": (25.6, 8.1),
            "E, S=256, Q=256": (27.3, 9.0), "E, S=384, Q=384": (26.9, 8.7),
            "E, S=[256;512], Q=384": (25.5, 8.0),
        },
    ),
    "vgg_table4": Table(
        VGG, "Table 4", "ImageNet validation, three test scales, dense", (TOP1, TOP5),
        {
            "B, S=256, Q=224,256,288": (28.2, 9.6),
            "C, S=256, Q=224,256,288": (27.7, 9.2), "C, S=384, Q=352,384,416": (27.8, 9.2),
            "C, S=[256;512], Q=256,384,512": (26.3, 8.2),
            "D, S=256, Q=224,256,288": (26.6, 8.6), "D, S=384, Q=352,384,416": (26.5, 8.6),
            "D, S=[256;512], Q=256,384,512": (24.8, 7.5),
            "E, S=256, Q=224,256,288": (26.9, 8.7), "E, S=384, Q=352,384,416": (26.7, 8.6),
            "E, S=[256;512], Q=256,384,512": (24.8, 7.5),
        },
    ),
    "vgg_table5": Table(
        VGG, "Table 5", "ImageNet validation, S=[256;512], Q=256,384,512", (TOP1, TOP5),
        {
            "D, dense": (24.8, 7.5), "D, multi-crop": (24.6, 7.5),
            "D, multi-crop and dense": (24.4, 7.2),
            "E, dense": (24.8, 7.5), "E, multi-crop": (24.6, 7.4),
            "E, multi-crop and dense": (24.4, 7.1),
        },
    ),
    "vgg_table6": Table(
        VGG, "Table 6", "ImageNet, ensembles", (TOP1, TOP5, "test top-5 error (%)"),
        {
            "ILSVRC submission, seven nets": (24.7, 7.5, 7.3), "D and E, dense": (24.0, 7.1, 7.0),
            "D and E, multi-crop": (23.9, 7.2, None),
            "D and E, multi-crop and dense": (23.7, 6.8, 6.8),
        },
    ),
    "vgg_table8": Table(
        VGG, "Table 8", "ImageNet localisation, validation, error (%)", ("error (%)",),
        {
            "single-class regression": (36.4,), "per-class regression": (34.3,),
            "per-class regression, all layers fine-tuned": (33.1,),
        },
    ),
    "vgg_table9": Table(
        VGG, "Table 9", "ImageNet localisation, error (%)", (VALIDATION, TEST),
        {
            "256/256": (29.5, None), "384/384": (28.2, 26.7), "384/352,384": (27.5, None),
            "fusion": (26.9, 25.3),
        },
    ),
    "lab": Table(
        LAB, "Results", "Three classes of CIFAR-10, accuracy",
        ("test accuracy (%)", "training accuracy (%)", "epochs", "parameters"),
        {
            "VGG-16": (93, 99.54, 20, 33_617_987), "ResNet-50": (89.1, 97.20, 15, 23_510_339),
        },
    ),
}  # fmt: skip

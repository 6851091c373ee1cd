"""The paper's architectures, the results that it reports for them, and others of its code."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """The numbers that the paper reports for one architecture.

    The printed parameters and the ImageNet accuracy are None for an architecture without reported
    results on ImageNet.

    Attributes:
        num_groups: number of groups N of the NOAH head.
        key_ratio: key ratio r of the NOAH head.
        dropout: dropout rate of the NOAH head during training. The standard head has none.
        parameters: trainable parameters of the standard model, as the released code builds it.
        noah_parameters: trainable parameters of the NOAH model.
        printed_millions: millions of parameters that the paper prints for the standard model.
        noah_printed_millions: millions of parameters that the paper prints for the NOAH model.
        top1: ImageNet top-1 accuracy in percent that the paper reports for the standard model.
        noah_top1: ImageNet top-1 accuracy in percent that it reports for the NOAH model.
    """

    num_groups: int
    key_ratio: float
    dropout: float
    parameters: int
    noah_parameters: int
    printed_millions: float | None = None
    noah_printed_millions: float | None = None
    top1: float | None = None
    noah_top1: float | None = None


# fmt: off
ARCHITECTURES = {
    #                                     N    r  drop  parameters        NOAH  printed,NOAH   top-1,  NOAH
    "resnet18":                  PaperRow(4, 1/2, 0.1, 11_689_512, 11_696_512, 11.69, 11.70, 70.25, 71.81),
    "resnet50":                  PaperRow(4, 1/8, 0.0, 25_557_032, 25_564_032, 25.56, 25.56, 76.23, 77.25),
    "resnet101":                 PaperRow(4, 1/8, 0.0, 44_549_160, 44_556_160, 44.55, 44.56, 77.41, 78.22),
    "resnet152":                 PaperRow(4, 1/8, 0.0, 60_192_808, 60_199_808, 60.19, 60.20, 78.16, 78.57),
    "mobilenetv2_100":           PaperRow(8, 1/4, 0.2,  3_504_872,  3_519_872,  3.50,  3.52, 72.02, 73.35),
    "mobilenetv2_075":           PaperRow(8, 1/4, 0.0,  2_636_424,  2_651_424,  2.64,  2.65, 69.65, 71.44),
    "mobilenetv2_050":           PaperRow(8, 1/4, 0.0,  1_968_680,  1_983_680,  1.97,  1.98, 64.30, 67.44),
    "mobilenetv2_035":           PaperRow(8, 1/4, 0.0,  1_677_128,  1_692_128,  1.68,  1.69, 59.62, 63.40),
    "mobilenetv3_small":         PaperRow(8, 1/4, 0.2,  2_938_368,  2_953_368,  2.94,  2.95, 67.11, 68.92),
    "shufflenetv2_100":          PaperRow(8, 1/4, 0.0,  2_278_604,  2_293_604,  2.28,  2.29, 69.43, 70.72),
    "deit_base_patch16_224":     PaperRow(4, 1/2, 0.1, 86_567_656, 86_573_120, 86.86, 86.86, 81.85, 82.22),
    "deit_small_patch16_224":    PaperRow(4, 1/2, 0.1, 22_050_664, 22_056_896, 22.06, 22.06, 79.78, 80.56),
    "deit_tiny_patch16_224":     PaperRow(4, 1/2, 0.1,  5_717_416,  5_724_032,  5.72,  5.72, 72.16, 74.29),
    "deit_tiny_075_patch16_224": PaperRow(4, 1/2, 0.1,  3_368_824,  3_375_536,  3.29,  3.30, 62.55, 66.64),
    "deit_tiny_050_patch16_224": PaperRow(4, 1/2, 0.1,  1_646_728,  1_653_536,  1.53,  1.54, 51.36, 56.66),
    "pvt_tiny":                  PaperRow(4, 1/2, 0.1, 13_229_288, 13_235_264, 13.23, 13.24, 75.10, 76.51),
    "pvt_tiny_075":              PaperRow(4, 1/2, 0.1,  7_618_216,  7_624_448,  7.62,  7.62, 71.81, 74.22),
    "pvt_tiny_050":              PaperRow(4, 1/2, 0.1,  3_543_144,  3_549_632,  3.54,  3.55, 65.33, 68.50),
    "mixer_b16_224":             PaperRow(4, 1/2, 0.1, 59_880_472, 59_887_472, 59.88, 59.88, 77.14, 77.49),
    "mixer_s16_224":             PaperRow(4, 1/2, 0.1, 18_528_264, 18_535_264, 18.53, 18.54, 74.18, 75.09),
    "mixer_s16_075_224":         PaperRow(4, 1/2, 0.1, 10_751_112, 10_758_112, 10.75, 10.76, 71.13, 72.32),
    "mixer_s16_050_224":         PaperRow(4, 1/2, 0.1,  5_071_112,  5_078_112,  5.07,  5.08, 65.22, 66.81),
    "gmlp_s16_224":              PaperRow(4, 1/2, 0.1, 19_422_656, 19_429_656, 19.42, 19.42, 79.65, 79.95),
    "gmlp_ti16_224":             PaperRow(4, 1/2, 0.1,  5_867_328,  5_874_328,  5.87,  5.87, 72.05, 73.39),
    "gmlp_ti16_075_224":         PaperRow(4, 1/2, 0.1,  3_860_896,  3_867_896,  3.91,  3.91, 65.95, 67.71),
    "gmlp_ti16_050_224":         PaperRow(4, 1/2, 0.1,  2_407_424,  2_414_424,  2.41,  2.41, 54.99, 56.89),
    # In the released code with both heads, but without reported results. N and r are those of the
    # family, and the dropout is the default of the code.
    "resnet34":                  PaperRow(4, 1/2, 0.0, 21_797_672, 21_804_672),
    "mobilenetv3_large":         PaperRow(8, 1/4, 0.0,  5_476_416,  5_491_416),
    "shufflenetv2_050":          PaperRow(8, 1/4, 0.0,  1_366_792,  1_381_792),
    "shufflenetv2_150":          PaperRow(8, 1/4, 0.0,  3_503_624,  3_518_624),
    "shufflenetv2_200":          PaperRow(8, 1/4, 0.0,  7_393_996,  7_408_996),
    "pvt_small":                 PaperRow(4, 1/2, 0.1, 24_485_864, 24_491_840),
    "pvt_medium":                PaperRow(4, 1/2, 0.1, 44_208_104, 44_214_080),
    "pvt_large":                 PaperRow(4, 1/2, 0.1, 61_369_320, 61_375_296),
    # For MS-COCO (configs/coco.py). It is not in the released code, so N and r are DeiT's.
    "vit_large_patch16_224":     PaperRow(4, 1/2, 0.1, 304_326_632, 304_331_584),
}
# fmt: on

"""Metrics: how things are scored. One file per family; scores are per image wherever they can be, means come later."""

from braindecode_suite.core.registry import Registry

METRICS = Registry(
    "metric",
    {
        "pixcorr": "braindecode_suite.metrics.images:pixcorr",
        "ssim": "braindecode_suite.metrics.images:ssim",
        "alexnet2": "braindecode_suite.metrics.networks:alexnet2",
        "alexnet5": "braindecode_suite.metrics.networks:alexnet5",
        "inception": "braindecode_suite.metrics.networks:inception",
        "clip": "braindecode_suite.metrics.networks:clip",
        "effnet": "braindecode_suite.metrics.networks:effnet",
        "swav": "braindecode_suite.metrics.networks:swav",
        "identification": "braindecode_suite.metrics.identification:two_way_identification",
        "retrieval-brain-to-image-top1": "braindecode_suite.metrics.retrieval:retrieval_brain_to_image_top1",
        "retrieval-brain-to-image-top5": "braindecode_suite.metrics.retrieval:retrieval_brain_to_image_top5",
        "retrieval-brain-to-image-top10": "braindecode_suite.metrics.retrieval:retrieval_brain_to_image_top10",
        "retrieval-image-to-brain-top1": "braindecode_suite.metrics.retrieval:retrieval_image_to_brain_top1",
        "median-relative-rank": "braindecode_suite.metrics.retrieval:median_relative_rank",
        "accuracy": "braindecode_suite.metrics.classification:accuracy",
        "encoding-r": "braindecode_suite.metrics.encoding:encoding_r",
        "encoding-r2": "braindecode_suite.metrics.encoding:encoding_r2",
        "encoding-r2-nc": "braindecode_suite.metrics.encoding:encoding_r2_nc",
        "rsa": "braindecode_suite.metrics.rsa:rsa",
    },
)

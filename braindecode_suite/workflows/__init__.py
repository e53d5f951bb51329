"""Workflows: a config in, a results folder out. One file per workflow; presets of each lie in ``configs/``."""

from braindecode_suite.core.registry import Registry

WORKFLOWS = Registry(
    "workflow",
    {
        "mindeye": "braindecode_suite.workflows.mindeye:MindEyeWorkflow",
        "meg": "braindecode_suite.workflows.meg:MegWorkflow",
        "encode": "braindecode_suite.workflows.encode:EncodeWorkflow",
        "image-prior": "braindecode_suite.workflows.image_prior:ImagePriorWorkflow",
        "classical-decoding": "braindecode_suite.workflows.classical:ClassicalWorkflow",
        "representational-similarity": "braindecode_suite.workflows.representational_similarity:SimilarityWorkflow",
        "encode-vectors": "braindecode_suite.workflows.encode_vectors:EncodeVectorsWorkflow",
    },
)

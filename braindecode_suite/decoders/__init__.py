"""Decoders: latents in, ranked images or images out. One file per decoder; generators are those that draw."""

from braindecode_suite.core.registry import Registry

DECODERS = Registry(
    "decoder",
    {
        "retrieval": "braindecode_suite.decoders.retrieval:CosineRetriever",
        "nearest-train": "braindecode_suite.decoders.nearest:NearestTrain",
    },
)

GENERATORS = Registry(
    "generator",
    {
        "tiny-kandinsky": "braindecode_suite.decoders.generators:tiny_kandinsky",
        "kandinsky-2-2": "braindecode_suite.decoders.generators:kandinsky_2_2",
        "exemplar-prior": "braindecode_suite.decoders.image_prior:ExemplarPrior",
    },
)

"""Encoders: raw signal in, latents out; and the latent spaces (targets) they aim at. One file per model."""

from braindecode_suite.core.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "ridge": "braindecode_suite.encoders.ridge:RidgeEncoder",
        "mindeye": "braindecode_suite.encoders.mindeye:MindEyeEncoder",
        "inverted-encoding": "braindecode_suite.encoders.inverted_encoding:InvertedEncoding",
    },
)

TARGETS = Registry(
    "target",
    {
        "tiny-clip": "braindecode_suite.encoders.targets:tiny_clip",
        "open-clip": "braindecode_suite.encoders.targets:open_clip",
    },
)

"""Encoders: raw signal to latents, images to responses; and the latent spaces (targets) they use. One file per model."""

from braindecode_suite.core.registry import Registry

ENCODERS = Registry(
    "encoder",
    {
        "ridge": "braindecode_suite.encoders.ridge:RidgeEncoder",
        "mindeye": "braindecode_suite.encoders.mindeye:MindEyeEncoder",
        "brain-routing": "braindecode_suite.encoders.brain_routing:BrainRouting",
        "inverted-encoding": "braindecode_suite.encoders.inverted_encoding:InvertedEncoding",
        "meg-module": "braindecode_suite.encoders.meg_module:MegModule",
        "nice": "braindecode_suite.encoders.nice:Nice",
        "atm": "braindecode_suite.encoders.atm:Atm",
    },
)

IMAGE_ENCODERS = Registry(
    "image encoder",
    {
        "attention-routing": "braindecode_suite.encoders.attention_routing:AttentionRouting",
        "cls-ridge": "braindecode_suite.encoders.cls_ridge:ClsRidge",
        "pooled-ridge": "braindecode_suite.encoders.pooled_ridge:PooledRidge",
        "kernel-ridge": "braindecode_suite.encoders.kernel_ridge:KernelRidge",
        "factorised": "braindecode_suite.encoders.factorised:Factorised",
        "receptive-field": "braindecode_suite.encoders.receptive_field:ReceptiveField",
        "stacked": "braindecode_suite.encoders.stacked:Stacked",
    },
)

TARGETS = Registry(
    "target",
    {
        "tiny-clip": "braindecode_suite.encoders.targets:tiny_clip",
        "open-clip": "braindecode_suite.encoders.targets:open_clip",
        "timm": "braindecode_suite.encoders.features:timm",
        "torchvision": "braindecode_suite.encoders.features:torchvision",
    },
)

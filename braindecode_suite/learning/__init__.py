"""How things are fitted: ridge, layers, losses, the diffusion prior, the training loop, checkpoints."""

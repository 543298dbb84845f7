"""A model goes in, a smaller model comes out: fewer layers (distill), narrower layers (prune), a smaller vocabulary."""

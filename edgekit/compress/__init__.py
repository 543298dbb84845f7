"""A model goes in, a smaller model comes out: fewer layers (distill), narrower layers (slice), a smaller vocabulary."""

"""Model compression: fewer layers (distillation), narrower layers (pruning), a smaller vocabulary (trimming)."""

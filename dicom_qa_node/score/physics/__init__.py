"""Physical measurements beside the score: one module per family, numpy and scipy only."""

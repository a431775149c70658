"""The physics beside the score: one file per family of measurements, numpy and scipy only."""

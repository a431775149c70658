"""Scoring of complete series: files, volumes, display images of salient slices, score, measurements, findings.

::

    volume_builder (slice_headers, multiframe, stacks; decoder_pool, stack_pixels, suv)
        -> slice_selection -> slice_rendering -> inference -> grading
        -> physics.measurements -> rules.evaluation
    pipeline calls them in this order; worker takes series from the queue of jobs.

Only scoring processes import torch and SimpleITK; the package itself imports nothing.
"""

"""Scores complete series: files become volumes, volumes become a few pictures, pictures become a verdict.

::

    survey (headers, multiframe, parts) -> read (decode, stack, suv) -> slices -> display -> infer -> verdict
                                                                     -> measure -> findings
    pipeline puts them in this order, worker feeds it from the queue of jobs.

Only processes that score import this package's torch and SimpleITK; the package itself imports nothing.
"""

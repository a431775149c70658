"""Files only: where they lie (`layout`), how they get there durably (`write`), what they say (`facts`), what may go.

`part10` is the envelope around each data set, `header` the walk over its elements, `disk` the room there is, `retain`
what happens when there is little, and deletion.
"""

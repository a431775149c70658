"""Files only: where they lie (`layout`), how they get there durably (`write`), what they say (`facts`), who may go (`retain`)."""

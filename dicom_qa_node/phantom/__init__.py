"""Generated CT and PET/CT studies for the demo, the tests and the validation of the measurements."""

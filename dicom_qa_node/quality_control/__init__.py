"""QC phantoms: recognising them, analysing them, their tolerances and their calendar.

Not to be confused with `dicom_qa_node.phantom`, which generates images of patients and phantoms.
"""

"""The bridge to an Orthanc server: its series go to the node, the scores go back onto its series."""

"""DICOM files and headers: durable writing, Part 10, tolerant header values, TLS, patches of libraries."""

"""Files only: where they lie (`layout`), how they get there durably (`write`), what they say (`facts`), what may go.

`part10` is the envelope around each data set, `header` the walk over its elements, `retain` disk space and deletion.
"""

from __future__ import annotations

import pydicom.charset

# pydicom 3.0 leaves the escape sequences of GB 2312 (ISO 2022 IR 58) to Python's codec, which keeps them in the text:
# a name would carry them into the registry, the report and every answer. What it writes lacks them.
pydicom.charset.handled_encodings = tuple(  # type: ignore[assignment]
    encoding for encoding in pydicom.charset.handled_encodings if encoding != "iso_ir_58"
)

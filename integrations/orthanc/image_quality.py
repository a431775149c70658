"""Orthanc plug-in: shows the image quality of a series in Orthanc Explorer, as the bridge of dicom-qa-node wrote it.

Copyright the dicom-qa-node authors. This program is free software: you can redistribute it and/or modify it under the
terms of the GNU Affero General Public License as published by the Free Software Foundation, version 3 of the License,
or (at your option) any later version. It comes without any warranty; see the file LICENSE beside it.

It reads metadata of series and nothing else, and computes nothing. Optional section of Orthanc's configuration:

    "ImageQuality": {"MetadataPrefix": "ImageQuality"}
"""

import json
from pathlib import Path

import orthanc

SCRIPT = "image_quality.js"


def _prefix():
    settings = json.loads(orthanc.GetConfiguration()).get("ImageQuality", {})
    prefix = settings.get("MetadataPrefix", "ImageQuality")
    if not (isinstance(prefix, str) and prefix.isalnum()):
        raise ValueError("ImageQuality.MetadataPrefix must be letters and digits")
    return prefix


def _script():
    text = (Path(__file__).parent / SCRIPT).read_text(encoding="utf-8")
    return text.replace("%PREFIX%", _prefix())


orthanc.ExtendOrthancExplorer(_script())
orthanc.LogWarning("image quality: the button is on the page of each series that has a score")

"""Three CT scanners over three months, with physics that holds together: for whatever shows quality, dose and time.

    fill(database, series=3000, seed=1, days=90, scanners=3)     # of `realistic_log`: the log alone
    live(database, series=3000)                                  # with charts, alarms and the service event

Noise grows by 0.45 % per mm of water-equivalent diameter, falls with the inverse root of dose over the usual dose of
that size, and scatters by 8 %; signal and contrast to noise and the score follow the noise. What happens:

* ``CT-L1``: the dose of "Thorax Routine" falls to 70 % after half of the time (a protocol was changed).
* The second names its station "0": its noise rises by 15 % at 60 % of the time and stays there.
* The third sends one part of its series as "ROOM3", the other as "unknown" without a serial number, and two spellings
  of one protocol; a tube exchange at 40 % of the time takes 12 % off its noise.
* One series in a hundred arrives three weeks after its acquisition.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from dataclasses import dataclass

from dicom_qa_node.charts.baselines import ChartRules
from dicom_qa_node.charts.chart_ingest import ChartIngest
from dicom_qa_node.charts.drifts import Drifts
from dicom_qa_node.charts.scanners import Scanners
from dicom_qa_node.charts.service_events import EventKind, ServiceEvents
from dicom_qa_node.db.engine import Database
from dicom_qa_node.domain.acquisition_parameters import Acquisition, Reconstruction
from dicom_qa_node.domain.results import Measurement, SeriesKind
from tests.realistic_names import Device, Protocol

__all__ = ["LIFE_SCANNERS", "SHARE_OF_DOSE", "STEP_OF_NOISE", "acquisition", "header_names", "live", "measured"]

SIZE_PER_MM = 0.0045
SCATTER = 0.08
STEP_OF_NOISE = 1.15
SHARE_OF_DOSE = 0.7
TUBE_GAIN = 0.88
_STEP_AT, _DOSE_AT, _TUBE_AT = 0.6, 0.5, 0.4

LIFE_SCANNERS = (
    Device("Northfield General", "CT-L1", "Altair", "Vega 128", "50011", SeriesKind.CT, 0.4, "dose"),
    Device("Northfield General", "0", "Borealis", "Orbit One", "B-6120", SeriesKind.CT, 0.35, "noise"),
    Device("Klinikum am See", "ROOM3", "Cassini", "Scan 80", "0077", SeriesKind.CT, 0.25, "tube"),
)


@dataclass(frozen=True)
class _Setting:
    """How a protocol scans: usual size and its spread in mm, dose in mGy and noise in HU at that size."""

    size_mm: float
    spread_mm: float
    dose_mgy: float
    noise_hu: float
    f50: float
    kernel: tuple[str, float]
    reconstruction: Reconstruction
    thickness_mm: float


_SOFT, _SHARP = ("Br40", 0.0), ("Br60", 1.0)
_SETTINGS = {
    "Thorax Routine": _Setting(300, 38, 6.0, 12.0, 0.34, _SOFT, Reconstruction.ITERATIVE, 3.0),
    "Lung LowDose": _Setting(298, 36, 1.6, 62.0, 0.62, _SHARP, Reconstruction.FBP, 1.0),
    "Abdomen Portal": _Setting(305, 40, 9.0, 11.0, 0.33, _SOFT, Reconstruction.ITERATIVE, 5.0),
    "Head Native": _Setting(168, 9, 46.0, 4.2, 0.36, _SOFT, Reconstruction.FBP, 4.0),
    "Shoulder": _Setting(315, 40, 11.0, 48.0, 0.60, _SHARP, Reconstruction.UNKNOWN, 1.5),
}
_SPELLINGS = {"Abdomen Portal": "ABD PORTAL V2"}


def header_names(device: Device, protocol: Protocol, rnd: random.Random) -> dict[str, str]:
    """Return the words of a header that differ from the device's and the protocol's own."""
    if device.fault != "tube":
        return {}
    names = {} if rnd.random() < 0.6 else {"station_name": "unknown", "device_serial_number": ""}
    spelling = _SPELLINGS.get(protocol.name)
    return names | ({"protocol_name": spelling} if spelling and rnd.random() < 0.5 else {})


def acquisition(device: Device, protocol: Protocol, scored_at: dt.datetime, rnd: random.Random) -> Acquisition:
    """Return the facts of an acquisition that was scored at a time (UTC)."""
    setting = _SETTINGS[protocol.name]
    late = dt.timedelta(days=21) if rnd.random() < 0.01 else dt.timedelta(minutes=rnd.uniform(10, 90))
    offset = 60 if device.fault == "dose" else None
    local = (scored_at - late).replace(tzinfo=None, microsecond=0) + dt.timedelta(minutes=offset or 0)
    return Acquisition(local, offset, setting.kernel[0], setting.reconstruction, setting.thickness_mm)


def measured(device: Device, protocol: Protocol, part: float, rnd: random.Random) -> tuple[float, list[Measurement]]:
    """Return the logarithm of the noise over the usual one of that size, and the measurements of one series.

    Parameters
    ----------
    part
        The time of the acquisition within the log, 0 to 1.
    """
    setting = _SETTINGS[protocol.name]
    size = min(setting.size_mm * 1.5, max(setting.size_mm * 0.6, rnd.gauss(setting.size_mm, setting.spread_mm)))
    share = rnd.lognormvariate(0.0, 0.05)
    if device.fault == "dose" and protocol.name == "Thorax Routine" and part > _DOSE_AT:
        share *= SHARE_OF_DOSE
    off = -0.5 * math.log(share) + rnd.gauss(0.0, SCATTER)
    if device.fault == "noise" and part > _STEP_AT:
        off += math.log(STEP_OF_NOISE)
    if device.fault == "tube" and part > _TUBE_AT:
        off += math.log(TUBE_GAIN)
    noise = setting.noise_hu * math.exp(off + SIZE_PER_MM * (size - setting.size_mm))
    # Automatic exposure control: more dose for larger patients.
    ctdi = setting.dose_mgy * share * math.exp(0.006 * (size - setting.size_mm))
    head = protocol.name == "Head Native"
    a, b = (1.9852, 0.0486) if head else (3.704369, 0.03671937)
    f50 = setting.f50 * math.exp(rnd.gauss(0.0, 0.05) - 0.0004 * (size - setting.size_mm))
    rows = (
        ("global_noise_level", "Global noise level", noise, "[hnsf'U]", "lower is better"),
        ("snr", "Signal to noise of soft tissue", 1045.0 / noise, "1", "higher is better"),
        ("cnr_soft_tissue_fat", "Contrast to noise, soft tissue to fat", 150.0 / noise, "1", "higher is better"),
        ("skin_edge_f50", "Frequency at half modulation of the skin edge", f50, "/mm", "target"),
        ("streak_index", "Streak index", rnd.gauss(0.19, 0.02), "1", "lower is better"),
        ("water_equivalent_diameter", "Water-equivalent diameter of the patient", size, "mm", "context"),
        ("ctdi_vol", "CTDIvol", ctdi, "mGy", "context"),
        ("ssde", "Size-specific dose estimate", ctdi * a * math.exp(-b * size / 10), "mGy", "context"),
        ("dlp", "Dose length product of the images", ctdi * rnd.gauss(32.0, 3.0), "mGy.cm", "context"),
        ("tube_voltage", "Tube voltage", 120.0 if not head else 100.0, "kV", "context"),
        ("kernel_sharpness", "Sharp reconstruction kernel", setting.kernel[1], "1", "context"),
        ("slice_thickness", "Slice thickness", setting.thickness_mm, "mm", "context"),
    )
    return off, [Measurement(name, words, round(value, 4), unit, way) for name, words, value, unit, way in rows]


def live(database: Database, series: int = 3000, seed: int = 1, *, until: dt.datetime | None = None) -> None:
    """Fill an empty database with the log, its charts, the service event of the third scanner, and the alarms."""
    from tests.realistic_log import fill

    end = until or dt.datetime.now(dt.UTC)
    fill(database, series, seed, until=end, days=90, scanners=3)
    ingest = ChartIngest(database)
    while ingest.take_in():
        pass
    while ingest.refresh_weeks():
        pass
    at = end - dt.timedelta(days=90) * (1 - _TUBE_AT)
    for card in Scanners(database).overview():
        if card.scanner.manufacturer == "Cassini":
            events = ServiceEvents(database)
            events.add(card.scanner.scanner_id, at, EventKind.TUBE, "Tube exchanged", author="service")
    drifts = Drifts(database, ChartRules())
    while drifts.look():
        pass

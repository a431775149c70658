"""What the realistic log is made of: scanners of three hospitals, protocols, people, measurements, findings."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_qa_node.domain.results import SeriesKind, Severity

__all__ = [
    "CT_FINDINGS",
    "CT_PROTOCOLS",
    "CT_QUANTITIES",
    "FAMILY_NAMES",
    "GIVEN_NAMES",
    "PET_FINDINGS",
    "PET_PROTOCOLS",
    "PET_QUANTITIES",
    "SCANNERS",
    "WORLD_NAMES",
    "Device",
    "Protocol",
]


@dataclass(frozen=True)
class Protocol:
    """What a scanner does: its share of the work, its usual score, and the words of the header."""

    name: str
    description: str
    study: str
    body_part: str
    share: float
    score: float


@dataclass(frozen=True)
class Device:
    """One scanner of the log; ``fault`` says what goes wrong with it."""

    site: str
    station: str
    manufacturer: str
    model: str
    serial: str
    kind: SeriesKind
    share: float
    fault: str = ""


_NORTH, _BAY, _WEST = "Northfield General", "Klinikum am See", "Hôpital Ste-Anne"
SCANNERS = (
    Device(_NORTH, "CT-A1", "Altair", "Vega 128", "40211", SeriesKind.CT, 0.17),
    Device(_NORTH, "CT-A2", "Altair", "Vega 64", "31877", SeriesKind.CT, 0.14, "drift"),
    Device(_NORTH, "PET-A3", "Altair", "Lyra PET/CT", "70121", SeriesKind.PETCT, 0.05),
    Device(_BAY, "CT-B1", "Borealis", "Orbit One", "B-5521", SeriesKind.CT, 0.15, "step"),
    Device(_BAY, "CT-B2", "Borealis", "Orbit Spectral", "B-7710", SeriesKind.CT, 0.13),
    Device(_BAY, "PET-B3", "Borealis", "Halo PET", "B-9003", SeriesKind.PT, 0.04),
    Device(_WEST, "CT-C1", "Cassini", "Scan 80", "0033", SeriesKind.CT, 0.16),
    Device(_WEST, "CT-C2", "Cassini", "Scan 16", "0009", SeriesKind.CT, 0.12, "old"),
    Device(_WEST, "PET-C3", "Cassini", "Ring 4", "1204", SeriesKind.PETCT, 0.04, "scatter"),
)
CT_PROTOCOLS = (
    Protocol("Thorax Routine", "Thorax 3.0 Br40", "CT Thorax", "CHEST", 0.3, 3.1),
    Protocol("Lung LowDose", "Lung 1.0 Br60", "CT Lung Screening", "CHEST", 0.15, 2.6),
    Protocol("Abdomen Portal", "Abdomen PV 5.0 Br36", "CT Abdomen and Pelvis", "ABDOMEN", 0.3, 3.0),
    Protocol("Head Native", "Head 4.0 Hr38", "CT Head", "HEAD", 0.15, 3.3),
    Protocol("Shoulder", "Shoulder 1.5 Br56", "CT Shoulder", "SHOULDER", 0.1, 2.4),
)
PET_PROTOCOLS = (
    Protocol("FDG Whole Body", "WB 3D MAC", "PET/CT FDG Whole Body", "WHOLEBODY", 0.75, 2.9),
    Protocol("PSMA Torso", "Torso PSF TOF", "PET/CT PSMA", "TORSO", 0.25, 2.7),
)
FAMILY_NAMES = (
    "Garcia", "Smith", "Müller", "Dubois", "Okafor", "Novak", "Ivanova", "Rossi", "Lindqvist", "Haddad", "Kowalski",
    "Yıldız", "Nguyen", "Silva", "O'Neill", "Van der Berg", "Andersson", "Papadopoulos", "Horváth", "Mensah",
)  # fmt: skip
GIVEN_NAMES = (
    "Anna", "Carlos", "Jürgen", "Élodie", "Chidi", "Petra", "Olga", "Marco", "Sven", "Layla", "Jan", "Ayşe", "Minh",
    "João", "Niamh", "Pieter", "Karin", "Eleni", "Béla", "Ama",
)  # fmt: skip
WORLD_NAMES = (
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Hong^Gildong=洪^吉洞=홍^길동",
    "Wang^XiaoDong=王^小东",
    "Кузнецова^Мария^Ивановна",
    "Παπαδόπουλος^Γεώργιος",
)

# name, meaning, unit, direction, usual value, spread, low, high, effect of one point of score
CT_QUANTITIES = (
    ("global_noise_level", "Global noise level", "[hnsf'U]", "lower is better", 11.0, 1.2, 3.0, 25.0, -4.0),
    ("snr", "Signal to noise of soft tissue", "1", "higher is better", 95.0, 8.0, None, None, 20.0),
    (
        "cnr_soft_tissue_fat",
        "Contrast to noise, soft tissue to fat",
        "1",
        "higher is better",
        13.0,
        1.4,
        None,
        None,
        3.0,
    ),
    ("noise_in_air", "Noise in air outside the patient", "[hnsf'U]", "lower is better", 8.2, 0.9, None, None, -2.0),
    ("skin_edge_f50", "Frequency at half modulation of the skin edge", "/mm", "target", 0.34, 0.02, 0.25, 0.6, 0.02),
    ("nps_peak_frequency", "Peak frequency of the noise power spectrum", "/mm", "context", 0.21, 0.02, None, None, 0.0),
    ("streak_index", "Streak index", "1", "lower is better", 0.19, 0.02, 0.1, 0.32, -0.05),
    ("photon_starvation_index", "Photon starvation index", "1", "lower is better", 1.8, 0.4, 1.0, 6.0, -0.8),
    ("metal_fraction", "Metal in or on the body", "%", "lower is better", 0.01, 0.01, 0.0, 0.05, 0.0),
    ("ctdi_vol", "CTDIvol", "mGy", "context", 8.4, 1.1, None, 30.0, 0.0),
)
PET_QUANTITIES = (
    ("liver_cov", "Coefficient of variation in the liver", "%", "lower is better", 11.0, 1.4, None, 15.0, -3.0),
    ("liver_snr", "Signal to noise of the liver", "1", "higher is better", 9.0, 1.0, None, None, 2.0),
    ("liver_suv_mean", "Mean SUV of the liver", "1", "target", 2.2, 0.2, 1.3, 3.0, 0.0),
    ("noise_correlation_width", "Correlation width of the noise", "mm", "target", 6.1, 0.5, None, 9.0, 0.0),
    (
        "misregistration_dome",
        "Shift between PET and CT at the liver dome",
        "mm",
        "lower is better",
        4.0,
        2.0,
        None,
        10.0,
        -2.0,
    ),
    ("uptake_time", "Time from injection to scan", "min", "target", 62.0, 5.0, 50.0, 90.0, 0.0),
)
CT_FINDINGS = (
    (
        "noise_high",
        Severity.WARNING,
        "The noise is above the limit of this protocol.",
        "global noise 24 HU, limit 20 HU",
    ),
    ("motion", Severity.WARNING, "Edges are doubled: the patient moved.", "motion edge index 2.1, limit 1.8"),
    ("streaks", Severity.WARNING, "Streaks run across the tissue.", "streak index 0.41, limit 0.32"),
    ("photon_starvation", Severity.WARNING, "The shoulders starve the detector of photons.", "index 7.4, limit 6"),
    ("truncated", Severity.WARNING, "The field of view cuts the body.", "18 % of the outline, limit 10 %"),
    ("metal", Severity.INFO, "There is metal in or on the body.", "0.31 % of the tissue"),
    ("incomplete", Severity.ERROR, "Slices that the scanner announced did not arrive.", "118 of 240"),
    ("dose_high", Severity.WARNING, "The dose is above the limit of this protocol.", "CTDIvol 34 mGy, limit 30 mGy"),
)
PET_FINDINGS = (
    ("pet_noise_high", Severity.WARNING, "The liver is noisy.", "COV 18 %, limit 15 %"),
    ("misregistered", Severity.WARNING, "PET and CT do not lie on each other.", "14 mm at the liver dome, limit 10 mm"),
    ("uptake_time_off", Severity.WARNING, "The scan began late after the injection.", "104 min, usual 60 min"),
    ("suv_implausible", Severity.ERROR, "The SUV of the liver is not plausible.", "mean 0.6, usual 1.3 to 3.0"),
)

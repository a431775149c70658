"""The tissues of the generated patient: attenuation, FDG uptake and how coarse they look."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Channel(StrEnum):
    """What a rendered slice shows."""

    NATIVE_CT = "native-ct"
    VENOUS_CT = "venous-ct"
    FDG = "fdg"


@dataclass(frozen=True, slots=True)
class Tissue:
    """Mean values of one tissue.

    ``hu`` and ``venous_hu`` are HU without contrast and in the portal venous phase, ``suv`` the FDG uptake
    (body weight), ``grain_hu`` the SD of its texture, ``strand_hu`` the height of the fine septa running
    through it.
    """

    hu: float
    venous_hu: float
    suv: float
    grain_hu: float = 0.0
    strand_hu: float = 0.0

    def value(self, channel: Channel) -> float:
        """Mean in HU or SUV."""
        match channel:
            case Channel.NATIVE_CT:
                return self.hu
            case Channel.VENOUS_CT:
                return self.venous_hu
            case Channel.FDG:
                return self.suv

    def grain(self, channel: Channel) -> float:
        """SD of the texture in HU or SUV."""
        return 0.06 * self.suv if channel is Channel.FDG else self.grain_hu

    def strands(self, channel: Channel) -> float:
        """Height of the septa in HU; they carry no uptake of their own."""
        return 0.0 if channel is Channel.FDG else self.strand_hu


AIR = Tissue(-1000, -1000, 0.0)
TABLE_SHELL = Tissue(150, 150, 0.0)
TABLE_FOAM = Tissue(-955, -955, 0.0)
SKIN = Tissue(10, 20, 0.9, 5)
FAT = Tissue(-108, -106, 0.25, 4, 14)
VISCERAL_FAT = Tissue(-102, -100, 0.35, 6, 30)
MUSCLE = Tissue(54, 64, 0.75, 6, -42)
CORTEX = Tissue(900, 900, 0.9, 60)
RIB_CORTEX = Tissue(620, 620, 0.8, 40)
MARROW = Tissue(190, 200, 1.3, 38)
CARTILAGE = Tissue(105, 110, 0.7, 12)
DISC = Tissue(85, 90, 0.7, 6)
SPINAL_CANAL = Tissue(22, 25, 1.4, 3)
LUNG = Tissue(-855, -850, 0.45, 14)
LUNG_VESSEL = Tissue(42, 150, 1.2)
BLOOD = Tissue(42, 155, 1.8, 2)
VENOUS_BLOOD = Tissue(42, 140, 1.8, 2)
HEART_MUSCLE = Tissue(48, 105, 3.2, 4)
LIVER = Tissue(58, 108, 2.2, 4)
LIVER_VESSEL = Tissue(42, 160, 2.0)
SPLEEN = Tissue(48, 118, 1.8, 3)
PANCREAS = Tissue(38, 92, 1.5, 10)
GALLBLADDER = Tissue(8, 8, 0.6)
KIDNEY_CORTEX = Tissue(32, 185, 2.6, 4)
KIDNEY_MEDULLA = Tissue(28, 150, 4.5, 4)
RENAL_PELVIS = Tissue(-40, -20, 9.0, 12)
GUT_WALL = Tissue(42, 88, 1.7, 5)
GUT_CONTENT = Tissue(18, 20, 1.0, 12)
GUT_GAS = Tissue(-920, -920, 0.2, 10)
STOOL = Tissue(20, 20, 0.9, 140)
BLADDER = Tissue(4, 6, 18.0)
PROSTATE = Tissue(42, 75, 1.6, 5)
BRAIN = Tissue(35, 40, 8.0, 3)
AIRWAY = Tissue(-985, -985, 0.1)
AIRWAY_WALL = Tissue(10, 40, 0.8)
OESOPHAGUS = Tissue(38, 60, 1.6, 4)
THYROID = Tissue(95, 150, 1.5, 4)
NODE = Tissue(40, 85, 6.5, 4)
LUNG_LESION = Tissue(35, 70, 8.0, 8)
LIVER_LESION = Tissue(40, 72, 7.0, 5)

"""Write the ONNX files of shipped networks and name them, with their checksums, in the cards.

    python -m training.onnx_files [MODEL ...]

Without a name every shipped network is written anew. Tests compare each file with torch on real and generated pictures.
"""

from __future__ import annotations

import argparse

from dicom_qa_node.models.onnx_export import ship
from dicom_qa_node.models.registry import all_cards, card_of


def main() -> None:
    """Write what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    shipped = [card.name for card in all_cards().values() if card.measured is not None]
    for name in parser.parse_args().names or shipped:
        described = ship(card_of(name))
        print(described.file, described.sha256, flush=True)


if __name__ == "__main__":
    main()

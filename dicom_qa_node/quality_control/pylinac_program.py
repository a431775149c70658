"""Runs one analysis by pylinac; started by its path with the Python of pylinac's own environment, as a program.

It imports nothing of this package: that environment has pydicom 2. On standard input it takes one JSON object with
``class`` (name of a class of pylinac), ``folder`` (the files of one series) and ``memory_mb``; on standard output it
gives one JSON object with ``version`` and either ``results`` or ``error``.
"""

import json
import os
import resource
import sys

CLASSES = {"CatPhan503", "CatPhan504", "CatPhan600", "CatPhan604", "CatPhan700", "ACRCT"}


def main() -> int:
    """Read the request, analyse, write the answer."""
    answer_to = os.dup(1)
    # pylinac and its libraries may print: nothing but the answer goes to standard output
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    limit = int(request["memory_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer = _answer(request)
    with os.fdopen(answer_to, "w", encoding="utf-8") as out:
        json.dump(answer, out, default=str)
    return 0


def _answer(request: "dict[str, str]") -> "dict[str, object]":
    if request["class"] not in CLASSES:
        return {"version": "", "error": f"unknown class {request['class']}"}
    version = ""
    try:
        import pylinac  # type: ignore[import-not-found,unused-ignore]

        version = pylinac.__version__
        phantom = getattr(pylinac, request["class"])(request["folder"])
        phantom.analyze()
        return {"version": version, "results": phantom.results_data(as_dict=True)}
    except MemoryError:
        return {"version": version, "error": f"it needs more memory than {request['memory_mb']} MB"}
    except Exception as error:  # noqa: BLE001 - whatever fails, the phantom is not analysed, with the words
        words = " ".join(str(error).split())[:300] or "no words"
        return {"version": version, "error": f"{type(error).__name__}: {words}"}


if __name__ == "__main__":
    sys.exit(main())

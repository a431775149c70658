"""What is shipped, built in folders of the tests: wheel, sdist, Debian package, container."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from dicom_qa_node.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-gpu.lock")
"""For a CPU host, which is the default of package and container, and for one with a GPU."""

NOT_SHIPPED = {"__pycache__", ".git", ".venv", "build", "dist", "demo", "var"}


def run(*command: object, cwd: Path, **more: object) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def package_files() -> set[str]:
    """Return every file of the package; what an interpreter or an editor leaves behind is none."""
    files = (path.relative_to(ROOT) for path in (ROOT / "dicom_qa_node").rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts and not path.name.startswith(".")}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Return a copy of the sources, so that building leaves nothing in the tree."""
    folder = tmp_path_factory.mktemp("source") / "dicom-qa-node"

    def ignore(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in NOT_SHIPPED or name.endswith((".egg-info", "_cache", ".pyc"))}

    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.is_file():
            shutil.copy2(entry, folder)
    for name in (".ci", "benchmarks", "debian", "dicom_qa_node", "docs", "systemd", "tests", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for left in ("dicom-qa-node", ".debhelper"):
        shutil.rmtree(folder / "debian" / left, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def built(source) -> dict[str, Path]:
    """Return wheel and sdist as ``make dist`` builds them: the wheel from the sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".", cwd=source)
    wheel, sdist = next((source / "dist").glob("*.whl")), next((source / "dist").glob("*.tar.gz"))
    return {"wheel": wheel, "sdist": sdist}


@pytest.mark.full
def test_wheel_holds_every_file_of_the_package_and_no_other_package(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    info = f"dicom_qa_node-{PROJECT['version']}.dist-info/"
    inside = {name for name in names if not name.startswith(info)}
    assert inside == package_files()
    assert {f"{info}licenses/LICENSE", f"{info}licenses/NOTICE"} <= names
    kinds = {".html", ".js", ".css", ".mako", ".onnx", ".safetensors", ".json", ".yaml", ".typed", ".LICENSE"}
    assert kinds <= {Path(name).suffix or Path(name).name for name in inside}


@pytest.mark.full
def test_sdist_can_build_test_and_document(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {member.name.split("/", 1)[1] for member in sdist.getmembers() if member.isfile()}
    assert package_files() <= names
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in (".ci", "benchmarks", "debian", "systemd", "tests", "docs", "training")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".yaml", ".csv", ".service", ".conf", ".postinst"}
    }
    wanted |= {"Makefile", "Containerfile", ".dockerignore", "compose.yaml", "requirements.lock", "CHANGELOG.md"}
    wanted.add("requirements-gpu.lock")
    wanted |= {".ci/run", ".ci/audit", ".ci/sbom", "debian/control", "debian/rules"}
    assert wanted - names == set()


@pytest.mark.full
def test_installed_wheel_runs_in_an_empty_folder(built, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(site)
    start = f"import sys; sys.path.insert(0, {str(site)!r}); from dicom_qa_node.cli import main; sys.exit(main())"

    def qa(*arguments: str) -> str:
        return run(sys.executable, "-P", "-c", start, *arguments, cwd=empty)

    assert "no problem found" in qa("config", "check")
    verified = json.loads(qa("models", "verify", "--json"))
    assert {"ms_iqa_small", "tfkt_ct", "efficientnet_lite0"} <= {weights["name"] for weights in verified}
    for weights in verified:
        assert weights["file"].startswith(str(site))
        assert weights["verdict"] == "ok"
    qa("db", "upgrade")
    assert (empty / "var" / "dicom-qa-node" / "quality.db").stat().st_mode & 0o077 == 0


def test_what_is_under_another_licence_is_not_distributed():
    """The licence of wheel and sdist is one: the plug-in for Orthanc (AGPL) stays in the repository."""
    assert PROJECT["license"] == "Apache-2.0"
    assert "prune integrations" in (ROOT / "MANIFEST.in").read_text().splitlines()
    assert not any("integrations" in name for name in shipped_by_debian())
    licences = {path.parent.name for path in (ROOT / "integrations").glob("*/LICENSE")}
    assert licences == {path.name for path in (ROOT / "integrations").iterdir() if path.is_dir()}


def shipped_by_debian() -> Iterator[str]:
    for line in (ROOT / "debian" / "dicom-qa-node.install").read_text().splitlines():
        yield line.split()[0]
    for kind in ("docs", "manpages"):
        yield from (ROOT / "debian" / f"dicom-qa-node.{kind}").read_text().split()


def test_debian_package_names_files_that_exist_and_the_version_of_the_project():
    missing = [name for name in shipped_by_debian() if not (ROOT / name).exists()]
    assert missing == []
    assert (ROOT / "debian" / "changelog").read_text().startswith(f"dicom-qa-node ({PROJECT['version']}) ")


@pytest.mark.parametrize(
    "script", ["dicom-qa-node.postinst", "dicom-qa-node.prerm", "dicom-qa-node.postrm", "bin/dicom-qa-node"]
)
def test_debian_scripts_parse(script):
    run("sh", "-n", ROOT / "debian" / script, cwd=ROOT)


@pytest.fixture(scope="module")
def debian_package(built, source) -> Path:
    """Return the package as ``make deb`` builds it."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEB_RULES_REQUIRES_ROOT": "no"}
    run("debian/rules", "clean", "binary", cwd=source, env=environment)
    (package,) = (source / "dist").glob("*.deb")
    return package


@pytest.mark.full
@pytest.mark.peers("dh")
def test_debian_package(built, debian_package, tmp_path):
    tree = tmp_path / "tree"
    run("dpkg-deb", "--raw-extract", debian_package, tree, cwd=tmp_path)
    assert (tree / "DEBIAN" / "conffiles").read_text().split() == ["/etc/dicom-qa-node/config.yaml"]
    assert (tree / "etc/dicom-qa-node/config.yaml").stat().st_mode & 0o777 == 0o640
    shared = tree / "usr/share/dicom-qa-node"
    assert {path.name for path in shared.iterdir()} == {built["wheel"].name, *LOCKS}
    for unit in ("dicom-qa-node.service", "dicom-qa-node@.service"):
        assert (tree / "lib/systemd/system" / unit).read_text() == (ROOT / "systemd" / unit).read_text()
    after = (tree / "DEBIAN" / "postinst").read_text()
    steps = [
        "systemd-sysusers",
        "make_environment\n",
        "stop_node\n",
        "put_in_place\n",
        "db upgrade",
        "deb-systemd-invoke $_dh_action",
    ]
    places = [after.rindex(step) for step in steps]
    assert places == sorted(places)
    assert "rm -rf /var/lib" not in (tree / "DEBIAN" / "prerm").read_text()


@pytest.mark.full
@pytest.mark.peers("dh", "lintian")
def test_debian_package_is_as_lintian_wants_it(debian_package, run_tool):
    said = run_tool("lintian", "--fail-on", "error,warning", debian_package)
    assert (said.returncode, said.stdout) == (0, ""), said.stdout + said.stderr


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def copied() -> list[str]:
    sources = []
    for name, arguments in instructions():
        words = [word for word in arguments.split() if not word.startswith("--")]
        if name == "COPY" and "--from" not in arguments:
            sources += words[:-1]
    return sources


def test_container_copies_what_is_there_and_gets_nothing_else():
    sources = [name.removeprefix("./") for name in copied()]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == set(sources)
    assert set(PROJECT["license-files"]) | {PROJECT["readme"]} <= set(sources)


def test_container_is_for_the_cpu_unless_it_is_built_for_a_gpu():
    found = instructions()
    assert ("ARG", f"LOCK={LOCKS[0]}") in found
    assert any(name == "RUN" and '--requirement "$LOCK"' in words for name, words in found)
    assert set(LOCKS) <= set(copied())


def test_debian_package_is_for_the_cpu_unless_the_administrator_asks_for_a_gpu(tmp_path):
    script = (ROOT / "debian" / "dicom-qa-node.postinst").read_text()
    chosen = "\n".join(line for line in script.splitlines() if line.lstrip().startswith(("lock=", "if [ -e")))
    for wanted, lock in ((False, LOCKS[0]), (True, LOCKS[1])):
        switch = tmp_path / str(wanted)
        if wanted:
            switch.touch()
        assert run("sh", "-c", f'gpu="{switch}"\n{chosen}\necho "$lock"', cwd=tmp_path).strip() == lock
    assert '--requirement "$share/$lock"' in script
    assert "\ngpu=/etc/dicom-qa-node/gpu\n" in script


@pytest.mark.full
def test_container_builds_the_wheel_from_what_it_copies(built, tmp_path):
    context = tmp_path / "context"
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, context, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert contents(wheel) == contents(built["wheel"])


def contents(wheel: Path) -> dict[str, int]:
    """Return the checksum of every file of the package in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.CRC for item in archive.infolist() if item.filename.startswith("dicom_qa_node/")}


def test_containerfile_is_as_hadolint_wants_it():
    run(Path(sysconfig.get_path("scripts")) / "hadolint", ROOT / "Containerfile", cwd=ROOT)


def test_container_runs_as_a_user_of_its_own_and_says_how_it_is():
    last = dict(instructions())
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert json.loads(last["ENTRYPOINT"]) == ["dicom-qa-node"]
    assert json.loads(last["CMD"]) == ["serve"]
    assert last["HEALTHCHECK"].endswith('CMD ["dicom-qa-node", "health"]')
    config = load_config(ROOT / "systemd" / "config.yaml")
    assert str(config.spool_dir).startswith(json.loads(last["VOLUME"])[0])
    assert str(config.receive.port) in last["EXPOSE"].split()


def test_compose_example_is_whole_and_its_node_configuration_valid(tmp_path):
    text = (ROOT / "compose.yaml").read_text()
    PyCompose.from_yaml(text).validate()
    compose = yaml.safe_load(text)
    assert set(compose["services"]) == {"node", "database", "archive"}
    for service in compose["services"].values():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        assert {entry["source"] for entry in service.get("configs", [])} <= set(compose["configs"])
        assert set(service["networks"]) <= set(compose["networks"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
    node = compose["services"]["node"]
    assert node["image"] == f"dicom-qa-node:{PROJECT['version']}"
    assert node["read_only"]
    assert node["cap_drop"] == ["ALL"]
    path = tmp_path / "config.yaml"
    path.write_text(compose["configs"]["node"]["content"])
    config = load_config(path)
    assert not config.receive.allow_unknown_peers
    (target,) = config.deliver.targets
    archive = json.loads(compose["configs"]["archive"]["content"])
    assert (target.host, target.port, target.ae_title) == ("archive", archive["DicomPort"], archive["DicomAet"])
    assert ":" not in config.database_url.split("@")[0].split("//")[1], "the password belongs into a file"


@pytest.mark.full
@pytest.mark.peers("Orthanc", "echoscu")
def test_archive_of_the_compose_example_starts_and_answers(background, run_tool, free_port, listening, poll, tmp_path):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    settings = json.loads(compose["configs"]["archive"]["content"])
    ports = {"DicomPort": free_port(), "HttpPort": free_port()}
    folders = {"StorageDirectory": str(tmp_path), "IndexDirectory": str(tmp_path), "Plugins": []}
    (tmp_path / "orthanc.json").write_text(json.dumps(settings | ports | folders))
    background(["Orthanc", tmp_path / "orthanc.json"])
    poll(lambda: listening(ports["DicomPort"]), 40, "Orthanc listens")
    run_tool("echoscu", "-aet", "DICOMQA", "-aec", "ORTHANC", "127.0.0.1", ports["DicomPort"], check=True)


SECURITY = ROOT / "docs" / "security.md"


def test_threat_model_names_modules_and_tests_that_exist():
    rows = [line.split("|")[1:-1] for line in SECURITY.read_text().splitlines() if line.startswith("| ")]
    named = [(folder, name) for row in rows if len(row) == 4 for folder, name in places(row[2], row[3])]
    assert len(named) > 80
    assert [name for folder, name in named if not _is_there(folder, name)] == []


def _is_there(folder: Path, name: str) -> bool:
    """Whether a file is there and, behind ``::``, has that test."""
    path, _, test = name.partition("::")
    found = [place for place in (folder / path, ROOT / path) if place.exists()]
    return bool(found) and (not test or f"def {test}(" in found[0].read_text())


def places(modules: str, tests: str) -> Iterator[tuple[Path, str]]:
    yield from ((ROOT / "dicom_qa_node", name) for name in re.findall(r"`([^`]+)`", modules))
    yield from ((ROOT / "tests", name) for name in re.findall(r"`([^`]+)`", tests))


@pytest.mark.peers("systemd-analyze")
@pytest.mark.parametrize(
    ("unit", "row"),
    [
        ("dicom-qa-node.service", "`dicom-qa-node.service`"),
        ("dicom-qa-node@.service", "`dicom-qa-node@receive.service`"),
        ("dicom-qa-node@.service", "`dicom-qa-node@score.service`"),
        ("dicom-qa-node.service", "`dicom-qa-node.service` with `gpu.conf`"),
    ],
)
def test_sandbox_is_no_weaker_than_the_threat_model_says(run_tool, tmp_path, unit, row):
    name = row.split("`")[1]
    shutil.copy(ROOT / "systemd" / unit, tmp_path / name)
    dropped = tmp_path / f"{name}.d"
    if "gpu" in row:
        dropped.mkdir()
        shutil.copy(ROOT / "systemd" / "gpu.conf", dropped)
    elif (ROOT / "systemd" / dropped.name).is_dir():
        shutil.copytree(ROOT / "systemd" / dropped.name, dropped)
    said = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) \|$", SECURITY.read_text(), re.MULTILINE)
    measured = run_tool("systemd-analyze", "security", "--offline=true", tmp_path / name)
    found = re.search(r"exposure level for \S+: ([\d.]+)", measured.stdout)
    assert said is not None
    assert found is not None, measured.stdout + measured.stderr
    assert float(found[1]) <= float(said[1])

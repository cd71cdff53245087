"""Downloads of weights, which fail fast and with one line."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tiacrossfusion.errors import TiacfError

#: Seconds to wait for a server that does not answer.
TIMEOUT = 10.0

_LOCAL_FILE = "give a local file with --encoder-weights FILE"


def offline_variable() -> str | None:
    """Return the environment variable that forbids network access, or None."""
    for variable in ("TIACF_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(variable, "").strip().lower() in ("1", "on", "yes", "true"):
            return variable
    return None


@contextmanager
def hub_offline() -> Iterator[None]:
    """Restrict huggingface_hub to its cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def fetching_from_hub(name: str, repository: str) -> Iterator[None]:
    """Turn the failure of a download from the Hugging Face hub into one line.

    One short request comes first: huggingface_hub repeats a failing request for minutes. When the hub
    cannot be reached, or an environment variable forbids it, the body still runs on the local cache.

    Raises:
        TiacfError: access is refused, or the hub is out of reach and the cache lacks the model.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    plain = repository.partition("@")[0]
    page = f"https://huggingface.co/{plain}"
    trouble = None
    if variable := offline_variable():
        trouble = f"{variable} is set and the cache lacks it"
    else:
        try:
            get_hf_file_metadata(hf_hub_url(plain, "config.json"), timeout=TIMEOUT)
        except errors.GatedRepoError as error:
            raise _refused(name, page) from error
        except errors.RepositoryNotFoundError as error:
            raise TiacfError(
                f"cannot fetch the weights of {name}: {page} does not exist or needs a log-in "
                f"(`hf auth login`); or {_LOCAL_FILE}"
            ) from error
        except errors.EntryNotFoundError:
            pass  # without config.json, but there
        except errors.HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (401, 403):
                raise _refused(name, page) from error
            trouble = "the hub answered with an error"
        except Exception as error:  # any transport error means: not reachable
            trouble = f"no connection to huggingface.co ({type(error).__name__})"

    try:
        with nullcontext() if trouble is None else hub_offline():
            yield
    except errors.GatedRepoError as error:
        raise _refused(name, page) from error
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, OSError) as error:
        if trouble is None:
            raise TiacfError(
                f"cannot fetch the weights of {name} from {page}: {_first_line(error)}; "
                f"{_LOCAL_FILE}"
            ) from error
        raise TiacfError(
            f"cannot fetch the weights of {name}: {trouble}; {_LOCAL_FILE} (its page, where "
            f"access to a gated model is asked for, is {page})"
        ) from error


def _refused(name: str, page: str) -> TiacfError:
    return TiacfError(
        f"cannot fetch the weights of {name}: access is refused; ask for it at {page} and log in "
        f"(`hf auth login`), or {_LOCAL_FILE}"
    )


@contextmanager
def fetching_from_url(name: str, url: str) -> Iterator[None]:
    """Turn the failure of a download through `torch.hub` into one line.

    Raises:
        TiacfError: the network is forbidden or does not answer.
    """
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not cached.is_file() and (variable := offline_variable()):
        raise TiacfError(
            f"cannot fetch the weights of {name}: {variable} is set; {_LOCAL_FILE} (from {url})"
        )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub sets none
    try:
        yield
    except OSError as error:  # URLError and timeouts
        raise TiacfError(
            f"cannot fetch the weights of {name} from {url}: {_first_line(error)}; {_LOCAL_FILE}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

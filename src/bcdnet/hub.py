"""Models on the Hugging Face hub: `hf-hub:ORG/REPO` names one, `hf-hub:ORG/REPO@REVISION` a certain version of it.

A leaf; huggingface_hub is imported where it is used. `HF_ENDPOINT` names another hub, `HF_HOME` where files are kept.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bcdnet.errors import BcdnetError

PREFIX = "hf-hub:"
MODEL_FILE, PACKED_FILE = "model.safetensors", "model.bcdn"
NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)  # of an organisation and of a repository, as the hub has them
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_hub_name(name: str) -> bool:
    """Whether a model's name means a repository of the hub."""
    return name.startswith(PREFIX)


def download(name: str, files: Sequence[str]) -> Path:
    """The first of `files` that the repository has, as a local (cached) file.

    Raises BcdnetError: no such repository or revision, none of the files in it, no connection, no huggingface_hub.
    """
    import logging  # which a process without a hub has no use for

    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError:
        raise BcdnetError(f"{name}: needs huggingface_hub: pip install 'bcdnet[hub]'") from None

    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repository(repository)
    # The client tells of each attempt on its own; we tell of the outcome.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)
    problem, offline = f"holds none of {', '.join(files)}", False
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None, local_files_only=offline))
        except LocalEntryNotFoundError as error:  # another one may be cached; the hub was waited for once
            if not offline:
                # The client blames the connection, whatever the hub answered; its cause tells.
                problem = f"nothing came from the hub, and nothing is cached: {_reason(error.__cause__ or error)}"
            offline = True
        except EntryNotFoundError:
            continue
        except GatedRepoError:
            raise BcdnetError(f"{name}: its terms are to be accepted on its page first; then {LOG_IN}") from None
        except RepositoryNotFoundError:
            raise BcdnetError(f"{name}: the hub has no such repository, or not for everyone; {LOG_IN}") from None
        except RevisionNotFoundError:
            raise BcdnetError(f"{name}: {repository} has no revision {revision or 'main'!r}") from None
        except Exception as error:
            # The hub's client reports through many kinds of exception, its HTTP library's among them.
            raise BcdnetError(f"{name}: {_reason(error)}") from None
    raise BcdnetError(f"{name}: {problem}")


def upload(repository: str, files: Mapping[str, Path | bytes], message: str, private: bool = False) -> str:
    """Make the repository if there is none, and commit `files` (name in it -> local file or content); its address.

    A model of an earlier push that is not among them is removed: two networks in one repository would pass for one.
    The token is the one of `hf auth login` or `HF_TOKEN`. Raises BcdnetError with the hub's reason, and before any file
    is sent where a repository that shall be `private` is there and public.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repository(repository)
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and api.repo_info(repository).private is False:  # the hub leaves one that is there as it is
            raise BcdnetError("it is there and public; make it private in its settings first, or leave --private out")
        additions = [
            CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=str(content) if isinstance(content, Path) else content
            )
            for name, content in files.items()
        ]
        stale = [name for name in (MODEL_FILE, PACKED_FILE) if name not in files and api.file_exists(repository, name)]
        deletions = [CommitOperationDelete(path_in_repo=name) for name in stale]
        api.create_commit(repository, [*additions, *deletions], commit_message=message)
    except Exception as error:
        raise BcdnetError(f"cannot push to {repository}: {_reason(error)}") from None
    return str(url)


def check_repository(name: str) -> None:
    """Raise BcdnetError unless `name` is ORG/REPO, by the hub's rules, which it would apply after all the work."""
    if is_hub_name(name):
        raise BcdnetError(f"{name}: a repository is called ORG/REPO; leave {PREFIX} out")
    parts = name.split("/")
    wrong = len(parts) != 2 or not all(NAME.fullmatch(part) and part.strip("_") for part in parts)
    if wrong or "--" in name or ".." in name or name.endswith(".git"):
        raise BcdnetError(f"{name!r} is no repository; it is called ORG/REPO, of letters, digits and single - _ .")


def _reason(error: BaseException) -> str:
    """The hub's own words where the client keeps them (`server_message`), else its first line; the remedy for 401."""
    lines = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
    return lines[0] + (f"; {LOG_IN}" if "401" in str(error) else "")

"""A folder's way to the Hugging Face hub, by its own client. The token is the client's business: it comes from
HF_TOKEN or from `hf auth login`, and is neither taken as a flag nor shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tglo.redaction import redacted

_LEFT_OUT = [".*", "**/.*"]  # hidden files are nobody's export
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def push(folder: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload an export's files as one commit, to a repository that is made if need be; return its address.

    revision: a branch, made if need be; the main one by default. ValueError for a folder that is no export,
    a repository or token that is refused, and a public repository under `private`; ConnectionError where the
    hub cannot be reached.
    """
    from huggingface_hub import HfApi

    _check(folder)
    with _told(repo):
        api = HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(
                f"{repo} exists and is public; make it private in its settings on the hub, name another, or leave "
                "--private out"
            )
        if revision is not None and revision != "main":
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message="Export of tglo",
            ignore_patterns=_LEFT_OUT,
        )
        return f"{api.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give an export, as RUN/export")
    if (folder / "model_index.json").is_file() or any(folder.glob("*.safetensors")):
        return
    hint = f"; give {folder / 'export'}" if (folder / "export").is_dir() else ""
    raise ValueError(
        f"{folder} holds no export, neither model_index.json nor a .safetensors file{hint}"
    )


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn what the client raises into a sentence with a remedy."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise ValueError(f"there is no token for {constants.ENDPOINT}: {_LOGIN}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"the hub is switched off by HF_HUB_OFFLINE; unset it to push to {repo}"
        ) from error
    except errors.HFValidationError as error:
        raise ValueError(f"--repo is {repo!r}; write OWNER/NAME") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        raise _refusal(repo, status, " ".join(str(error).split())) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of the client's own library
        reason = redacted(" ".join(str(error).split()) or type(error).__name__)
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached ({reason}); the same command tries again"
        ) from error


def _refusal(repo: str, status: int | None, reason: str) -> Exception:
    from huggingface_hub import constants

    if status == 401:
        return ValueError(f"{constants.ENDPOINT} refuses the token for {repo}: {_LOGIN}")
    if status == 403:
        return ValueError(
            f"the token may not write to {repo}; take an OWNER that you belong to, and a token with the right to write"
        )
    if status == 404:
        return ValueError(
            f"{repo} does not exist and was not made, or the token may not see it; look at OWNER and NAME, and {_LOGIN}"
        )
    if status is not None and status < 500:
        return ValueError(f"the hub refuses {repo} (status {status}): {redacted(reason)[:300]}")
    return ConnectionError(
        f"the hub fails (status {status}): {redacted(reason)[:300]}; the same command tries again"
    )

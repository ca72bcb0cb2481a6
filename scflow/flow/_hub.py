"""A flow on the Hugging Face hub: one safetensors file and a card. The file is read by the same loader as any other."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scflow.errors import FileError, InputError
from scflow.flow import _storage

__all__ = ["FILE", "fetched", "push"]

FILE = "flow.safetensors"


def push(content: Mapping[str, Any], card: str, repo_id: str, *, private: bool, token: str | None, message: str) -> str:
    """Share a content and its card in one commit, whose address is returned.

    Raises
    ------
    InputError
        Where huggingface_hub is not installed.
    FileError
        Where the hub refuses.
    """
    api = _library().HfApi(token=token)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _storage.save(content, folder / FILE, overwrite=False)
        (folder / "README.md").write_text(card, encoding="utf-8")
        try:
            api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type="model", commit_message=message)
        except Exception as error:  # its own, and those of whichever HTTP client it has
            raise FileError(f"The hub did not take the flow as {repo_id!r}: {_reason(error)}{_MEND}") from error
    return str(getattr(done, "commit_url", done))


def fetched(repo_id: str, *, revision: str | None, token: str | None) -> Path:
    """Where the file of a flow on the hub lies on this machine, fetched if it was not.

    Raises
    ------
    InputError
        Where huggingface_hub is not installed.
    FileError
        Where the hub has no such file, or cannot be reached.
    """
    library = _library()
    try:
        return Path(library.hf_hub_download(repo_id, FILE, repo_type="model", revision=revision, token=token))
    except Exception as error:
        at = "" if revision is None else f" at {revision!r}"
        raise FileError(f"No flow could be fetched from {repo_id!r}{at} ({FILE}): {_reason(error)}{_MEND}") from error


_MEND = " Check the name, owner/name; log in with: hf auth login."


def _reason(error: Exception) -> str:
    """The first line of what went wrong: the rest is requests and identifiers of them."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else ''}."


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as missing:
        raise InputError(
            "huggingface_hub is not installed. Install it with: pip install 'scflow-tools[hub]'; or share the file "
            "that flow.save(path) writes, which Flow.load(path) reads."
        ) from missing
    return huggingface_hub

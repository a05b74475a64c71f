"""Models by name: a saved model and its card on the Hugging Face hub, or in a folder."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pandas as pd

from cellfuse._access import Data
from cellfuse.model.base.history import Frames
from cellfuse.model.base.storage import DESCRIPTION, WEIGHTS

__all__ = ["OnHub"]

#: ``owner/name``, as the hub spells it; anything else is meant as a folder.
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
CARD = "README.md"


class OnHub:
    """What a model needs to be found by its name."""

    is_trained_: bool
    history_: Frames | None
    init_arguments_: dict[str, Any]
    n_epochs_: int
    _setup: dict[str, Any]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        data: str = "",
        scores: Mapping[str, float] | pd.DataFrame | None = None,
        license: str | None = None,
        private: bool = False,
        revision: str | None = None,
        token: str | None = None,
        message: str = "Upload of a cellfuse model",
    ) -> str:
        """Put the model and its card on the Hugging Face hub.

        What goes there is what :meth:`save` writes, weights (safetensors) and a description (JSON,
        with the names of genes, channels and obs columns), and a card. No cell goes there.

        Parameters
        ----------
        repo_id
            ``"owner/name"``; the repository is made where there is none.
        data
            What the model was trained on, in a sentence or a few, for the card.
        scores
            Numbers for the card: name to value, or a table as ``cf.tl`` and ``cf.benchmark`` give
            it.
        license
            Licence of the weights as the hub spells it, such as ``"cc-by-4.0"``; None names none.
        private
            Only you see a repository that is made.
        revision
            Branch; None: the main one.
        token
            Access token; None: the one that ``hf auth login`` keeps.
        message
            What is written beside the commit.

        Returns
        -------
        Address of the commit.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            `repo_id` is no ``"owner/name"``.
        ConnectionError
            The hub is out of reach, or refuses; the text says what to do without it.
        """
        if not self.is_trained_:
            raise RuntimeError(f"this {type(self).__name__} is not trained: call `model.train()`.")
        if not REPO_ID.fullmatch(repo_id):
            raise ValueError(f"expected repo_id='owner/name', found {repo_id!r}.")
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as beside:
            folder = Path(beside) / "model"
            self.save(folder)  # type: ignore[attr-defined]  # the model's
            card = self._card(repo_id, data, scores, license)
            (folder / CARD).write_text(card, encoding="utf-8")
            api = HfApi(token=token)
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
                )
            except Exception as error:
                # Which error it is depends on the version of the hub's client and its transport.
                raise ConnectionError(
                    f"the model could not be put at {repo_id!r} ({error}). Without the hub: "
                    "`model.save(folder)`, give the folder on, and there "
                    f"`cf.{type(self).__name__}.from_pretrained(folder)`."
                ) from error
        return str(commit.commit_url)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        adata: Data | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Read a trained model by its name on the Hugging Face hub, or from a folder.

        Weights and a description are all that is fetched; nothing that is read is executed.

        Parameters
        ----------
        source
            ``"owner/name"``, or a folder that :meth:`save` wrote. A folder that is there goes
            first, and needs no network.
        adata
            Data to attach, as in :meth:`load`; None for inference on data passed later.
        revision
            Branch, tag or commit; name a commit where a result must come out the same again.
        token
            Access token for a private model; None: the one that ``hf auth login`` keeps.
        cache_dir
            Where downloads are kept; None: the hub's usual folder. What is there is not fetched
            again.

        Raises
        ------
        FileNotFoundError
            There is no such folder, or it holds no model.
        ConnectionError
            The hub is out of reach, or has no such model; the text says what to fetch.
        ValueError
            Another class of model, or a damaged one.
        """
        folder = Path(source)
        if not folder.is_dir():
            if not REPO_ID.fullmatch(str(source)):
                raise FileNotFoundError(
                    f"{str(source)!r} is no folder, and no model of the hub, which are named "
                    "'owner/name'."
                )
            folder = _fetched(str(source), revision=revision, token=token, cache_dir=cache_dir)
        return cls.load(folder, adata)  # type: ignore[attr-defined]  # the model's

    def _card(
        self,
        repo_id: str,
        data: str,
        scores: Mapping[str, float] | pd.DataFrame | None,
        license: str | None,
    ) -> str:
        """Text of the model's page on the hub."""
        name = type(self).__name__
        head = ["---", "library_name: cellfuse", f"tags: [cellfuse, {name}]"]
        head += [f"license: {json.dumps(license)}"] if license else []
        read = [
            f"- {one['role']}: {one['kind']} of shape {tuple(one['shape'])}, modality "
            f"`{one['modality']}`"
            for one in self._setup["inputs"]
        ]
        contexts = ", ".join(f"`{key}`" for key in self._setup["context_keys"])
        parts = [
            "\n".join([*head, "---", "", f"# {repo_id}"]),
            f"A {name} model of the library cellfuse.",
            "## Use\n\n```python\nimport cellfuse as cf\n\n"
            f"model = cf.{name}.from_pretrained({repo_id!r})\n```",
            "## Data\n\n" + "\n\n".join(filter(None, [data, "\n".join(read)])),
            f"Contexts by {contexts}.",
            "## Settings\n\n" + _table(self.init_arguments_),
            f"## Training\n\n{self.n_epochs_} epochs.\n\n" + _table(self._last_losses()),
        ]
        if scores is not None:
            shown = _table(scores) if isinstance(scores, Mapping) else _rows(scores)
            parts.append("## Scores\n\n" + shown)
        return "\n\n".join(part.rstrip() for part in parts) + "\n"

    def _last_losses(self) -> dict[str, float]:
        last = {name: frame[name].dropna() for name, frame in (self.history_ or {}).items()}
        return {name: float(values.iloc[-1]) for name, values in last.items() if len(values)}


def _fetched(
    repo_id: str, *, revision: str | None, token: str | None, cache_dir: str | Path | None
) -> Path:
    """Folder with the two files of a saved model, fetched unless they are there."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            # Nothing else is wanted, whatever the repository holds.
            allow_patterns=[DESCRIPTION, WEIGHTS],
        )
    except Exception as error:
        # Which error it is depends on the version of the hub's client and its transport.
        raise ConnectionError(
            f"the model {repo_id!r} could not be fetched ({error}). On a machine that reaches it, "
            f"fetch {DESCRIPTION!r} and {WEIGHTS!r} from huggingface.co/{repo_id}, put both into a "
            "folder here and pass that: `from_pretrained('path/to/folder')`."
        ) from error
    return Path(found)


def _table(values: Mapping[str, Any]) -> str:
    return _rows(pd.DataFrame({"name": list(values), "value": list(values.values())}))


def _rows(table: pd.DataFrame) -> str:
    """Write a table as markdown: numbers with four digits, no cell that ends its row."""
    if not isinstance(table.index, pd.RangeIndex):
        table = table.reset_index()

    def text(value: Any) -> str:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        return " ".join(shown.replace("|", "\\|").split())

    lines = [[str(column) for column in table.columns], ["---"] * table.shape[1]]
    lines += [[text(v) for v in row] for row in table.itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

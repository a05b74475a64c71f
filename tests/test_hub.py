"""Models by name: what goes to the hub, what is fetched, and how it goes without."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from screens import any_model_screen

import cellfuse as cf


@pytest.fixture(scope="module")
def model():
    mdata = any_model_screen()
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.SharedAxes(mdata, n_comps=4, n_draws=5, seed=3)
    model.train()
    return model


class Hub:
    """The hub as a folder: what is uploaded lies under its name."""

    def __init__(self, root: Path, token: str | None = None) -> None:
        self.root, self.token, self.made = root, token, {}

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        self.made[repo_id] = (private, exist_ok)

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
        assert repo_id in self.made
        shutil.copytree(folder_path, self.root / repo_id)
        return SimpleNamespace(commit_url=f"hub:{repo_id}@{revision or 'main'}")

    def snapshot_download(self, repo_id, *, revision, token, cache_dir, allow_patterns):
        found = self.root / repo_id
        if not found.is_dir():
            raise OSError("no such repository")
        target = Path(cache_dir) / (revision or "main")
        target.mkdir(parents=True)
        for name in allow_patterns:
            shutil.copy(found / name, target)
        return str(target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_a_model_comes_back_by_its_name_and_nothing_is_unpickled(model, hub, tmp_path, monkeypatch):
    place = model.push_to_hub("lab/screen", private=True, token="secret")
    assert place == "hub:lab/screen@main" and hub.token == "secret"
    assert hub.made == {"lab/screen": (True, True)}
    files = {path.name for path in (hub.root / "lab/screen").iterdir()}
    assert files == {"cellfuse.json", "weights.safetensors", "README.md"}

    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    (hub.root / "lab/screen/evil.pt").write_bytes(b"never fetched")
    found = cf.SharedAxes.from_pretrained("lab/screen", cache_dir=tmp_path / "cache")
    assert {p.name for p in (tmp_path / "cache/main").iterdir()} == files - {"README.md"}
    for role in ("image", "rna"):
        np.testing.assert_array_equal(
            found.get_latent_representation(any_model_screen(), modality=role),
            model.get_latent_representation(modality=role),
        )
    assert found.adata is None


def test_the_card_tells_data_settings_and_scores(model, hub):
    scores = pd.DataFrame({"score": ["guide | consistency"], "value": [0.123456]})
    model.push_to_hub("lab/screen", data="Twelve guides.", scores=scores, license="cc-by-4.0")
    card = (hub.root / "lab/screen/README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert "library_name: cellfuse" in head and 'license: "cc-by-4.0"' in head
    assert "cf.SharedAxes.from_pretrained('lab/screen')" in body
    assert "Twelve guides." in body and "Contexts by `guide`." in body
    assert "- image: " in body and "- rna: " in body
    assert "| n_comps | 4 |" in body and "| seed | 3 |" in body
    assert "| guide \\| consistency | 0.1235 |" in body
    model.push_to_hub("lab/plain", scores={"recall": 0.5})
    plain = (hub.root / "lab/plain/README.md").read_text()
    assert "license" not in plain and "| recall | 0.5 |" in plain


def test_a_folder_needs_no_hub(model, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    model.save(tmp_path / "lab" / "screen")
    monkeypatch.chdir(tmp_path)
    mdata = any_model_screen()
    found = cf.SharedAxes.from_pretrained("lab/screen", mdata)
    assert found.adata is mdata
    with pytest.raises(ValueError, match=r"load it with `cf.SharedAxes.load`"):
        cf.PETRI.from_pretrained(tmp_path / "lab" / "screen")
    with pytest.raises(FileNotFoundError, match="no model of the hub"):
        cf.SharedAxes.from_pretrained(tmp_path / "nowhere")


def test_out_of_reach_says_what_to_fetch_and_where_to_put_it(model, hub, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError, match=r"'cellfuse.json' and 'weights.safetensors' from"):
        cf.SharedAxes.from_pretrained("lab/none", cache_dir=tmp_path)

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(hub, "create_repo", fail)
    with pytest.raises(ConnectionError, match=r"`model.save\(folder\)`"):
        model.push_to_hub("lab/screen")


def test_what_is_no_model_or_no_name_is_refused(hub):
    mdata = any_model_screen()
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    blank = cf.SharedAxes(mdata)
    with pytest.raises(RuntimeError, match="not trained"):
        blank.push_to_hub("lab/screen")
    blank.train()
    with pytest.raises(ValueError, match="expected repo_id='owner/name'"):
        blank.push_to_hub("screen")
    assert not hub.made

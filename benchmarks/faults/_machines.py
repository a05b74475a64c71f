"""Processes and machines that are lost: writers, workers, a cluster's worker, one device of two."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import kills
import lightning as L
import numpy as np
import test_contract
import zarr
from _disk import weights_of
from _table import NotTried, contents, fault, said
from screens import make_screen

import cellfuse as cf

HERE = Path(__file__).resolve().parent


def stopped(job: str, number: int, folder: Path) -> str:
    """Stop a job twice at random moments; it then ends as the unbroken one."""
    for seed in range(4):  # a moment may lie after its end
        found = kills.broken(job, 1, np.random.default_rng(seed), number)
        assert found["same"], f"after {signal.Signals(number).name} it ended otherwise"
        left = [name for name in found["left"] if not name.endswith(".lock")]
        assert not left, f"{left} was left behind"
        if found["killed"]:
            return f"stopped {found['killed']} times, of {found['seconds']:.0f} s"
    raise AssertionError("it was always at its end before it was stopped")


for _job in ("write_store", "crop_cells", "embed_images", "embed"):
    _name = {"embed": "get_latent_representation(out=)"}.get(_job, _job)
    for _number in (signal.SIGKILL, signal.SIGINT):
        _what = "kill -9" if _number == signal.SIGKILL else "Ctrl-C"
        fault(f"{_what} in {_name}")(partial(stopped, _job, _number))


# -- writers --------------------------------------------------------------------------------------

WRITER = """
import sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import cellfuse as cf
folder, number = Path(sys.argv[1]), sys.argv[2]
mdata = cf.datasets.simulated_screen(n_targets=12, cells_per_guide=30, seed=0)
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    cf.io.write_store(mdata, folder / "s.zarr", context_keys="guide")
    print("written")
except OSError as error:
    print(error)
"""


@fault("two processes write one store")
def _two_writers(folder: Path) -> str:
    command = [sys.executable, "-c", WRITER, str(folder)]
    both = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(2)
    ]
    while not all((folder / f"ready{n}").exists() for n in range(2)):
        assert all(one.poll() is None for one in both)
        time.sleep(0.05)
    (folder / "go").touch()
    texts = sorted(one.communicate(timeout=120)[0].strip() for one in both)
    assert texts.count("written") == 1, texts
    message = next(text for text in texts if text != "written")
    assert "s.zarr" in message and ("another process" in message or "exists" in message), message
    expected = cf.datasets.simulated_screen(n_targets=12, cells_per_guide=30, seed=0)
    found = cf.io.open_store(folder / "s.zarr")
    assert np.array_equal(found["image"].obsm["crops"][:], expected["image"].obsm["crops"])
    return message


@fault("two crop_cells write one store")
def _two_croppers(folder: Path) -> str:
    path = folder / "crops.zarr"

    def fields() -> Any:
        yield kills._field(0)
        yield kills._field(1)
        said(lambda: cf.pp.crop_cells(kills._field(2), size=32, store=path), path.name, "another")
        yield kills._field(2)

    whole = cf.pp.crop_cells([kills._field(i) for i in range(3)], size=32)
    # Chunks of one field each, so that the first are being written when the second begins.
    found = cf.pp.crop_cells(fields(), size=32, store=path)
    assert np.array_equal(found.obsm["crops"][:], whole.obsm["crops"])
    assert [p.name for p in folder.iterdir()] == [path.name]
    return "the second is refused, the first ends well"


@fault("a chunk of a store is larger than the memory granted")
def _too_large(folder: Path) -> str:
    mdata = make_screen(n_cells=40, side=96)
    write = partial(
        cf.io.write_store, mdata, folder / "s.zarr", context_keys="guide", chunk_cells=100,
        memory=1 << 20,
    )  # fmt: skip
    return said(write, "crops", "chunk_cells", "memory")


# -- workers --------------------------------------------------------------------------------------


class _KillWorker(L.Callback):
    """Kills one of the workers that load batches."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 0:
            (worker, *_) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.5)


@fault("a process that loads batches is killed")
def _loader_killed(folder: Path) -> str:
    case = {"num_workers": 2}
    build = partial(test_contract.built, "PETRI")
    whole = test_contract.train(build(), 3, **case)
    broken = partial(test_contract.train, build(), 3, checkpoint=folder, **case)
    message = said(
        lambda: broken(callbacks=[_KillWorker()]),
        *("was killed", "num_workers", folder / "from-epoch-0.ckpt"),
        kinds=RuntimeError,
    )
    resumed = test_contract.train(build(), 3, checkpoint=folder, **case)
    assert weights_of(resumed) == weights_of(whole)
    return message


@fault("a cluster loses a worker while profiles are made")
def _cluster(folder: Path) -> str:
    try:
        import distributed
    except ImportError as error:
        raise NotTried(str(error)) from error
    from cellfuse.data import lazy

    rng = np.random.default_rng(0)
    values = rng.normal(size=(40_000, 64)).astype("f4")
    obs = make_screen(n_cells=len(values), side=1)["image"].obs
    array = zarr.create_array(folder / "z.zarr", shape=values.shape, chunks=(500, 64), dtype="f4")
    array[:] = values
    size, lazy.PIECE_BYTES = lazy.PIECE_BYTES, 1 << 17

    def profiles() -> Any:
        one = ad.AnnData(obs=obs, obsm={"flat": array})
        cf.pp.whiten(one, use_rep="flat")
        return cf.tl.aggregate(one, by="guide", use_rep="flat").X

    try:
        expected = profiles()
        cluster = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        )
        with cluster, distributed.Client(cluster) as client:
            pids = list(client.run(os.getpid).values())
            killer = threading.Timer(0.2, os.kill, (pids[0], signal.SIGKILL))
            killer.start()
            found = profiles()
            killer.join()
            again = profiles()
            assert pids[0] not in client.run(os.getpid).values(), "no worker was lost"
    finally:
        lazy.PIECE_BYTES = size
    assert np.array_equal(found, expected) and np.array_equal(again, expected)
    return "the same profiles, to the digit"


# -- devices --------------------------------------------------------------------------------------

DEVICES = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = [{tests!r}, {here!r}]
import lightning as L, test_contract
import cellfuse as cf
from _disk import weights_of

class Die(L.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1 and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    folder, what = sys.argv[1:3]
    model = test_contract.built("PETRI")
    given = dict(devices=2, strategy="ddp", checkpoint=folder)
    if what == "one document":
        given |= dict(batch_size=1)
    test_contract.train(model, 3, callbacks=[Die()] if what == "die" else [], **given)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        model.save(folder + "/model", overwrite=True)
"""


def _on_two(folder: Path, what: str) -> subprocess.CompletedProcess:
    """Train on two processes, as `torchrun` starts them."""
    script = folder / "train.py"
    script.write_text(DEVICES.format(tests=str(HERE.parents[1] / "tests"), here=str(HERE)))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*run, str(script), str(folder / "kept"), what], capture_output=True, text=True, timeout=240
    )


@fault("one of two devices is lost in a training")
def _device_lost(folder: Path) -> str:
    (folder / "whole").mkdir()
    assert _on_two(folder / "whole", "whole").returncode == 0
    broken = _on_two(folder, "die")
    assert broken.returncode and not (folder / "kept" / "model").exists()
    assert contents(folder / "kept"), "no checkpoint is there"
    assert _on_two(folder, "whole").returncode == 0
    one, other = (cf.PETRI.load(place / "kept" / "model") for place in (folder / "whole", folder))
    assert weights_of(one) == weights_of(other), "the resumed training is another one"
    return "ended at once, and resumed from the first epoch's checkpoint to the same weights"


@fault("more devices than documents in a batch")
def _more_devices(folder: Path) -> str:
    done = _on_two(folder, "one document")
    lines = [line for line in done.stderr.splitlines() if "evenly" in line]
    assert done.returncode and lines, done.stderr[-800:]
    return lines[0].split("ValueError: ")[-1]

"""Trainings of every model that are told to end, or killed, and gone on with.

    python benchmarks/faults/_kept.py begin|go-on MODEL FOLDER

is what a fault runs. `begin` trains the model to the end, then twice more, each time until it is
stopped from outside: by a signal that asks, and by one that does not. `go-on`, another process,
makes the same calls again. All three must come to the same weights and curves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lightning as L
import numpy as np
from _table import fault

SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")
FAMILIES = (
    "PETRI",
    "CLIP",
    "CrossModalAE",
    "SemiClipped",
    "PhenoSeq",
    "TIDE",
    "DINO",
    "MAE",
    "ImageRegressor",
    "Concepts",
    "GROOVE",
)
EPOCHS, PATIENCE = 3, 180.0


class Steps(L.Callback):
    """Counts steps; at one of them says so and waits until the signal has been sent.

    Parameters
    ----------
    at
        The step; None only counts.
    ready
        File that says to the other process that it is there.
    """

    def __init__(self, at: int | None = None, ready: Path | None = None) -> None:
        self.at, self.ready, self.n = at, ready, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.n += 1
        if self.n == self.at and self.ready is not None:
            self.ready.touch()
            until = time.monotonic() + PATIENCE
            while not self.ready.with_suffix(".sent").exists() and time.monotonic() < until:
                time.sleep(0.02)


def _train(family: str, steps: Steps, folder: Path | None) -> dict[str, Any]:
    """Train; digest of the weights, the curves, and the steps that were made."""
    import test_contract
    from kills import digest

    model = test_contract.built(family)
    test_contract.train(model, EPOCHS, callbacks=[steps], checkpoint=folder)
    state = model.module.state_dict()
    arrays = [np.nan_to_num(state[name].float().numpy()) for name in sorted(state)]
    curves = {n: frame.to_numpy(dtype=float).tolist() for n, frame in model.history.items()}
    return {"weights": digest(*arrays), "curves": curves, "steps": steps.n}


def begin(family: str, folder: Path) -> None:
    """The unbroken training, then one that is asked to end, then one that is killed."""
    whole = _train(family, Steps(), None)
    (folder / "whole.json").write_text(json.dumps(whole))
    # Past the middle: an epoch's checkpoint is there, and the next epoch is not at its end.
    at = whole["steps"] // 2 + 1
    try:
        _train(family, Steps(at, folder / "asked"), folder / "asked-kept")
    except KeyboardInterrupt as error:
        (folder / "asked.json").write_text(json.dumps(str(error)))
    _train(family, Steps(at, folder / "killed"), folder / "killed-kept")


def go_on(family: str, folder: Path) -> None:
    """The same calls again."""
    found = {}
    for name in ("asked", "killed"):
        found[name] = _train(family, Steps(), folder / f"{name}-kept")
    (folder / "gone-on.json").write_text(json.dumps(found))


def _process(part: str, family: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, part, family, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=(folder / f"{part}.txt").open("w"),
    )


def _send(process: subprocess.Popen, number: int, ready: Path) -> None:
    """Send a signal when the training is where it should be, and say that it was sent."""
    until = time.monotonic() + PATIENCE
    while not ready.exists():
        assert process.poll() is None, (ready.parent / "begin.txt").read_text()[-800:]
        assert time.monotonic() < until, f"{ready.name} was not reached"
        time.sleep(0.02)
    os.kill(process.pid, number)
    ready.with_suffix(".sent").touch()


@cache
def broken(family: str) -> dict[str, Any]:
    """Both ways to break a training of one model, in two processes; what came of it."""
    folder = Path(mkdtemp(prefix="fault-kept-"))
    asked = SIGNALS[FAMILIES.index(family) % len(SIGNALS)]
    process = _process("begin", family, folder)
    _send(process, getattr(signal, asked), folder / "asked")
    _send(process, signal.SIGKILL, folder / "killed")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    left = sorted(path.name for path in (folder / "asked-kept").rglob("*.ckpt"))
    after = _process("go-on", family, folder)
    assert after.wait(2 * PATIENCE) == 0, (folder / "go-on.txt").read_text()[-800:]
    files = {"whole": "whole", "message": "asked", "found": "gone-on"}
    read = {key: json.loads((folder / f"{name}.json").read_text()) for key, name in files.items()}
    return {**read, "folder": str(folder), "asked": asked, "left": left}


def _same(result: dict[str, Any], name: str) -> None:
    whole, found = result["whole"], result["found"][name]
    assert found["weights"] == whole["weights"], "the resumed training is another one"
    # Sums over an epoch that was broken are added in another order.
    assert found["curves"].keys() == whole["curves"].keys()
    for name, curve in whole["curves"].items():
        np.testing.assert_allclose(found["curves"][name], curve, rtol=1e-6, err_msg=name)
    assert found["steps"] < whole["steps"], "it began anew, and did not go on"


def asked(family: str, folder: Path) -> str:
    """The message names the checkpoint, which is there, and the same call goes on with it."""
    result = broken(family)
    message = result["message"].replace(result["folder"], "FOLDER")
    assert f"interrupted by {result['asked']}" in message, message
    assert result["left"] and any(name in message for name in result["left"]), result
    _same(result, "asked")
    return message


def killed(family: str, folder: Path) -> str:
    """Nothing is said; the same call goes on with the last checkpoint."""
    result = broken(family)
    _same(result, "killed")
    found, whole = result["found"]["killed"]["steps"], result["whole"]["steps"]
    return f"{found} of {whole} steps were made again"


for _number, _family in enumerate(FAMILIES):
    _signal = SIGNALS[_number % len(SIGNALS)]
    fault(f"{_signal} in a training of {_family}")(partial(asked, _family))
    fault(f"kill -9 in a training of {_family}")(partial(killed, _family))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"begin": begin, "go-on": go_on}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))

"""Checks whether a device can be used, without loading torch in this process."""

from __future__ import annotations

from sbrl.errors import UsageError
from sbrl.runtime.trial import TrialFailed, run_trial

DEVICE_SECONDS = 120.0  # time to load torch and wake up a GPU on a busy machine


def check_device(name: str) -> None:
    """Checks in another process whether learner.device can be used.

    Raises:
        UsageError: the device is absent, or does not work.
    """
    if name == "cpu":
        return
    try:
        run_trial("sbrl.networks.devices", name, limit_seconds=DEVICE_SECONDS)
    except TrialFailed as error:
        raise UsageError(f"learner.device={name} cannot be used: {error}; set learner.device=cpu") from None

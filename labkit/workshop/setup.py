"""What a notebook's first cell calls: checks, switches on widgets where that is needed, and says in a line what is ready."""

from __future__ import annotations

import sys


def setup(*, model: bool = True) -> None:
    """Check this machine for the notebooks and print one line that says what is ready.

    In Colab, custom widgets are switched on. model: bring the default model now, if it is not here.
    """
    import labkit
    from labkit.models import catalog, hardware, resolve, store

    if "google.colab" in sys.modules:
        from google.colab import output  # type: ignore[import-not-found, unused-ignore]

        output.enable_custom_widget_manager()
    if model and store.find(catalog.DEFAULT) is None:
        resolve.prepare(catalog.MODELS[catalog.DEFAULT])
    ready = f"{catalog.DEFAULT} ready" if store.find(catalog.DEFAULT) else f"{catalog.DEFAULT} not fetched yet"
    print(f"labkit {labkit.__version__} · {hardware.describe_device('auto')} · {ready}")

import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("labkit") is None:
    versions = {name: __import__(name).__version__ for name in ("torch", "numpy")}
    keep = [f"{name}=={version.split('+')[0]}" for name, version in versions.items()]
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    project = "labkit @ git+{{REPOSITORY}}"
    subprocess.run([*pip, *keep, project], check=True)

import labkit as lk

lk.setup()

"""One forward pass, observed: taps, the Trace, edits and patching."""

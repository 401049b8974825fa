"""One file per engine, each with `versions`, `prepare` and `load`; it runs in the engine's own environment.

`versions()` names what is measured. `prepare(folder, spec)` writes the model files that are missing there, and returns
what is worth recording. `load(folder, spec)` returns a `race.worker.Runner`.
"""

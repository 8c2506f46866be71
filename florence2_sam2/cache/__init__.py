"""Exports kept for the next start: what `serve --florence2 … --sam2 …` finds, or makes on first use.

    recipe      everything that decides what an export is (checkpoints, precision, code …) → the folder's name
    content     hashes of checkpoints in local folders, remembered by size and time
    store       the folder: entries, locks, where a branch of the hub was last seen
    exporting   the export in a process of its own, with progress, and nothing left behind when it ends early
    obtain      the whole road: names → revisions → entry, or export

    <cache>/<Florence-2>+<SAM2>-<form>-<hash>/repository/    a model repository, there only when it is whole
    <cache>/<Florence-2>+<SAM2>-<form>-<hash>/recipe.json    what it was made of
    <cache>/locks, <cache>/revisions, <cache>/contents            notes of this package

Neither torch, transformers nor the hub library is needed for what is in the cache, and no network.
"""

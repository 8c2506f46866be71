"""How fast the server is, beside transformers by hand and against what the machine can do.

python -m bench.speed [--full FOLDER]     (`scripts/bench` prepares the environment for it)
├── prepare            what is measured: the small checkpoints, or full-size ones with seeded weights
│   └── fixed_boxes    boxes in place of those that random weights do not find
├── pieces/            one measurement each; `--list` says what they are
├── bench              what they share: pictures, one server at a time, the reference beside it
├── worker             an object in a process of its own
│   ├── reference_side bench/reference.py, timed; `batched` is its form for several pictures
│   ├── direct         the server's pipeline in one process
│   ├── decoding       the decoder and its engine alone
│   ├── components     the five graphs with what one request feeds them; `work` counts their operations and bytes
│   └── peaks          what the machine can do at best
├── load               callers at once; `perf_analyzer` is NVIDIA's
├── agreement          both sides answer alike, or the run fails
├── memory             of the server's processes
├── figures, results   medians, ratios, rows with targets; `recording` runs a piece and keeps it
├── report, plots      tables, the section of bench/RESULTS.md, pictures
└── profile            where the time of a request goes (`scripts/profile`)

The small checkpoints write and find what they want. With full-size random weights both texts are given a length, 100
tokens each on both sides, and after its grounding has been generated a request goes on with eight fixed boxes: one call
of `segment` is one picture decoded, one vision encoder, 100 + 100 tokens, one SAM2 encoder, eight masks at full size.
The tokens are generated freely, and compared.
"""

"""What the server does under load, and over time.

python -m bench.load [--full FOLDER] [--url ADDRESS]     (`scripts/load` prepares the environment for it)
├── job                the server, its pictures, its capacity
├── parts/             one kind of load each
│   ├── concurrency    1 to 16 callers, by NVIDIA's perf_analyzer: no errors, the knee, what is left behind it
│   ├── rates          a quarter to four times of the capacity: goodput, refusals
│   ├── overload       200 calls at once on a queue of 32
│   ├── priorities     interactive calls beside bulk ones that saturate the server
│   └── slow_urls      calls beside twenty pictures that come a byte a second
├── wire, loops        calls as bytes, in open and closed loops; `sites` are small HTTP servers for URLs
├── judge              from calls to figures
└── report             tables, plots, the section of bench/RESULTS.md

python -m bench.load.soak [--seconds N]     (`scripts/soak`)
├── asked, mix         requests of every kind, and what each must end with; `dying` is a client that is killed
├── watch              memory, descriptors, threads, shared memory of the server's processes, once a second
└── trend              how fast a number grows

perf_analyzer 2.51.0, the newest that runs where the server does, ends at the first error and has no option to go on, so
what is refused cannot be measured with it: beyond the capacity calls come from an open loop of the project's own
(`loops.open_loop`). Below it both measure, one beside the other.
"""

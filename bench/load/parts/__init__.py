"""One kind of load each: `run(job)` gives a `Result`."""

"""Each has `run(job) -> Result`."""

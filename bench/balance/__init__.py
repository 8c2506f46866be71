"""Several real servers, behind nginx and behind the client's own round robin, while they die, come back, are restarted
and exchanged: what callers notice of it."""

"""A page to try the server on (extra `playground`)."""

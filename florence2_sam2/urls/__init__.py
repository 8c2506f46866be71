"""Pictures behind URLs, for server and client alike: what may be fetched, and how. Standard library only.

`rules` is what a side allows, `policy` decides, `fetch` fetches, `data_url` reads pictures that are inside their URL.
Nothing is imported here: `fetch` brings HTTP and TLS along, which most callers never need.
"""

"""Checkpoints on the Hugging Face hub: named, pinned, downloaded into the hub library's own cache, and verified.

    names       NAME@REVISION
    client      requests: endpoint, token, proxies, redirects, and one line for each way they fail
    listing     which files of a repository an export reads, with their hashes
    store       the hub library's folder of downloaded files
    download    the files that are missing, resumed after a break, verified before they get their name
    progress    a bar on a terminal, lines elsewhere

This speaks HTTP with the standard library. huggingface_hub, which transformers brings, checks the size of a plain HTTP
download but not its hash, starts an interrupted one again from its beginning (2.4), and is not there where only the
`server` extra is installed. The variables it reads (HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_HUB_OFFLINE) mean
the same here, and what either of the two has downloaded the other one finds.
"""

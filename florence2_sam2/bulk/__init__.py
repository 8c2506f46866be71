"""Millions of pictures through running servers, on Ray: `florence2-sam2 bulk`. Needs the extra `bulk`.

    source      which pictures there are (a folder, Parquet, WebDataset), in an order that stays
    plan        written once into the output folder: shards of pictures, settings, the models that answer
    run         the driver: plan or go on, then hand the shards that are missing to Ray
    cluster     Ray: a pool of workers that take a shard each
    worker      one worker: a client, and one shard after the other
    shard       the pictures of a shard, some at once → one file, in its place all at once or not at all
    calls, pace one picture's call, tried again while servers are away; how many at once

A shard whose file is there is never done again, one whose file is not there is done as a whole. That is all that makes
sure of one result for each picture, whatever dies.
"""

"""Text generation: exact greedy and beam search, and a decoder whose rows requests share.

`settings` what a request asks for, `ngrams` the repetition rule, `search` which tokens come next, `cache` and
`decoder` the ONNX graphs and their keys and values, `waiting` who comes next, `engine` the loop over it all.
"""

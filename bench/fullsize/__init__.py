"""Full-size checkpoints with seeded weights, through export and server, step by step: time, memory, exactness.

python -m bench.fullsize FOLDER     (`scripts/fullsize` prepares the environment for it)
├── sizes         the released configurations, as data
├── tokenizer     a tokenizer with the released layout of ids
├── checkpoints   both together as `from_pretrained` folders
├── steps         one step: a process of its own, measured, and not repeated when it is finished
├── precision     an fp16 export beside the fp32 one, graph by graph
├── serving       a picture through a real server, and through bench/reference.py
└── table         all of it as markdown
"""

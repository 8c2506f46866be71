"""How many servers a load needs, and what a GPU could give.

python -m bench.sizing …     (`scripts/sizing` prepares the environment for it)
├── curve        seconds of a call among n others, fitted to measured throughput
├── model        one server as a queue: chances, means, refusals, in closed form
├── simulate     the same call by call, for percentiles, and for several servers behind a balancer
├── servers      the highest rate that keeps a limit, and how many servers a rate needs
├── measured     what scripts/load and scripts/bench have kept
├── check        what the model predicts beside it
├── scale        one and two real servers, a core each
├── graphs       operations, bytes and nodes of full-size graphs (`work.json`)
├── gpus, budget data sheets, and time and memory of a request estimated from them
├── sanity       the same formula on the CPU whose peaks and times are known
└── report       the section of bench/RESULTS.md, its plot, the tables of docs/deployment.md
"""

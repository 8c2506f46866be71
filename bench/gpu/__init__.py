"""What could not be seen without a GPU, as one command for a machine that has one: `scripts/gpu`.

__main__   what runs, and where its results go
job        the exports that are measured, and the provider that they run on
machine    what nvidia-smi says
side       an object in a process of its own, whose sessions run on one provider
parts/     what is checked and measured, a part each
"""

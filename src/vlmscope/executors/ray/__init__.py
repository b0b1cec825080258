"""The executor on Ray: one model a GPU, rows handed out as workers ask for them.

- ``driver``: the loop of the process that started the job
- ``cluster``: connecting to Ray, and how many models it has room for
- ``scheduler``: which worker does which row
- ``actors``: starting, calling and replacing workers
- ``worker``: what runs in an actor: one model and the rows it is sent
"""

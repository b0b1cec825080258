"""Faults, really done: processes are killed, disks filled, files damaged, models hung.

``python -m faults`` does each many times and prints the table of ``docs/reliability.md``; the tests
under ``tests/faults`` do one of each sort once.

setting    a table, a tiny model, an undisturbed run; what "equal row for row" means
child      one vlmscope process that can be killed
poison     faults inside the model
killing, disks, rows, scale    the faults
"""

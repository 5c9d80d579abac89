"""Several worker processes on one machine: `server.workers`.

The process that was started becomes the owner (`owner.py`): it has the engines, and whatever has to be one for all
workers. It takes connections and gives them to the workers in turn. A worker (`worker.py`) is the gateway as it is with
one process, but for what is lent to it (`lent.py`). They speak `messages.py` over a pair of sockets, which is also the
leash: when either end closes, the other knows at once.
"""

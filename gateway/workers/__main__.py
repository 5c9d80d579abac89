"""The program of a worker, for its owner to start."""

from gateway.workers.worker import main

if __name__ == "__main__":
    main()

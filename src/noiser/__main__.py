"""`python -m noiser`, for launchers that start modules: `torchrun -m noiser run ...`."""

from noiser.cli import main

if __name__ == "__main__":
    main()

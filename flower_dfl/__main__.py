"""``python -m flower_dfl`` is the ``flower-dfl`` command."""

from flower_dfl.cli.app import main

if __name__ == "__main__":
    main()

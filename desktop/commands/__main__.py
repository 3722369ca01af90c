"""`python -m desktop.commands` is `flowbrush`."""

from desktop.commands.main import main

if __name__ == "__main__":
    main()

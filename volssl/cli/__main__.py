"""`python -m volssl.cli`."""

from __future__ import annotations

from volssl.cli import main

if __name__ == "__main__":
    main()

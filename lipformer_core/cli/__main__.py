"""`python -m lipformer_core.cli`, and `accelerate launch -m lipformer_core.cli train …`."""

from . import main

if __name__ == "__main__":
    main()

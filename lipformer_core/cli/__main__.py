"""`python -m lipformer_core.cli`, and `accelerate launch -m lipformer_core.cli train …`."""

from . import main

main()

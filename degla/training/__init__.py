"""One training run: the LightningModule, its callbacks, and how a config becomes them."""

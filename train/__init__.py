"""Training, evaluation and data of AVSAC: `python -m train configs/…`; part of the checkout, not of the wheel."""

"""What tests of passes over the weights share."""

from __future__ import annotations

import pytest

from harness.toolbox import products


@pytest.fixture(params=["as it comes", "all by oneDNN"])
def either_product(request, monkeypatch):
    """As it comes, where nearly all products of small models are torch's; and all by oneDNN, batches filled up."""
    if request.param == "all by oneDNN":
        if not products.available():
            pytest.skip("torch has no oneDNN here, or the processor no AVX-512")
        monkeypatch.setattr(products, "SMALLEST", 1)
        monkeypatch.setattr(products, "FEWEST_ROWS", 1)
        monkeypatch.setattr(products, "FEWEST_STEADY", 16)
